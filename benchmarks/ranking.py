"""Whether the network that is best after short trainings is also best after long ones.

Networks within a limit, drawn from the default space, are trained for several numbers of epochs, each with a schedule
of its own: the shorter ones as in a search, the longest with the recipe of a final's long trainings. Every training is
a row of a CSV file, from which the same command resumes. All are trained with seed 0, then all with seed 1. Validation
images only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Final

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks import trainings
from benchmarks.options import (
    BudgetOption,
    DataDirOption,
    DataOption,
    ResolutionOption,
    SeedOption,
    SubsetEvalOption,
    SubsetOption,
)
from benchmarks.running import run
from benchmarks.tasks import final_accuracy, plain_recipe
from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import Budget, parse_budget
from budgetnas.data import Data, DataRequest, load_data
from budgetnas.errors import InputError
from budgetnas.experiments.bench.hardware import machine
from budgetnas.experiments.bench.loops import OurLoop
from budgetnas.experiments.bench.protocol import task_with
from budgetnas.space.recipe import Recipe, RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.strong import final_recipe
from budgetnas.training import RuntimeConfig, runtime_rules
from budgetnas.training.engine import applied

COLUMNS: Final = ("network", "params", "macs", "epochs", "seed", "accuracy", "images", "recipe")
_RESAMPLES: Final = 10_000
_DRAWS_PER_NETWORK: Final = 100

Accuracies = Mapping[int, Sequence[float]]
"""Mean accuracy of each network over the seeds, by epochs; the networks have the same order in each."""


def drawn(space: SearchSpace, inputs: InputShape, budget: Budget, networks: int, seed: int) -> list[Architecture]:
    """Return different architectures within `budget`, drawn from `space`.

    Raises:
        InputError: If the draws do not have so many.
    """
    generator, found = random.Random(seed), dict[Architecture, None]()
    for _ in range(_DRAWS_PER_NETWORK * networks):
        found[space.architecture(space.draw_feasible(inputs, budget, generator), inputs)] = None
        if len(found) == networks:
            return list(found)
    raise InputError("--networks", networks, f"must be at most {len(found)}, the networks found within {budget}")


def parse_lengths(text: str) -> tuple[int, ...]:
    """Return the numbers of epochs, ascending.

    Raises:
        InputError: If they are not at least two whole numbers from 1, separated by commas.
    """
    words = [word.strip() for word in text.split(",")]
    lengths = sorted({int(word) for word in words if word.isdecimal() and int(word) > 0})
    if len(lengths) < 2 or len(lengths) != len(words):
        raise InputError("--epochs", text, "must be at least two different numbers from 1", "for example 5,15,60")
    return tuple(lengths)


def read(out: Path) -> dict[tuple[str, int, int], float]:
    """Return the accuracies of an earlier call by network, epochs and seed."""
    return {
        (row["network"], int(row["epochs"]), int(row["seed"])): float(row["accuracy"]) for row in trainings.read(out)
    }


def accuracies(out: Path, networks: Sequence[Architecture], lengths: Sequence[int], seeds: int) -> Accuracies:
    """Return the means over the seeds that every network was trained with, at every length; empty if there is none."""
    rows = read(out)
    names = [one.describe() for one in networks]
    whole = [seed for seed in range(seeds) if all((name, n, seed) in rows for name in names for n in lengths)]
    if not whole:
        return {}
    return {n: [fmean(rows[name, n, seed] for seed in whole) for name in names] for n in lengths}


def correlation(short: Sequence[float], long: Sequence[float]) -> tuple[float, float, float]:
    """Return Spearman's rank correlation over networks, with its 95 % bootstrap interval."""
    from scipy.stats import bootstrap, spearmanr  # slow to import

    def statistic(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
        if np.ptp(left) == 0 or np.ptp(right) == 0:
            return 0.0  # equal values have no order; a resample may have a single network
        return float(spearmanr(left, right).statistic)

    estimate = statistic(np.asarray(short), np.asarray(long))
    interval = bootstrap(
        (short, long),
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return estimate, float(interval.low), float(interval.high)


def comparison(found: Accuracies) -> list[str]:
    """Return a line for each pair of lengths: rank correlation, and what choosing by the shorter one costs."""
    lines = []
    for short, long in combinations(sorted(found), 2):
        by_short, by_long = found[short], found[long]
        rho, low, high = correlation(by_short, by_long)
        chosen = by_long[by_short.index(max(by_short))]
        place = 1 + sum(one > chosen for one in by_long)
        lines.append(
            f"{short} and {long} epochs: rank correlation {rho:.2f} ({low:.2f} to {high:.2f}); the best after {short} "
            f"is number {place} of {len(by_long)} after {long}, {100 * (max(by_long) - chosen):.2f} points below the "
            f"best there; mean over networks {fmean(by_short):.2%} and {fmean(by_long):.2%}"
        )
    return lines


def recipe_for(data: Data, epochs: int, params: int, *, longest: bool) -> Recipe:
    """Return the recipe of a search's first trial, or that of a final's long training for the longest trainings."""
    plain = plain_recipe(epochs, resolution=data.resolution, flip=data.flip)
    if not longest:
        return plain
    return final_recipe(RecipeSpace(augmentation=plain.augmentation), epochs, params)


def train_one(data: Data, network: Architecture, recipe: Recipe, runtime: RuntimeConfig, seed: int) -> float:
    """Return the validation accuracy after the last epoch."""
    with applied(runtime):
        return final_accuracy(OurLoop(runtime), task_with(data, network, recipe, runtime, seed), runtime)


def measure(
    data: DataOption = "cifar10",
    data_dir: DataDirOption = None,
    resolution: ResolutionOption = None,
    subset: SubsetOption = None,
    subset_eval: SubsetEvalOption = None,
    budget: BudgetOption = "78042",
    networks: Annotated[int, typer.Option(help="Networks to train.", min=3)] = 16,
    epochs: Annotated[str, typer.Option(help="Numbers of epochs, the last as in a long final.")] = "5,15,60",
    seeds: Annotated[int, typer.Option(help="Trainings of each network at each length.", min=1)] = 1,
    seed: SeedOption = 0,
    threads: Annotated[int, typer.Option(help="Threads of a training on a CPU.", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="CSV file of the trainings.")] = Path("ranking.csv"),
) -> None:
    """Train networks within a limit for several numbers of epochs, and compare their order."""
    limit, lengths = Budget(parse_budget(budget)), parse_lengths(epochs)
    request = DataRequest(name=data, data_dir=data_dir, resolution=resolution, subset=subset, subset_eval=subset_eval)
    loaded = load_data(request)
    inputs = InputShape(in_channels=loaded.in_channels, size=loaded.resolution, classes=len(loaded.classes))
    chosen = drawn(SearchSpace(), inputs, limit, networks, seed)
    rules = runtime_rules("cpu", "float32")
    typer.echo(
        f"{networks} networks, {limit}; {loaded.identity.name}: {len(loaded.train):,} images of {loaded.resolution} "
        f"pixels to train with, {len(loaded.validation):,} to validate; {threads} threads; {machine()}; "
        f"torch {torch.__version__}"
    )
    for again, length, network in product(range(seeds), lengths, chosen):
        name, counts = network.describe(), count(network)
        if (name, length, again) in read(out):
            continue
        recipe = recipe_for(loaded, length, counts.params, longest=length == lengths[-1])
        runtime = replace(rules.runtime_for(network), threads=threads)
        accuracy = train_one(loaded, network, recipe, runtime, again)
        row = (name, counts.params, counts.macs, length, again, accuracy, len(loaded.train), recipe.describe())
        trainings.add(out, COLUMNS, row)
        typer.echo(f"seed {again}, {length} epochs, {name}: {accuracy:.2%}", err=True)
    for line in comparison(accuracies(out, chosen, lengths, seeds)):
        typer.echo(line)


if __name__ == "__main__":
    run(measure)
