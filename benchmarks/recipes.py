"""What each extra of the recipe does to the accuracy: paired over training seeds, with intervals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks.options import (
    BatchOption,
    BlocksOption,
    DataDirOption,
    DataOption,
    DeviceOption,
    JsonFlag,
    PrecisionOption,
    StemWidthOption,
    SubsetEvalOption,
    SubsetOption,
    WidthsOption,
)
from benchmarks.running import run
from benchmarks.tasks import final_accuracy, network_for
from budgetnas.architecture import count
from budgetnas.data import DataRequest, load_data
from budgetnas.errors import InputError
from budgetnas.experiments.bench.hardware import machine
from budgetnas.experiments.bench.loops import OurLoop
from budgetnas.experiments.bench.protocol import sgd_recipe, task_with
from budgetnas.metrics import Interval, mean_interval
from budgetnas.space.recipe import Augmentation, Recipe
from budgetnas.training import RuntimeConfig, Task, runtime_rules
from budgetnas.training.engine import applied
from budgetnas.training.runtime import device_name

BASE: Final = "base"
TOGETHER: Final = "together"
Accuracies = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Trainings:
    """Trainings of one network on the same images.

    Attributes:
        task: What is trained, with the base recipe.
        runtime: Where and in which precision.
        recipes: The recipes by name, the base among them.
    """

    task: Task
    runtime: RuntimeConfig
    recipes: Mapping[str, Recipe]

    def accuracies(self, names: Sequence[str], seeds: range) -> dict[str, list[float]]:
        """Return the validation accuracies after the last epoch, seed by seed."""
        found: dict[str, list[float]] = {name: [] for name in names}
        with applied(self.runtime):
            for seed in seeds:
                for name in names:
                    task = replace(self.task, recipe=self.recipes[name], seed=seed)
                    found[name].append(final_accuracy(OurLoop(self.runtime), task, self.runtime))
                    typer.echo(f"seed {seed}, {name}: {found[name][-1]:.2%}", err=True)
        return found


def extras_of(base: Recipe, resolution: int) -> dict[str, dict[str, Any]]:
    """Return what each extra changes in `base`, for images of that side: the values their authors use."""
    return {
        "nesterov": {"nesterov": True},
        "no decay of norms and biases": {"decay_norm_and_bias": False},
        "label smoothing 0.1": {"label_smoothing": 0.1},
        f"cutout {resolution // 2}": {"augmentation": base.augmentation.model_dump() | {"cutout": resolution // 2}},
        "warm-up 1": {"warmup_epochs": 1},
        "EMA 0.99": {"ema_decay": 0.99},
        "rate per step": {"schedule": "step"},
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
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    subset: SubsetOption = None,
    subset_eval: SubsetEvalOption = None,
    blocks: BlocksOption = "1,1,1",
    widths: WidthsOption = "8,16,32",
    stem_width: StemWidthOption = 8,
    epochs: Annotated[int, typer.Option(help="Epochs of each training, at least 2.", min=2)] = 10,
    batch: BatchOption = 128,
    learning_rate: Annotated[float, typer.Option(help="Highest rate.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 5e-4,
    seeds: Annotated[int, typer.Option(help="Trainings with each recipe, at least 2.", min=2)] = 6,
    first_seed: Annotated[int, typer.Option(help="Training seed of the first.", min=0)] = 0,
    extras: Annotated[str | None, typer.Option(help="Which extras, with commas between.", show_default="all")] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Train a network with the base recipe and with each extra alone, then with those together that helped.

    An extra helped if its interval lies above 0. Chosen so, its own figure is too good; together they are trained
    beside the base with fresh seeds.
    """
    rules = runtime_rules(device, precision)
    loaded = load_data(DataRequest(name=data, data_dir=data_dir, subset=subset, subset_eval=subset_eval))
    base = sgd_recipe(
        epochs,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        batch=batch,
        augmentation=Augmentation(crop_padding=loaded.resolution // 8, flip=loaded.flip),
    )
    changes = _asked(extras_of(base, loaded.resolution), extras)
    recipes = {BASE: base} | {name: _changed(base, change) for name, change in changes.items()}
    architecture = network_for(loaded, blocks, widths, stem_width)
    runtime = rules.runtime_for(architecture)
    task = task_with(loaded, architecture, base, runtime)
    fresh = first_seed + seeds
    alone = Trainings(task, runtime, recipes).accuracies(list(recipes), range(first_seed, fresh))
    chosen = helpful(differences(alone))
    together: dict[str, list[float]] = {}
    if chosen:
        both = {BASE: base, TOGETHER: _changed(base, *(changes[name] for name in chosen))}
        together = Trainings(task, runtime, both).accuracies(list(both), range(fresh, fresh + seeds))
    if as_json:
        typer.echo(json.dumps({"alone": _plain(alone), "chosen": chosen, "together": _plain(together)}))
        return
    typer.echo(
        f"{task.architecture.describe()}, {count(task.architecture).params:,} parameters, {base.describe()}; "
        f"{loaded.identity.name}: {len(task.train):,} images to train with, {len(task.evaluation):,} to validate"
    )
    _print(f"seeds {first_seed} to {fresh - 1}", alone)
    typer.echo(f"helped: {', '.join(chosen) or 'none'}")
    if together:
        _print(f"together, seeds {fresh} to {fresh + seeds - 1}", together)
    typer.echo(
        f"{device_name(runtime.torch_device)}, {runtime.precision}, {runtime.threads} threads; {machine()}; "
        f"torch {torch.__version__}"
    )


def _asked(changes: dict[str, dict[str, Any]], names: str | None) -> dict[str, dict[str, Any]]:
    chosen = list(changes) if names is None else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in changes:
            raise InputError("--extras", name, f"must be one or more of {', '.join(changes)}")
    return {name: changes[name] for name in chosen}


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
    run(measure)
