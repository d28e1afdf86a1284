"""``python -m benchmarks.samplers``: searches with several samplers, each of equally many real epochs.

Each search names a network by two rules, and each network that is named is trained again with seeds that chose
nothing. Everything is recorded in a storage of its own, so that a call that was cut off goes on; `--summary` prints
what the storage holds.
"""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from benchmarks.options import (
    DataDirOption,
    DataOption,
    EpochsOption,
    FirstSeedOption,
    ResolutionOption,
    SubsetEvalOption,
    SubsetOption,
    SummaryFlag,
)
from benchmarks.running import run
from benchmarks.small_studies.make import Design
from benchmarks.small_studies.sampled import make_sampled, read_sampled, sampled_lines
from budgetnas.architecture.budget import parse_budget
from budgetnas.data import DataRequest
from budgetnas.errors import InputError
from budgetnas.experiments.bench.hardware import machine
from budgetnas.samplers.named import check_sampler
from budgetnas.space.specification import PrunerName
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage


def measure(
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    resolution: ResolutionOption = None,
    subset: SubsetOption = None,
    subset_eval: SubsetEvalOption = None,
    budget: Annotated[str, typer.Option(help="Limit of every search.")] = "12e3",
    trials: Annotated[
        int,
        typer.Option(help="Trainings of every search, repeats included; with a pruner, epochs of so many.", min=1),
    ] = 20,
    epochs: EpochsOption = 6,
    batch_size: Annotated[
        int | None, typer.Option(help="Images in one optimiser step.", show_default="that of a search")
    ] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(help="Samplers to compare; SAMPLER+PRUNER with a pruner.", show_default="random, budget"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Searches with each sampler.", min=1)] = 5,
    first_seed: FirstSeedOption = 0,
    fresh: Annotated[int, typer.Option(help="Fresh trainings of each network that was named.", min=1)] = 3,
    storage: Annotated[str, typer.Option(help="Storage of the searches.")] = "sqlite:///samplers.db",
    only_summary: SummaryFlag = False,
) -> None:
    """Make the searches, seed by seed and sampler by sampler, and print the comparison."""
    url = parse_storage(storage)
    arms = [_checked(arm) for arm in sampler or ("random", "budget")]
    limit = parse_budget(budget)
    records = open_records(url)
    if not only_summary:
        request = DataRequest(
            name=data, data_dir=data_dir, resolution=resolution, subset=subset, subset_eval=subset_eval
        )
        for seed in range(first_seed, first_seed + seeds):
            for arm in arms:
                design = Design(request, limit, trials, epochs, arm, fresh, storage, batch_size)
                make_sampled(design, records, url, arm, seed)
    for line in sampled_lines(read_sampled(records, url)):
        typer.echo(line)
    typer.echo(machine())


def _checked(arm: str) -> str:
    """Return `arm` if it is a sampler, or a sampler and a pruner."""
    sampler, plus, pruner = arm.partition("+")
    check_sampler(sampler)
    if plus and pruner not in get_args(PrunerName):
        raise InputError("--sampler", arm, f"must end in +PRUNER, one of {', '.join(get_args(PrunerName))}")
    return arm


if __name__ == "__main__":
    run(measure)
