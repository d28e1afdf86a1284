"""How far the accuracy that chose a winner lies above what the winner is worth, by simulated studies on a table.

The table has the test error of every network of a space, trained with a few seeds. A training is simulated as the
network's mean error with a fresh draw of the noise between seeds. A study trains so many networks, drawn evenly from
those within the budget, and then names one of them by each of several rules. All rules see the same trainings, in the
study as in the final.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

from budgetnas.benchmarks.machine import machine
from budgetnas.budget import Budget, parse_budget
from budgetnas.choice import Floats, smooth
from budgetnas.errors import InputError, check_seed
from budgetnas.intervals import Interval, mean_interval

_NOISE: Final = 0.163
"""Pooled standard deviation between the seeds of a network in the table, in points."""
_COUNTS: Final = ("params", "flops")
_ERROR: Final = "test_err_mean"
_WIDTHS: Final = ("stem_w", "b1_mid", "b2_mid", "b3_mid", "s2_out", "b4_mid", "b5_mid")


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of the table within a budget.

    Attributes:
        features: Logarithms of widths, parameters and multiply-accumulates, one row for each network.
        accuracies: What each is worth: its mean test accuracy, in percent.
    """

    features: Floats
    accuracies: Floats


@dataclass(frozen=True, slots=True)
class Named:
    """The network that a rule named, in one study.

    Attributes:
        trainings: How many the study made, those of the final included.
        chose: The accuracy that chose it, in percent.
        worth: What it is worth, in percent.
        fresh: Its accuracy in as many trainings as chose it, made afresh, in percent.
        regret: How far it is below the best within the budget, in points.
    """

    trainings: int
    chose: float
    worth: float
    fresh: float
    regret: float


def measure(
    table: Annotated[Path, typer.Option(help="CSV file of networks.", envvar="BUDGETNAS_BENCH_TABLE")],
    budget: Annotated[str, typer.Option(help="Limit.")] = "5e6",
    studies: Annotated[int, typer.Option(help="Simulated studies, each with its own seed.", min=2)] = 1000,
    trainings: Annotated[
        list[int] | None, typer.Option(help="Trainings of a study.", show_default="20, 50 and 100")
    ] = None,
    finalists: Annotated[int, typer.Option(help="Networks in the final.", min=1)] = 3,
    seeds: Annotated[int, typer.Option(help="Fresh trainings of each of them.", min=1)] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the first study.")] = 0,
) -> None:
    """Simulate studies, and print the bias of selection and the regret of each rule, with 95 % intervals."""
    networks = read(table, Budget(parse_budget(budget)))
    typer.echo(
        f"{len(networks.accuracies):,} networks within {budget}, {studies} studies, "
        f"final of {finalists} networks x {seeds} seeds; points of accuracy, means with 95 % intervals\n"
    )
    typer.echo("| rule | trainings | bias: chose by, less worth | chose by, less fresh | fresh, less worth | regret |")
    typer.echo("|---|---:|---:|---:|---:|---:|")
    pairs = []
    for count in trainings or (20, 50, 100):
        _check(networks, count, finalists, seeds)
        found = [study(networks, count, finalists, seeds, check_seed(seed + one)) for one in range(studies)]
        for rule in found[0]:
            typer.echo(_row(rule, [one[rule] for one in found]))
        less = [one["smoothed, final"].regret - one["best single, same cost"].regret for one in found]
        raw = [one["smoothed, final"].regret - one["raw, final"].regret for one in found]
        pairs.append(
            f"after {count}: regret of the smoothed final less that of the best single at the same cost "
            f"{_shown(less)}, less that of the raw final {_shown(raw)}"
        )
    typer.echo("\n" + "\n".join(pairs))
    typer.echo(machine())


def read(table: Path, budget: Budget) -> Networks:
    """Return the networks of the CSV file `table` that keep `budget`.

    Raises:
        InputError: If the file cannot be read, lacks a column, or has no network within the budget.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if float(row["params"]) <= budget.max_params]
        facts = np.array([[float(row[name]) for name in (*_WIDTHS, *_COUNTS)] for row in rows])
        errors = np.array([float(row[_ERROR]) for row in rows])
    except (OSError, KeyError, ValueError) as error:
        columns = ", ".join((*_WIDTHS, *_COUNTS, _ERROR))
        raise InputError("--table", str(table), f"cannot be read ({error})", f"it needs columns {columns}") from None
    if not rows:
        raise InputError("--budget", str(budget), "no network of the table keeps it")
    return Networks(np.log(facts), 100 - errors)


def study(networks: Networks, trainings: int, finalists: int, seeds: int, seed: int) -> dict[str, Named]:
    """Return what each rule names after one simulated study."""
    generator, total = np.random.default_rng(seed), trainings + finalists * seeds
    drawn = generator.choice(len(networks.accuracies), size=total, replace=False)
    worth = networks.accuracies[drawn]
    single = worth + generator.normal(0, _NOISE, total)
    final = worth + generator.normal(0, _NOISE, (seeds, total)).mean(axis=0)
    again = worth + generator.normal(0, _NOISE, (seeds, total)).mean(axis=0)
    once = worth + generator.normal(0, _NOISE, total)
    scores = smooth(networks.features[drawn[:trainings]], single[:trainings], range(trainings))
    best = float(networks.accuracies.max())

    def named(made: int, by: Floats, among: Sequence[int], fresh: Floats) -> Named:
        one = max(among, key=lambda index: by[index])
        return Named(made, float(by[one]), float(worth[one]), float(fresh[one]), best - float(worth[one]))

    return {
        "best single": named(trainings, single, range(trainings), once),
        "best single, same cost": named(total, single, range(total), once),
        "best smoothed, no final": named(trainings, scores, range(trainings), once),
        "smoothed, final": named(total, final, _first(scores, finalists), again),
        "raw, final": named(total, final, _first(single[:trainings], finalists), again),
    }


def _first(scores: Floats, count: int) -> list[int]:
    return [int(index) for index in np.argsort(-scores, kind="stable")[:count]]


def _check(networks: Networks, trainings: int, finalists: int, seeds: int) -> None:
    have = len(networks.accuracies)
    if not finalists <= trainings <= have - finalists * seeds:
        raise InputError(
            "--trainings",
            trainings,
            f"must be from {finalists} finalists to {have - finalists * seeds:,}: {have:,} networks are within "
            "the budget, and as many as the final trains are needed beside",
        )


def _row(rule: str, found: Sequence[Named]) -> str:
    measures = (
        [one.chose - one.worth for one in found],
        [one.chose - one.fresh for one in found],
        [one.fresh - one.worth for one in found],
        [one.regret for one in found],
    )
    return f"| {rule} | {found[0].trainings} | " + " | ".join(map(_shown, measures)) + " |"


def _shown(values: Sequence[float]) -> str:
    found: Interval = mean_interval(values)
    return f"{found.estimate:+.3f} +- {found.high - found.estimate:.3f}"


if __name__ == "__main__":
    typer.run(measure)
