"""``python -m benchmarks.studies``: searches with and without pruning, their finals, and fresh trainings.

Everything is recorded in a storage of its own, so that a call that was cut off goes on, and calls with other seeds
can run beside it; `--summary` prints what the storage holds.
"""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.options import (
    DataDirOption,
    DataOption,
    FirstSeedOption,
    ResolutionOption,
    SamplerOption,
    SubsetEvalOption,
    SubsetOption,
    SummaryFlag,
)
from benchmarks.running import run
from benchmarks.small_studies.make import Design, make_study
from benchmarks.small_studies.summary import read_outcomes, summary_lines
from budgetnas.architecture.budget import parse_budget
from budgetnas.data import DataRequest
from budgetnas.experiments.bench.hardware import machine
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage


def measure(
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    resolution: ResolutionOption = None,
    subset: SubsetOption = None,
    subset_eval: SubsetEvalOption = None,
    budget: Annotated[str, typer.Option(help="Limit of every study.")] = "12e3",
    trials: Annotated[int, typer.Option(help="Trials of every study.")] = 16,
    epochs: Annotated[int, typer.Option(help="Epochs of every trial.")] = 9,
    sampler: SamplerOption = "tpe",
    pruner: Annotated[
        list[str] | None, typer.Option(help="Pruners to compare, the first with each other.", show_default="none, asha")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Studies with each pruner.", min=1)] = 5,
    first_seed: FirstSeedOption = 0,
    fresh: Annotated[int, typer.Option(help="Fresh trainings of each network that was chosen.", min=2)] = 3,
    storage: Annotated[str, typer.Option(help="Storage of the studies.")] = "sqlite:///studies.db",
    only_summary: SummaryFlag = False,
) -> None:
    """Make the studies, seed by seed and pruner by pruner, and print the comparison."""
    records = open_records(parse_storage(storage))
    if not only_summary:
        request = DataRequest(
            name=data, data_dir=data_dir, resolution=resolution, subset=subset, subset_eval=subset_eval
        )
        design = Design(request, parse_budget(budget), trials, epochs, sampler, fresh, storage)
        for seed in range(first_seed, first_seed + seeds):
            for name in pruner or ("none", "asha"):
                make_study(design, records, name, seed)
    for line in summary_lines(read_outcomes(records)):
        typer.echo(line)
    typer.echo(machine())


if __name__ == "__main__":
    run(measure)
