"""How good the networks are that a search names, by sampler and rule, on a table of trained networks.

Nothing is trained: one training of a network is its mean test error in the table plus a fresh draw of the noise between
seeds. A search makes so many trainings within a limit on parameters, and names one network by each of several rules.
Its regret is how much worse that network is than the best of the table within the limit. docs/samplers.md says all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Final

import typer

from benchmarks.opponents.registry import check_installed
from benchmarks.running import run
from benchmarks.table import Networks, read_networks
from benchmarks.table_search.chart import check_chart, write_chart
from benchmarks.table_search.problem import Problem
from benchmarks.table_search.rows import Rows
from benchmarks.table_search.rules import FEWEST, RULES
from benchmarks.table_search.samplers import ALL, SAMPLERS, SLOW, check_names, split
from benchmarks.table_search.searching import Cell, Found
from benchmarks.table_search.working import tasks_left, work
from budgetnas.architecture.budget import format_count, parse_budget
from budgetnas.errors import EXIT_INTERRUPTED, InputError
from budgetnas.experiments.bench.hardware import machine
from budgetnas.metrics import mean_interval

_TRAININGS: Final = (20, 50, 100)
_LIMITS: Final = ("2e6", "5e6", "8e6")
_SEEDS: Final = 400
_SEEDS_OF_SLOW: Final = 40


def measure(
    table: Annotated[Path | None, typer.Option(help="CSV of networks.", envvar="BUDGETNAS_BENCH_TABLE")] = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(ALL)}; *4 with 4 trainings at a time.", show_default=", ".join(SAMPLERS)),
    ] = None,
    rule: Annotated[list[str] | None, typer.Option(help=f"{', '.join(RULES)}.", show_default="all")] = None,
    trainings: Annotated[
        list[int] | None, typer.Option(help="Trainings in all, repeats included.", show_default="20, 50 and 100")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="The most parameters.", show_default="2e6, 5e6 and 8e6")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Searches of each kind, with seeds 0, 1, ...", show_default=f"{_SEEDS}; {_SEEDS_OF_SLOW} of slow ones"
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    out: Annotated[Path | None, typer.Option(help="CSV, a row for each search; resumed if it is there.")] = None,
    chart: Annotated[Path | None, typer.Option(help="HTML file for the chart.")] = None,
) -> None:
    """Search with each seed, and print the mean regret of what was named, with 95 % intervals."""
    networks = read_networks(table)
    problems = [Problem(networks, parse_budget(one, argument="--limit")) for one in dict.fromkeys(limit or _LIMITS)]
    seeds_of = {
        Cell(problem.limit, _at_least("--trainings", count, FEWEST), name, by): _seeds(seeds, name)
        for problem in problems
        for count in dict.fromkeys(trainings or _TRAININGS)
        for name in check_names("--sampler", sampler or SAMPLERS, ALL)
        for by in check_names("--rule", rule or RULES, RULES)
    }
    _at_least("--jobs", jobs, 1)
    if chart is not None:
        check_chart(chart)
    rows = Rows(out, networks.digest)
    try:
        tasks = tasks_left(seeds_of.items(), rows)
        for name in dict.fromkeys(task.cells[0].sampler for task in tasks):
            check_installed(split(name)[0])
        work(tasks, networks, jobs, rows)
    except KeyboardInterrupt:
        kept = f"run it again to resume from {out}" if out is not None else "with --out it could be resumed"
        typer.echo(f"interrupted; {kept}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    found = {cell: rows.of(cell, count) for cell, count in seeds_of.items()}
    typer.echo(_about(networks, problems, seeds_of) + "\n")
    typer.echo(
        "| limit | trainings | sampler | rule | regret | n | distinct networks trained | seconds of the sampler |"
    )
    typer.echo("|---:|---:|---|---|---:|---:|---:|---:|")
    for cell, some in found.items():
        typer.echo(_row(cell, some))
    typer.echo("\n" + machine())
    if chart is not None:
        write_chart(chart, {cell: mean_interval([one.regret for one in some]) for cell, some in found.items()})


def _at_least(argument: str, value: int, least: int) -> int:
    if value < least:
        raise InputError(argument, value, f"must be a whole number of at least {least}")
    return value


def _seeds(asked: int | None, sampler: str) -> int:
    if asked is None:
        return _SEEDS_OF_SLOW if split(sampler)[0] in SLOW else _SEEDS
    return _at_least("--seeds", asked, 2)


def _about(networks: Networks, problems: Sequence[Problem], seeds_of: Mapping[Cell, int]) -> str:
    within = ", ".join(f"{one.within:,} within {format_count(one.limit)}" for one in problems)
    counts = {cell.sampler: count for cell, count in seeds_of.items()}
    seeds = ", ".join(
        f"{count} with {name}{' (slow)' if split(name)[0] in SLOW else ''}" for name, count in counts.items()
    )
    return (
        f"{len(networks.rows):,} networks of {', '.join(networks.levels)}; {within}\n"
        f"noise between seeds {networks.noise:.3f} points; searches of each kind: {seeds}\n"
        "regret in points of error, mean with 95 % interval"
    )


def _row(cell: Cell, found: Sequence[Found]) -> str:
    regret = mean_interval([one.regret for one in found])
    networks, seconds = fmean(one.networks for one in found), fmean(one.seconds for one in found)
    return (
        f"| {format_count(cell.limit)} | {cell.trainings} | {cell.sampler} | {cell.rule} "
        f"| {regret.estimate:.3f} +- {regret.high - regret.estimate:.3f} | {regret.n} "
        f"| {networks:.1f} | {seconds:.2g} |"
    )


if __name__ == "__main__":
    run(measure)
