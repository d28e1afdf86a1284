"""What the elements of a recipe do, each on top of the ones before; every training is a row of a CSV file.

Trainings whose row exists are not repeated, so that the same command resumes. All recipes are trained with seed 0, then
all with seed 1, so that most pairs are complete whenever it is stopped. Validation images only.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks import trainings
from benchmarks.options import (
    BlocksOption,
    DataDirOption,
    DataOption,
    EpochsOption,
    PrecisionOption,
    StemWidthOption,
    SubsetEvalOption,
    SubsetOption,
    WidthsOption,
)
from benchmarks.running import run
from benchmarks.tasks import final_accuracy, network_for, plain_recipe
from budgetnas.architecture import count
from budgetnas.data import DataRequest, load_data
from budgetnas.experiments.bench.hardware import machine
from budgetnas.experiments.bench.loops import OurLoop
from budgetnas.experiments.bench.protocol import task_with
from budgetnas.metrics import mean_interval
from budgetnas.space.recipe import Recipe, RecipeSpace
from budgetnas.space.strong import FEWEST_PARAMS, final_recipe
from budgetnas.training import runtime_rules
from budgetnas.training.engine import applied

Rows = Mapping[tuple[str, int], float]
COLUMNS: Final = ("recipe", "seed", "accuracy", "network", "epochs", "images", "described")


def ladder(epochs: int, warmup: int, *, resolution: int, flip: bool) -> dict[str, Recipe]:
    """Return the recipes by name; each has one element more than the one before.

    The last is that of finals at these lengths, without strong augmentation: a longer warm-up, an average of the
    weights, and crops padded by reflection.
    """
    base = plain_recipe(epochs, resolution=resolution, flip=flip)
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        f"+ rate per step, warm-up {warmup}": {"schedule": "step", "warmup_epochs": warmup},
        "+ no decay of norms and biases": {"decay_norm_and_bias": False},
        "+ rate 0.2": {"learning_rate": 0.2},
    }
    recipes: dict[str, Recipe] = {}
    for name, change in changes.items():
        base = base.model_copy(update=change)
        recipes[name] = base
    final = final_recipe(RecipeSpace(augmentation=recipes["plain"].augmentation), epochs, FEWEST_PARAMS - 1)
    return recipes | {"+ the rest of finals' recipe": final}


def read(out: Path) -> dict[tuple[str, int], float]:
    """Return the accuracies of an earlier call by recipe and seed."""
    return {(row["recipe"], int(row["seed"])): float(row["accuracy"]) for row in trainings.read(out)}


def table(names: list[str], rows: Rows) -> list[str]:
    """Return a line for each recipe, with its mean difference to the recipe before, paired by seed."""
    lines = []
    for place, name in enumerate(names):
        values = {seed: accuracy for (recipe, seed), accuracy in rows.items() if recipe == name}
        if not values:
            continue
        spread = f", standard deviation {statistics.stdev(values.values()):.2%}" if len(values) > 1 else ""
        line = f"{name}: mean {statistics.fmean(values.values()):.2%}{spread}, n = {len(values)}"
        earlier = {seed: rows[names[place - 1], seed] for seed in values if place and (names[place - 1], seed) in rows}
        pairs = [100 * (values[seed] - accuracy) for seed, accuracy in earlier.items()]
        if pairs:
            line += f"; minus the recipe before: {', '.join(f'{pair:+.2f}' for pair in pairs)} points"
        if len(pairs) > 1:
            mean = mean_interval(pairs)
            line += f", mean {mean.estimate:+.2f} (95 % interval {mean.low:+.2f} to {mean.high:+.2f})"
        lines.append(line)
    return lines


def measure(
    data: DataOption = "cifar10",
    data_dir: DataDirOption = None,
    subset: SubsetOption = None,
    subset_eval: SubsetEvalOption = None,
    blocks: BlocksOption = "1,1,1",
    widths: WidthsOption = "16,32,64",
    stem_width: StemWidthOption = 16,
    epochs: EpochsOption = 15,
    warmup: Annotated[int, typer.Option(help="Epochs of warm-up with a rate per step.", min=0)] = 1,
    seeds: Annotated[int, typer.Option(help="Trainings with each recipe.", min=1)] = 3,
    precision: PrecisionOption = "float32",
    threads: Annotated[int, typer.Option(help="Threads of a training on a CPU.", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="CSV file of the trainings.")] = Path("ladder.csv"),
) -> None:
    """Train a network with recipes that build on each other, seed by seed, and compare each with the one before."""
    loaded = load_data(DataRequest(name=data, data_dir=data_dir, subset=subset, subset_eval=subset_eval))
    architecture = network_for(loaded, blocks, widths, stem_width)
    runtime = replace(runtime_rules("cpu", precision).runtime_for(architecture), threads=threads)
    recipes = ladder(epochs, warmup, resolution=loaded.resolution, flip=loaded.flip)
    task = task_with(loaded, architecture, recipes["plain"], runtime)
    typer.echo(
        f"{architecture.describe()}, {count(architecture).params:,} parameters; {loaded.identity.name}: "
        f"{len(task.train):,} images to train with, {len(task.evaluation):,} to validate; {runtime.precision}, "
        f"{runtime.threads} threads; {machine()}; torch {torch.__version__}"
    )
    with applied(runtime):
        for seed in range(seeds):
            for name, recipe in recipes.items():
                if (name, seed) in read(out):
                    continue
                accuracy = final_accuracy(OurLoop(runtime), replace(task, recipe=recipe, seed=seed), runtime)
                row = (name, seed, accuracy, architecture.describe(), epochs, len(task.train), recipe.describe())
                trainings.add(out, COLUMNS, row)
                typer.echo(f"seed {seed}, {name}: {accuracy:.2%}", err=True)
    for line in table(list(recipes), read(out)):
        typer.echo(line)


if __name__ == "__main__":
    run(measure)
