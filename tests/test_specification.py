from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from budgetnas.architecture.budget import Budget
from budgetnas.data.identity import DataIdentity
from budgetnas.errors import InputError
from budgetnas.space.recipe import Augmentation, RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import (
    OBJECTIVES,
    ChoiceProtocol,
    StudySpecification,
    first_problem,
    read_specification,
)

DATA = DataIdentity(name="digits", content_hash="ab" * 32, subset=None, subset_eval=None, split_seed=0, resolution=8)
SPECIFICATION = StudySpecification(
    max_params=5_000_000,
    space=SearchSpace(),
    recipes=RecipeSpace(),
    data=DATA,
    inputs=InputShape(in_channels=1, size=8, classes=10),
)


def changed(**values: Any) -> StudySpecification:
    return StudySpecification.model_validate(SPECIFICATION.model_dump() | values)


def test_a_specification_survives_a_json_round_trip() -> None:
    one = changed(space=SearchSpace(stem_width=16, strides=(1, 1, 2, 2)), recipes=RecipeSpace(epochs=3), seeds=())
    again = read_specification(one.canonical_json())
    assert again == one
    assert again.digest == one.digest
    again.require_same(one, "one")


def test_without_further_limits_a_specification_is_unchanged() -> None:
    """Else every study stored until then would be another one."""
    assert "max_macs" not in SPECIFICATION.canonical_json() and "max_activations" not in SPECIFICATION.canonical_json()
    assert "bytes" not in SPECIFICATION.canonical_json()
    assert read_specification(SPECIFICATION.canonical_json()).budget == Budget(5_000_000)


def test_limits_are_part_of_a_specification() -> None:
    one = changed(max_macs=600, max_activations=70)
    assert one.budget == Budget(5_000_000, 600, 70)
    assert read_specification(one.canonical_json()) == one
    assert len({one.digest, SPECIFICATION.digest, changed(max_macs=600).digest}) == 3
    chip = changed(max_weight_bytes=78_745, max_ram_bytes=65_536)
    assert chip.budget == Budget(5_000_000, max_weight_bytes=78_745, max_ram_bytes=65_536)
    assert read_specification(chip.canonical_json()) == chip
    with pytest.raises(InputError, match=r"--max-ram-kb was 64, now 48.5; --max-weights-kb was 76.9, now none"):
        changed(max_ram_bytes=49_664).require_same(chip, "one")
    with pytest.raises(InputError, match=r"--max-macs was 600, now none"):
        changed(max_activations=70).require_same(one, "one")
    with pytest.raises(InputError, match="max_macs 0: input should be greater than or equal to 1"):
        read_specification(one.canonical_json().replace('"max_macs":600', '"max_macs":0'))


def test_the_derived_properties() -> None:
    assert SPECIFICATION.budget == Budget(5_000_000)
    assert SPECIFICATION.candidates.inputs == SPECIFICATION.inputs
    assert SPECIFICATION.seeds == ("v1-sgd", "v1-adam", "v2-sgd", "v2-adam")


@pytest.mark.parametrize(
    ("values", "argument", "told"),
    [
        ({"max_params": 10}, "--budget", "--budget was 5000000, now 10"),
        ({"max_macs": 600_000_000}, "--max-macs", "--max-macs was none, now 600000000"),
        ({"max_activations": 600_000}, "--max-activations", "--max-activations was none, now 600000"),
        ({"recipes": RecipeSpace(epochs=3)}, "--epochs", "--epochs was 20, now 3"),
        ({"recipes": RecipeSpace(batch=64)}, "--batch-size", "--batch-size was 128, now 64"),
        ({"data": DATA.model_copy(update={"name": "cifar10"})}, "--data", "--data was digits, now cifar10"),
        ({"data": DATA.model_copy(update={"content_hash": "cd"})}, "--data", "now cd"),
        ({"data": DATA.model_copy(update={"subset": 500})}, "--subset", "--subset was none, now 500"),
        ({"data": DATA.model_copy(update={"subset_eval": 50})}, "--subset-eval", "--subset-eval was none, now 50"),
        ({"data": DATA.model_copy(update={"split_seed": 1})}, "--split-seed", "--split-seed was 0, now 1"),
        ({"data": DATA.model_copy(update={"resolution": 16})}, "--resolution", "--resolution was 8, now 16"),
        ({"space": SearchSpace(block="bottleneck")}, "space.block", "space.block was basic, now bottleneck"),
        ({"seeds": ("v2-sgd",)}, "seeds", "now ['v2-sgd']"),
        (
            {"objective": OBJECTIVES["balanced-accuracy"]},
            "--objective",
            "--objective was validation accuracy after the last epoch, now balanced validation accuracy after",
        ),
        (
            {"choice": ChoiceProtocol(finalists=3, seeds=2)},
            "--finalists",
            "--finalists was none, now 3; --final-seeds was none, now 2",
        ),
        (
            {"choice": ChoiceProtocol(final_epochs=200)},
            "--final-epochs",
            "--final-epochs was none, now 200; --finalists was none, now 3",
        ),
        (
            {"recipes": RecipeSpace(augmentation=Augmentation(flip=False))},
            "recipes.augmentation.flip",
            "recipes.augmentation.flip was True, now False",
        ),
    ],
)
def test_a_difference_is_named_as_the_user_typed_it(values: dict[str, Any], argument: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        changed(**values).require_same(SPECIFICATION, "one")
    assert raised.value.argument == argument
    assert told in str(raised.value)
    assert "study 'one' was created with another specification" in str(raised.value)
    assert "another name with --study" in str(raised.value)


def test_every_difference_is_named() -> None:
    other = changed(
        max_params=300_000,
        recipes=RecipeSpace(epochs=3, batch=64, nesterov=True),
        data=DATA.model_copy(update={"subset": 500, "split_seed": 9}),
        space=SearchSpace(widths=(8, 16)),
        seeds=(),
    )
    with pytest.raises(InputError) as raised:
        other.require_same(SPECIFICATION, "one")
    for name in (
        "--budget",
        "--epochs",
        "--batch-size",
        "recipes.nesterov",
        "--subset",
        "--split-seed",
        "space.widths",
    ):
        assert f"{name} was " in str(raised.value)
    assert str(raised.value).count(" was ") - 1 == 8
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Invalid JSON"),
        ("{}", "max_params: is missing"),
        (SPECIFICATION.canonical_json().replace('"version":2', '"version":3'), "version 3: input should be 2"),
        (SPECIFICATION.canonical_json().replace('"max_params":5000000', '"max_params":0'), "max_params 0: "),
        (
            SPECIFICATION.canonical_json().replace('"seeds":["v1-sgd"', '"seeds":["v9"'),
            "seeds 'v9': is not a network and an optimiser",
        ),
        (
            SPECIFICATION.canonical_json().replace('"version":2', '"version":2,"colour":"red"'),
            "colour 'red': there is no",
        ),
    ],
)
def test_a_stored_specification_that_cannot_be_read(text: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        read_specification(text)
    assert raised.value.argument == "--study"
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"blocks": [[2, 1]]}, "blocks must be [fewest, most] within 1 to 200, not [2, 1]"),
        (
            {"blocks": [[1, "x"]]},
            "blocks.0.1 'x': must be a whole number",
        ),
        ({"widths": [16, 8], "blocks": 3}, "blocks 3: must be a list"),
        ({"depth": 3}, "depth 3: there is no such key"),
    ],
)
def test_the_first_problem_is_reported_in_one_line(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as raised:
        SearchSpace.model_validate(values)
    assert first_problem(raised.value) == told


def test_the_same_images_in_a_renamed_folder_are_refused_with_the_old_name() -> None:
    stored = changed(data=DATA.model_copy(update={"name": "folder-photos"}).model_dump())
    renamed = changed(data=DATA.model_copy(update={"name": "folder-pictures"}).model_dump())
    with pytest.raises(InputError, match="the images are the same: name their folder 'photos' again"):
        renamed.require_same(stored, "s")
