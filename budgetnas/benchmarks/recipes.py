"""What each extra of the recipe does to the accuracy: paired over training seeds, with intervals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from budgetnas.architecture import Architecture, count, default_strides
from budgetnas.benchmarks.machine import machine
from budgetnas.benchmarks.training.loops import OurLoop
from budgetnas.data import Data, DataRequest, load_data
from budgetnas.data.device import Normaliser, to_device
from budgetnas.data.device import statistics as normalisation_of
from budgetnas.errors import InputError
from budgetnas.intervals import Interval, mean_interval
from budgetnas.recipe import Augmentation, Recipe
from budgetnas.train import Setup, Task, choose_setup
from budgetnas.train.engine import threads
from budgetnas.train.evaluation import evaluate
from budgetnas.train.setup import device_name

BASE: Final = "base"
TOGETHER: Final = "together"
Accuracies = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Trainings:
    """Trainings of one network on the same images.

    Attributes:
        task: What is trained, with the base recipe.
        setup: Where and in which precision.
        recipes: The recipes by name, the base among them.
    """

    task: Task
    setup: Setup
    recipes: Mapping[str, Recipe]

    def accuracies(self, names: Sequence[str], seeds: range) -> dict[str, list[float]]:
        """Return the validation accuracies after the last epoch, seed by seed."""
        found: dict[str, list[float]] = {name: [] for name in names}
        with threads(self.setup.threads):
            for seed in seeds:
                for name in names:
                    found[name].append(self._accuracy(self.recipes[name], seed))
                    typer.echo(f"seed {seed}, {name}: {found[name][-1]:.2%}", err=True)
        return found

    def _accuracy(self, recipe: Recipe, seed: int) -> float:
        run = OurLoop(self.setup).start(replace(self.task, recipe=recipe, seed=seed))
        for epoch in range(1, recipe.epochs + 1):
            for _ in run.steps(epoch):
                pass
        normalise = Normaliser.of(self.task.normalisation, self.setup.torch_device)
        return evaluate(run.network, self.task.evaluation, normalise, self.setup)[1]


def extras_of(base: Recipe, resolution: int) -> dict[str, dict[str, Any]]:
    """Return what each extra changes in `base`, for images of that side: the values their authors use."""
    return {
        "nesterov": {"nesterov": True},
        "no decay of norms and biases": {"decay_norm_and_bias": False},
        "label smoothing 0.1": {"label_smoothing": 0.1},
        f"cutout {resolution // 2}": {"augmentation": base.augmentation.model_dump() | {"cutout": resolution // 2}},
        "warm-up 1": {"warmup_epochs": 1},
        "EMA 0.99": {"ema_decay": 0.99},
    }


def differences(accuracies: Accuracies) -> dict[str, Interval]:
    """Return the mean difference of each recipe to the base in shares of 1, seed by seed."""
    base = accuracies[BASE]
    return {
        name: mean_interval([one - other for one, other in zip(values, base, strict=True)])
        for name, values in accuracies.items()
        if name != BASE
    }


def helpful(found: Mapping[str, Interval]) -> list[str]:
    """Return the extras whose interval lies above 0."""
    return [name for name, one in found.items() if one.low > 0]


def measure(
    data: Annotated[str, typer.Option(help="cifar10, ... or folder:DIR.", envvar="BUDGETNAS_DATA")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="Where archives lie.", envvar="BUDGETNAS_DATA_DIR")] = None,
    subset: Annotated[int | None, typer.Option(help="Training images, stratified.", show_default="all")] = None,
    subset_eval: Annotated[int | None, typer.Option(help="Validation images.", show_default="all")] = None,
    blocks: Annotated[str, typer.Option(help="Blocks of each stage.")] = "1,1,1",
    widths: Annotated[str, typer.Option(help="Width of each stage.")] = "8,16,32",
    stem_width: Annotated[int, typer.Option(help="Channels of the stem.")] = 8,
    epochs: Annotated[int, typer.Option(help="Epochs of each training, at least 2.", min=2)] = 10,
    batch: Annotated[int, typer.Option(help="Images in one optimiser step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Highest rate.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 5e-4,
    seeds: Annotated[int, typer.Option(help="Trainings with each recipe, at least 2.", min=2)] = 6,
    first_seed: Annotated[int, typer.Option(help="Training seed of the first.", min=0)] = 0,
    extras: Annotated[str | None, typer.Option(help="Which extras, with commas between.", show_default="all")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bf16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value.")] = False,
) -> None:
    """Train a network with the base recipe and with each extra alone, then with those together that helped.

    An extra helped if its interval lies above 0. Chosen so, its own figure is too good; together they are trained
    beside the base with fresh seeds.
    """
    setup = choose_setup(device, precision)
    loaded = load_data(DataRequest(name=data, data_dir=data_dir, subset=subset, subset_eval=subset_eval))
    base = Recipe(
        optimizer="sgd",
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        epochs=epochs,
        t_max=epochs,
        batch=batch,
        augmentation=Augmentation(crop_padding=loaded.resolution // 8, flip=loaded.flip),
    )
    changes = _asked(extras_of(base, loaded.resolution), extras)
    recipes = {BASE: base} | {name: _changed(base, change) for name, change in changes.items()}
    task = _task(_architecture(loaded, blocks, widths, stem_width), base, loaded, setup)
    fresh = first_seed + seeds
    alone = Trainings(task, setup, recipes).accuracies(list(recipes), range(first_seed, fresh))
    chosen = helpful(differences(alone))
    together: dict[str, list[float]] = {}
    if chosen:
        both = {BASE: base, TOGETHER: _changed(base, *(changes[name] for name in chosen))}
        together = Trainings(task, setup, both).accuracies(list(both), range(fresh, fresh + seeds))
    if as_json:
        typer.echo(json.dumps({"alone": _plain(alone), "chosen": chosen, "together": _plain(together)}))
        return
    typer.echo(
        f"{task.architecture.describe()}, {count(task.architecture).params:,} parameters, {base.describe()}; "
        f"{loaded.identity.name}: {len(task.fit):,} images to train with, {len(task.evaluation):,} to validate"
    )
    _print(f"seeds {first_seed} to {fresh - 1}", alone)
    typer.echo(f"helped: {', '.join(chosen) or 'none'}")
    if together:
        _print(f"together, seeds {fresh} to {fresh + seeds - 1}", together)
    typer.echo(
        f"{device_name(setup.torch_device)}, {setup.precision}, {setup.threads} threads; {machine()}; "
        f"torch {torch.__version__}"
    )


def _asked(changes: dict[str, dict[str, Any]], names: str | None) -> dict[str, dict[str, Any]]:
    chosen = list(changes) if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in changes:
            raise InputError("--extras", name, f"must be one or more of {', '.join(changes)}")
    return {name: changes[name] for name in chosen}


def _architecture(loaded: Data, blocks: str, widths: str, stem_width: int) -> Architecture:
    stages = tuple(int(one) for one in blocks.split(","))
    return Architecture(
        stages,
        tuple(int(one) for one in widths.split(",")),
        default_strides(len(stages)),
        stem_width=stem_width,
        in_channels=loaded.in_channels,
        size=loaded.resolution,
        classes=len(loaded.classes),
    )


def _task(architecture: Architecture, recipe: Recipe, loaded: Data, setup: Setup) -> Task:
    fit, evaluation = (to_device(images, setup.torch_device) for images in (loaded.train, loaded.validation))
    return Task(architecture, recipe, 0, fit, evaluation, normalisation_of(loaded.train))


def _changed(base: Recipe, *changes: Mapping[str, Any]) -> Recipe:
    values = base.model_dump()
    for change in changes:
        values |= change
    return Recipe.model_validate(values)


def _plain(accuracies: Accuracies) -> dict[str, Any]:
    found = differences(accuracies) if accuracies else {}
    return {"accuracies": dict(accuracies), "differences": {name: asdict(one) for name, one in found.items()}}


def _print(title: str, accuracies: Accuracies) -> None:
    found = differences(accuracies)
    for name, values in accuracies.items():
        line = (
            f"{title}; {name}: mean {statistics.fmean(values):.2%}, standard deviation {statistics.stdev(values):.2%}"
        )
        if name in found:
            one = found[name]
            line += (
                f"; less the base {100 * one.estimate:+.2f} points, 95 % interval {100 * one.low:+.2f} to "
                f"{100 * one.high:+.2f} (paired, Student)"
            )
        typer.echo(f"{line} (n = {len(values)})")


if __name__ == "__main__":
    typer.run(measure)
