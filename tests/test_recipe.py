from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from budgetnas.space.recipe import Augmentation, Normalisation, OptimizerRange, Recipe, RecipeSpace

V2_SGD = Recipe(optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, epochs=60, t_max=60)


def test_the_json_and_digest_of_a_recipe_never_change() -> None:
    assert V2_SGD.canonical_json() == (
        '{"augmentation":{"crop_padding":4,"flip":true,"rotation":0.0},"batch":128,"epochs":60,"learning_rate":0.1,'
        '"momentum":0.9,"nesterov":false,"normalisation":null,"optimizer":"sgd","t_max":60,"weight_decay":0.0005}'
    )
    assert V2_SGD.digest == "be0f280908624965"


@pytest.mark.parametrize("rate", [0.1, 1 / 3, 5e-324, 100.0, 0.1 + 2**-56])
def test_a_recipe_survives_a_json_round_trip(rate: float) -> None:
    recipe = V2_SGD.model_copy(
        update={"learning_rate": rate, "normalisation": Normalisation(mean=(rate,), std=(rate,)), "ema_decay": 0.9}
    )
    again = Recipe.model_validate_json(recipe.canonical_json())
    assert again == recipe
    assert again.digest == recipe.digest


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adam"},
        {"learning_rate": math.nextafter(0.1, 1)},
        {"weight_decay": 0.0},
        {"momentum": 0.8},
        {"nesterov": True},
        {"epochs": 61},
        {"t_max": 200},
        {"batch": 64},
        {"augmentation": Augmentation(flip=False)},
        {"augmentation": Augmentation(rotation=1)},
        {"normalisation": Normalisation(mean=(0.5,), std=(0.5,))},
        {"augmentation": Augmentation(cutout=16)},
        {"label_smoothing": 0.1},
        {"decay_norm_and_bias": False},
        {"warmup_epochs": 1},
        {"ema_decay": 0.99},
        {"schedule": "step"},
        {"decoupled_decay": True},
        {"class_weights": "balanced"},
        {"augmentation": Augmentation(padding="reflect")},
        {"augmentation": Augmentation(trivial_augment=True)},
        {"augmentation": Augmentation(erasing=0.1)},
        {"augmentation": Augmentation(mixup=0.2)},
        {"augmentation": Augmentation(cutmix=1.0)},
    ],
)
def test_every_field_is_part_of_the_digest(change: dict[str, Any]) -> None:
    assert V2_SGD.model_copy(update=change).digest != V2_SGD.digest


def test_a_whole_number_and_the_same_fraction_have_one_digest() -> None:
    assert Recipe(optimizer="sgd", learning_rate=1, epochs=1, t_max=1).digest == (
        Recipe(optimizer="sgd", learning_rate=1.0, epochs=1, t_max=1).digest
    )


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "lion"},
        {"learning_rate": 0},
        {"learning_rate": -0.1},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"weight_decay": -1e-4},
        {"weight_decay": math.nan},
        {"momentum": 1.0},
        {"epochs": 0},
        {"epochs": True},
        {"learning_rate": True},
        {"augmentation": {"rotation": True}},
        {"t_max": 0},
        {"batch": 1},
        {"batch": 2.5},
        {"augmentation": {"crop_padding": -1}},
        {"augmentation": {"rotation": 181}},
        {"normalisation": {"mean": (0.0,), "std": (0.0,)}},
        {"colour": "red"},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"label_smoothing": math.nan},
        {"warmup_epochs": -1},
        {"warmup_epochs": 0.5},
        {"warmup_epochs": 60},
        {"ema_decay": 1.0},
        {"ema_decay": -0.1},
        {"ema_decay": math.nan},
        {"augmentation": {"cutout": -1}},
        {"augmentation": {"cutout": 2.5}},
        {"augmentation": {"padding": "edge"}},
        {"augmentation": {"erasing": 1.1}},
        {"augmentation": {"mixup": -0.1}},
        {"augmentation": {"cutmix": math.inf}},
        {"schedule": "batch"},
    ],
)
def test_recipes_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(V2_SGD.model_dump() | change)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"optimizers": ("sgd", "sgd")}, "optimizers names an optimiser twice"),
        ({"optimizers": ()}, "at least 1 item"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum above 0"),
        ({"nesterov": (False, True), "momentum": 0.0}, "nesterov needs a momentum above 0"),
        ({"ema_decay": (0.9, 0.0, 0.9)}, "ema_decay names a value twice"),
        ({"label_smoothing": ()}, "at least 1 item"),
        ({"schedule": "batch"}, "'epoch' or 'step'"),
        ({"schedule": ("step", "step")}, "schedule names a value twice"),
        ({"label_smoothing": (0.0, 1.0)}, "less than 1"),
        ({"batch": True}, "must be a number, not true"),
        ({"label_smoothing": [True, 0.1]}, "must be a number, not"),
        ({"warmup_epochs": (0, 2), "epochs": 2}, "warmup_epochs must be below epochs, 2, not 2"),
        ({"augmentation": Augmentation(cutout=8)}, "must be 0, not 8: write cutout = 8 next to augmentation"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RecipeSpace(**values)


@pytest.mark.parametrize(
    ("rates", "decays", "told"),
    [
        ((0.1, 0.01), (0.0,), r"learning_rate must be \[lowest, highest\], not \[0.1, 0.01\]"),
        ((0.01, 0.1), (0.0, 0.0), "weight_decay names a value twice"),
        ((0.01, 0.1), (), "at least 1 item"),
        ((0.0, 0.1), (0.0,), "greater than 0"),
    ],
)
def test_an_optimiser_s_range_is_checked(rates: tuple[float, float], decays: tuple[float, ...], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        OptimizerRange(learning_rate=rates, weight_decay=decays)


def test_a_drawn_recipe_has_everything_of_its_space() -> None:
    space = RecipeSpace(momentum=0.5, nesterov=True, epochs=9, batch=32, augmentation=Augmentation(crop_padding=2))
    assert space.recipe("adam", 0.01, 1e-4) == Recipe(
        optimizer="adam",
        learning_rate=0.01,
        weight_decay=1e-4,
        momentum=0.5,
        nesterov=True,
        epochs=9,
        t_max=9,
        batch=32,
        augmentation=Augmentation(crop_padding=2),
    )


def test_its_description_is_a_line() -> None:
    assert V2_SGD.describe() == "SGD lr 0.1 wd 0.0005, 60 epochs, batch 128"
    adam = V2_SGD.model_copy(update={"optimizer": "adam"})
    assert adam.describe().startswith("Adam lr 0.1 ")
    assert adam.model_copy(update={"decoupled_decay": True}).describe().startswith("AdamW lr 0.1 wd 0.0005, ")
    extras = {"nesterov": True, "label_smoothing": 0.1, "decay_norm_and_bias": False, "warmup_epochs": 3}
    everything = extras | {"ema_decay": 0.995, "augmentation": Augmentation(cutout=16)}
    assert V2_SGD.model_copy(update=everything).describe() == (
        "SGD lr 0.1 wd 0.0005, 60 epochs, batch 128, Nesterov, label smoothing 0.1, cutout 16, "
        "no decay of norms and biases, warm-up 3, EMA 0.995"
    )
