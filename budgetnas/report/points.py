"""The numbers behind a study's figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from budgetnas.report.values import RankedRun


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
