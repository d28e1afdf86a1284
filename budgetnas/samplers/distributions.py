"""The search space for Optuna: its distributions, its conditions and its cost."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget
from budgetnas.samplers.budget_sampler.encoding import Ranges
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.ranges import Choice, LogRange, Params, Range, Steps, Value

_COSTS_KEPT: Final = 2**17


def distribution(values: Range) -> BaseDistribution:
    """Return Optuna's distribution of a range."""
    match values:
        case Steps(table):
            return IntDistribution(table[0], table[-1], log=True)
        case LogRange(low, high):
            return FloatDistribution(low, high, log=True)
        case Choice(choices):
            return CategoricalDistribution(choices)


def search_ranges(candidates: CandidateSpace) -> Ranges:
    """Return the values of every parameter for `BudgetSampler`, and which parameters exist only with which others.

    Here a table is a choice among its numbers, so that no other number is proposed; the encoding sees their order.
    """
    return Ranges(
        distributions={
            name: CategoricalDistribution(values.values) if isinstance(values, Steps) else distribution(values)
            for name, values in candidates.ranges().items()
        },
        conditions=candidates.conditions(),
    )


def budget_share(candidates: CandidateSpace, budget: Budget) -> Callable[[Params], float]:
    """Return a function that returns the share of a budget that a network uses: its largest share of any limit."""
    names, limits = tuple(candidates.space.ranges()), budget.limits

    @functools.lru_cache(_COSTS_KEPT)
    def share(*values: Value | None) -> float:
        params = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        counts = count(candidates.space.architecture(params, candidates.inputs))
        return max(limit.share(counts) for limit in limits)

    return lambda params: share(*(params.get(name) for name in names))
