"""The search space for Optuna: its distributions, its conditions and its cost."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget
from budgetnas.samplers.budget_sampler.encoding import Ranges
from budgetnas.space.search_space import CandidateSpace, Choice, LogRange, Params, Range, Value, WholeRange

_COSTS_KEPT: Final = 2**17


def distribution(values: Range) -> BaseDistribution:
    """Return Optuna's distribution of a range."""
    match values:
        case WholeRange(low, high):
            return IntDistribution(low, high)
        case LogRange(low, high):
            return FloatDistribution(low, high, log=True)
        case Choice(choices):
            return CategoricalDistribution(choices)


def search_ranges(candidates: CandidateSpace) -> Ranges:
    """Return the distribution of every parameter, and which parameters exist only with which optimiser."""
    return Ranges(
        distributions={name: distribution(values) for name, values in candidates.ranges().items()},
        conditions={
            name: ("optimizer", (optimizer,))
            for optimizer in candidates.recipes.optimizers
            for name in candidates.names_for(optimizer)
        },
    )


def budget_share(candidates: CandidateSpace, budget: Budget) -> Callable[[Params], float]:
    """Return a function that returns the share of a budget that a network uses: its largest share of any limit."""
    names, limits = tuple(candidates.space.ranges()), budget.limits

    @functools.lru_cache(_COSTS_KEPT)
    def share(*values: Value) -> float:
        counts = count(candidates.space.architecture(dict(zip(names, values, strict=True)), candidates.inputs))
        return max(limit.share(counts) for limit in limits)

    return lambda params: share(*(params[name] for name in names))
