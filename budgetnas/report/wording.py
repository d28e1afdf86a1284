"""A study's specification and the caveats on its figures, in words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from budgetnas.errors import plural
from budgetnas.metrics import ACCURACY
from budgetnas.report.values import RankedRun, Summary
from budgetnas.space.recipe import Extra, OptimizerRange, RecipeSpace
from budgetnas.space.search_space import SearchSpace
from budgetnas.space.specification import StudySpecification

_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
_EXTRAS = {
    "nesterov": "Nesterov's momentum",
    "label_smoothing": "label smoothing",
    "decay_norm_and_bias": "decay of norms and biases",
    "warmup_epochs": "epochs of warm-up",
    "ema_decay": "average of the weights with decay",
    "cutout": "cutout of side",
    "schedule": "rate set every",
    "decoupled_decay": "decoupled decay for Adam",
    "class_weights": "class weights",
}


def summary(specification: StudySpecification) -> Summary:
    """Return the specification in words."""
    inputs, recipes = specification.inputs, specification.recipes
    channels = plural(inputs.in_channels, "channel")
    return Summary(
        max_params=specification.max_params,
        limits=specification.budget.limits,
        data=specification.data.label(),
        images=f"{inputs.size} x {inputs.size} pixels, {channels}, {inputs.classes} classes",
        space=_space(specification.space),
        space_size=specification.space.size(),
        recipe=_fixed_recipe(recipes),
        optimizers=tuple(_optimizer(name, recipes.range_of(name)) for name in recipes.optimizers),
        seeds=specification.seeds,
        objective=specification.objective,
    )


def notices(specification: StudySpecification, ranking: Sequence[RankedRun]) -> tuple[str, ...]:
    """Return the caveats on the study's figures, in full sentences."""
    data = specification.data
    sentences = []
    if data.is_own:
        sentences.append(f"Own images ({data.name}): the accuracies say nothing about any published data set.")
    if data.subset is not None:
        sentences.append(f"Reduced train images: every network was trained on {data.subset:,} images only.")
    if data.subset_eval is not None:
        few = f"Reduced validation images: accuracies come from {data.subset_eval:,} images"
        is_plain = specification.measure == ACCURACY
        sentences.append(_few_evaluated(few, data.subset_eval, ranking) if is_plain else f"{few}.")
    if ranking:
        sentences.append(_noise(ranking))
    return tuple(sentences)


def environment_line(environment: str) -> str:
    """Return a record's environment, JSON or any other text, on a single line."""
    try:
        values = json.loads(environment)
    except json.JSONDecodeError:
        return environment
    if not isinstance(values, dict):
        return environment
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value is not None)


def _few_evaluated(few: str, images: int, ranking: Sequence[RankedRun]) -> str:
    text = f"{few}, each worth {100 / images:.2g} points"
    if not ranking:
        return f"{text}."
    error = math.sqrt(ranking[0].accuracy * (1 - ranking[0].accuracy) / images)
    return f"{text}; the sampling of these images alone gives the best accuracy a standard error of {100 * error:.2g}."


def _noise(ranking: Sequence[RankedRun]) -> str:
    number = sum(len(candidate.trainings) for candidate in ranking)
    repeated = sum(bool(candidate.repeats) for candidate in ranking)
    trainings = plural(number, "complete run")
    if not repeated:
        text = f"n = {trainings}, one training seed per candidate"
    else:
        candidates = plural(len(ranking), "candidate")
        text = f"n = {trainings} of {candidates}, {repeated} of them with more than one training seed"
    return (
        f"{text}: accuracies differ between seeds, and the best of many is partly luck. Small differences between "
        "candidates may not be real."
    )


def _space(space: SearchSpace) -> str:
    stem = f"{space.stem_kernel}x{space.stem_kernel}"
    wide = "as wide as the first stage" if space.stem_width is None else f"{space.stem_width} wide"
    return (
        f"{space.describe()}, each stage with one of {len(space.widths)} "
        f"widths from {space.widths[0]} to {space.widths[-1]} channels; stem {stem}, {wide}"
    )


def _fixed_recipe(recipes: RecipeSpace) -> str:
    augmentation = recipes.augmentation
    padding = augmentation.crop_padding
    changes = [f"random crops after {plural(padding, 'pixel')} of padding"] if padding else []
    changes += ["mirroring"] if augmentation.flip else []
    changes += [f"rotation up to {augmentation.rotation:g} degrees"] if augmentation.rotation else []
    changes += augmentation.describe()
    epochs, changed = plural(recipes.epochs, "epoch"), ", ".join(changes) or "no augmentation"
    line = f"{epochs}, cosine schedule to zero, batch {recipes.batch}; {changed}"
    return "; ".join((line, *_extras(recipes)))


def _extras(recipes: RecipeSpace) -> list[str]:
    """Return the extra parts of the recipe that are on or searched."""
    usual = RecipeSpace().extras()
    return [
        f"{_EXTRAS[name]} {'one of ' if len(choices) > 1 else ''}{', '.join(map(_extra, choices))}"
        for name, choices in recipes.extras().items()
        if choices != usual[name]
    ]


def _extra(value: Extra) -> str:
    if isinstance(value, str):
        return value
    return ("off", "on")[value] if isinstance(value, bool) else f"{value:g}"


def _optimizer(name: str, ranges: OptimizerRange) -> str:
    low, high = ranges.learning_rate
    decays = ", ".join(f"{value:g}" for value in ranges.weight_decay)
    return f"{_OPTIMIZERS[name]}: learning rate {low:g} to {high:g} (log scale), weight decay one of {decays}"
