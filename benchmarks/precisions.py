"""The accuracy of another precision against float32: the same candidates, trained in both by small searches.

All is recorded in a storage, so a repeated command resumes. For a single thread set ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from statistics import fmean
from typing import Annotated, Final

import torch
import typer

from benchmarks.options import (
    DataDirOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    ResolutionOption,
    SubsetEvalOption,
    SubsetOption,
)
from benchmarks.running import run
from benchmarks.small_studies.make import SPACE
from benchmarks.small_studies.quiet import Quiet
from budgetnas.errors import BudgetnasError, InputError
from budgetnas.experiments.bench.hardware import machine
from budgetnas.metrics import mean_interval
from budgetnas.runs.interrupts import Stopper
from budgetnas.searching.options import SearchOptions
from budgetnas.searching.session import run_search
from budgetnas.storage import State

BASE: Final = "float32"
OTHERS: Final = ("bf16", "fp16")


def measure(
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    resolution: ResolutionOption = None,
    subset: SubsetOption = None,
    subset_eval: SubsetEvalOption = None,
    trials: Annotated[int, typer.Option(help="Candidates of each seed.", min=1)] = 4,
    epochs: EpochsOption = 8,
    seeds: Annotated[int, typer.Option(help="Seeds of the random sampler, at least 2.", min=2)] = 5,
    precision: Annotated[str, typer.Option(help="bf16 or fp16, compared with float32.")] = "fp16",
    device: DeviceOption = "cpu",
    storage: Annotated[str, typer.Option(help="Storage of the studies.")] = "sqlite:///precisions.db",
) -> None:
    """Train the same random candidates in both precisions and print the difference of their mean accuracies."""
    if precision not in OTHERS:
        raise InputError("--precision", precision, f"must be one of {', '.join(OTHERS)}")
    means: dict[str, list[float]] = {BASE: [], precision: []}
    for seed in range(seeds):
        accuracies = {}
        for name in means:
            options = SearchOptions(
                budget=12_000, trials=trials, data=data, data_dir=data_dir, resolution=resolution, subset=subset,
                subset_eval=subset_eval, epochs=epochs, study=f"{name}/{seed}", storage=storage, sampler="random",
                seed=seed, device=device, precision=name, recipe_space="paper", seeds=(), space=SPACE,
            )  # fmt: skip
            accuracies[name] = _accuracies(options)
        common = set.intersection(*map(set, accuracies.values()))
        for name, by_candidate in accuracies.items():
            means[name].append(fmean(by_candidate[key] for key in common))
        typer.echo(f"seed {seed}: " + ", ".join(f"{name} {values[-1]:.2%}" for name, values in means.items()))
    for line in summary_lines(means[precision], means[BASE], precision):
        typer.echo(line)
    typer.echo(f"{trials} candidates of each seed; {machine()}; torch {torch.__version__}")


def summary_lines(others: Sequence[float], base: Sequence[float], precision: str) -> list[str]:
    """Return both mean accuracies and their difference in points, paired by seed."""
    difference = mean_interval([other - value for other, value in zip(others, base, strict=True)])
    means = [f"{name}: mean {fmean(values):.2%}" for name, values in ((BASE, base), (precision, others))]
    return [
        *means,
        f"{precision} minus {BASE}: {100 * difference.estimate:+.2f} points, 95 % interval {100 * difference.low:+.2f} "
        f"to {100 * difference.high:+.2f} (paired by seed, Student, n = {difference.n})",
    ]


def _accuracies(options: SearchOptions) -> dict[tuple[str, str], float]:
    """Run or resume a search; return the accuracy of each candidate after the last epoch, as a share of 1."""
    stopper = Stopper()
    with stopper.listening():
        result = run_search(options, stopper, Quiet())
    with closing(result.records) as records:
        if not result.outcome.finished:
            raise BudgetnasError(f"study {result.study} did not finish; repeat the command to resume it")
        runs = [run for run in records.runs(study=result.study) if run.state is State.COMPLETE]
        curves = records.curves(run.id for run in runs)
    return {(run.architecture.digest, run.recipe.digest): curves[run.id][-1].eval_accuracy for run in runs}


if __name__ == "__main__":
    run(measure)
