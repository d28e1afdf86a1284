"""How far the accuracy that chose a winner lies above what the winner is worth, by simulated studies on a table.

The table has the test error of every network of a space, trained with a few seeds. A training is simulated as the
network's mean error with a fresh draw of the noise between seeds. A study trains so many networks, drawn evenly from
those within the budget, and then names one of them by each of several rules. All rules see the same trainings, in the
study as in the final.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from optuna.distributions import IntDistribution

from benchmarks.options import BudgetOption
from benchmarks.running import run
from benchmarks.table import ERROR, PARAMS, read_sheet
from budgetnas.architecture.budget import Budget, parse_budget
from budgetnas.errors import InputError, check_seed
from budgetnas.experiments.bench.hardware import machine
from budgetnas.metrics import mean_interval
from budgetnas.samplers.budget_sampler.encoding import Encoding, Floats, Params
from budgetnas.samplers.budget_sampler.observed import Training, key_of
from budgetnas.samplers.budget_sampler.winner import expected_values

_NOISE: Final = 0.163
"""Pooled standard deviation between the seeds of a network in the table, in points."""
_TRAININGS: Final = (20, 50, 100)
_FINALS: Final = ("3x3", "5x2", "5x5")
_WIDTHS: Final = ("stem_w", "b1_mid", "b2_mid", "b3_mid", "s2_out", "b4_mid", "b5_mid")


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of the table within a budget.

    Attributes:
        widths: The widths of each network, by name.
        encoding: The widths as numbers.
        cost: Parameters of a network, given its widths.
        accuracies: What each is worth: its mean test accuracy, in percent.
    """

    widths: Sequence[Params]
    encoding: Encoding
    cost: Callable[[Params], float]
    accuracies: Floats


@dataclass(frozen=True, slots=True)
class Round:
    """A final round.

    Attributes:
        networks: Finalists.
        seeds: Fresh trainings of each.
    """

    networks: int
    seeds: int

    @property
    def trainings(self) -> int:
        """Trainings in all."""
        return self.networks * self.seeds

    def __str__(self) -> str:
        return f"{self.networks}x{self.seeds}"


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
    table: Annotated[Path | None, typer.Option(help="CSV of networks.", envvar="BUDGETNAS_BENCH_TABLE")] = None,
    budget: BudgetOption = "5e6",
    studies: Annotated[int, typer.Option(help="Simulated studies, each with its own seed.", min=2)] = 1000,
    trainings: Annotated[
        list[int] | None, typer.Option(help="Trainings of a study.", show_default="20, 50 and 100")
    ] = None,
    final: Annotated[
        list[str] | None, typer.Option(help="Finalists x fresh trainings of each.", show_default="3x3, 5x2 and 5x5")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first study.")] = 0,
) -> None:
    """Simulate studies, and print the bias of selection and the regret of each rule, with 95 % intervals."""
    networks, finals = read(table, Budget(parse_budget(budget))), [parse_final(one) for one in final or _FINALS]
    typer.echo(
        f"{len(networks.accuracies):,} networks within {budget}, {studies} studies; "
        "points of accuracy, means with 95 % intervals\n"
    )
    typer.echo("| rule | trainings | chosen by, minus worth | chosen by, minus fresh | fresh, minus worth | regret |")
    typer.echo("|---|---:|---:|---:|---:|---:|")
    notes = []
    for count in trainings or _TRAININGS:
        _check(networks, count, finals)
        found = [study(networks, count, finals, check_seed(seed + one)) for one in range(studies)]
        for rule in found[0]:
            typer.echo(_row(rule, [one[rule] for one in found]))
        notes += [_note(found, count, one) for one in finals]
    typer.echo("\n" + "\n".join(notes))
    typer.echo(machine())


def parse_final(text: str) -> Round:
    """Return finalists and seeds of a final written as ``3x3``.

    Raises:
        InputError: If it is written in another way.
    """
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if found is None:
        raise InputError("--final", text, "must be finalists x seeds, such as 3x3")
    return Round(int(found[1]), int(found[2]))


def read(table: Path | None, budget: Budget) -> Networks:
    """Return the networks of the CSV file `table` that keep `budget`.

    Raises:
        InputError: If there is no file, it cannot be read, lacks a column, or has no network within the budget.
    """
    sheet = read_sheet(table)
    facts = sheet.columns(*_WIDTHS, PARAMS, ERROR)
    keep = facts[:, -2] <= budget.max_params
    if not keep.any():
        raise InputError("--budget", str(budget), "no network of the table keeps it")
    rows = [tuple(int(width) for width in row) for row in facts[keep, : len(_WIDTHS)]]
    widths = [dict(zip(_WIDTHS, row, strict=True)) for row in rows]
    params = {key_of(row): float(number) for row, number in zip(widths, facts[keep, -2], strict=True)}
    encoding = Encoding.of(dict(zip(_WIDTHS, map(_distribution, zip(*rows, strict=True)), strict=True)))
    return Networks(widths, encoding, lambda row: params[key_of(row)], 100 - facts[keep, -1])


def _distribution(widths: Sequence[int]) -> IntDistribution:
    levels = sorted(set(widths))
    return IntDistribution(levels[0], levels[-1], step=math.gcd(*(level - levels[0] for level in levels)) or 1)


def study(networks: Networks, trainings: int, finals: Sequence[Round], seed: int) -> dict[str, Named]:
    """Return what each rule names after one simulated study of so many trainings."""
    generator, total = np.random.default_rng(seed), trainings + max(one.trainings for one in finals)
    drawn = generator.choice(len(networks.accuracies), size=total, replace=False)
    worth, best, most = networks.accuracies[drawn], networks.accuracies.max(), max(one.seeds for one in finals)
    single, once = worth + generator.normal(0, _NOISE, (2, total))
    final, again = worth + generator.normal(0, _NOISE, (2, most, total))
    widths = [networks.widths[index] for index in drawn[:trainings]]
    results = [Training(row, {}, -value) for row, value in zip(widths, single.tolist(), strict=False)]
    expected = expected_values(results, networks.encoding, networks.cost)
    scores = np.array([-expected[key_of(row)] for row in widths])

    def named(made: int, by: Floats, among: Sequence[int], fresh: Floats) -> Named:
        one = max(among, key=lambda index: by[index])
        return Named(made, float(by[one]), float(worth[one]), float(fresh[one]), float(best - worth[one]))

    rules = {
        "best single": named(trainings, single, range(trainings), once),
        "best smoothed": named(trainings, scores, range(trainings), once),
    }
    for one in finals:
        made, means, others = (
            trainings + one.trainings,
            final[: one.seeds].mean(axis=0),
            again[: one.seeds].mean(axis=0),
        )
        rules[f"best single, cost of {one}"] = named(made, single, range(made), once)
        rules[f"smoothed, final {one}"] = named(made, means, _first(scores, one.networks), others)
        rules[f"raw, final {one}"] = named(made, means, _first(single[:trainings], one.networks), others)
    return rules


def _first(scores: Floats, count: int) -> list[int]:
    return [int(index) for index in np.argsort(-scores, kind="stable")[:count]]


def _check(networks: Networks, trainings: int, finals: Sequence[Round]) -> None:
    have = len(networks.accuracies)
    fewest, most = max(one.networks for one in finals), have - max(one.trainings for one in finals)
    if not fewest <= trainings <= most:
        raise InputError(
            "--trainings",
            trainings,
            f"must be from {fewest} to {most}: as many as there are finalists, and with those of the final no more "
            f"than the {have:,} networks within the budget",
        )


def _note(found: Sequence[dict[str, Named]], trainings: int, final: Round) -> str:
    ours = [one[f"smoothed, final {final}"].regret for one in found]
    single, raw = (
        _shown([own - one[f"{rule} {final}"].regret for own, one in zip(ours, found, strict=True)])
        for rule in ("best single, cost of", "raw, final")
    )
    return (
        f"after {trainings}, smoothed, final {final}: regret less that of the best single at the same cost {single}, "
        f"less that of the raw final {raw}"
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
    found = mean_interval(values)
    return f"{found.estimate:+.3f} +- {found.high - found.estimate:.3f}"


if __name__ == "__main__":
    run(measure)
