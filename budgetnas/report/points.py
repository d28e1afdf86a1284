"""The numbers behind a study's figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, stdev

from budgetnas.report.values import RankedRun
from budgetnas.stats import Interval, mean_interval


@dataclass(frozen=True, slots=True)
class OvershootBin:
    """How many proposals had parameters from `low` to `high` times the budget."""

    low: float
    high: float
    proposals: int


def overshoot_bins(params: Sequence[int], max_params: int) -> tuple[OvershootBin, ...]:
    """Count proposals over the budget in at most 13 bins that are equally wide on a log axis."""
    exponents = [math.log10(one / max_params) for one in params]
    width = max(max(exponents, default=0.0) / 12, 0.02)
    places = [int(one // width) for one in exponents]
    return tuple(
        OvershootBin(10 ** (width * place), 10 ** (width * (place + 1)), places.count(place))
        for place in range(max(places, default=-1) + 1)
    )


def running_best(values: Sequence[float]) -> tuple[float, ...]:
    """Return, for each value, the highest up to it."""
    return tuple(accumulate(values, max))


def pareto_front(runs: Sequence[RankedRun]) -> tuple[RankedRun, ...]:
    """Return the runs that no other beats in accuracy with as few parameters, the smallest network first."""
    front: list[RankedRun] = []
    for run in sorted(runs, key=lambda one: (one.params, -one.accuracy)):
        if not front or run.accuracy > front[-1].accuracy:
            front.append(run)
    return tuple(front)


@dataclass(frozen=True, slots=True)
class Spread:
    """What a few values say together.

    Attributes:
        n: How many there are.
        mean: Their mean; nothing for none.
        deviation: Their standard deviation; nothing for fewer than two.
        interval: Student's 95 % interval of the mean; nothing for fewer than two.
    """

    n: int
    mean: float | None
    deviation: float | None
    interval: Interval | None


def spread(values: Sequence[float]) -> Spread:
    """Return mean, standard deviation and interval of `values`, as far as their number allows."""
    several = len(values) > 1
    return Spread(
        n=len(values),
        mean=fmean(values) if values else None,
        deviation=stdev(values) if several else None,
        interval=mean_interval(values) if several else None,
    )
