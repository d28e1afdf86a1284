"""Task and final accuracy of the benchmarks."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from budgetnas.architecture import Architecture, parse_architecture
from budgetnas.data import Data
from budgetnas.errors import InputError
from budgetnas.experiments.bench.loops import Loop
from budgetnas.space.recipe import Recipe
from budgetnas.space.specification import first_problem
from budgetnas.training import RuntimeConfig, Task
from budgetnas.training.device import Normaliser, statistics, to_device
from budgetnas.training.evaluation import evaluate


def network_for(data: Data, blocks: str, widths: str, stem_width: int) -> Architecture:
    """Return the described network for images and classes of `data`."""
    return parse_architecture(
        blocks,
        widths,
        stem_width=stem_width,
        in_channels=data.in_channels,
        size=data.resolution,
        classes=len(data.classes),
    )


def sgd_recipe(epochs: int, **fields: Any) -> Recipe:
    """Return a recipe of SGD with a cosine schedule over all epochs.

    Raises:
        InputError: If a field is invalid.
    """
    try:
        return Recipe(optimizer="sgd", epochs=epochs, t_max=epochs, **fields)
    except ValidationError as error:
        raise InputError("recipe", None, first_problem(error)) from None


def task_with(data: Data, architecture: Architecture, recipe: Recipe, runtime: RuntimeConfig, seed: int = 0) -> Task:
    """Return the training of a network on the training images of `data`, with its validation images for evaluation."""
    train, evaluation = (to_device(images, runtime.torch_device) for images in (data.train, data.validation))
    return Task(architecture, recipe, seed, train, evaluation, statistics(data.train))


def final_accuracy(loop: Loop, task: Task, runtime: RuntimeConfig) -> float:
    """Train with `loop`; return the validation accuracy after the last epoch."""
    run = loop.start(task)
    for epoch in range(1, task.recipe.epochs + 1):
        for _ in run.steps(epoch):
            pass
    return evaluate(run.network, task.evaluation, Normaliser.of(task.normalisation, runtime.torch_device), runtime)[1]
