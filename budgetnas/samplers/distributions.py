"""Ranges of the search space as Optuna's distributions."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from budgetnas.space.search_space import Choice, LogRange, Range, WholeRange


def distribution(one: Range) -> BaseDistribution:
    """Return Optuna's distribution of a range."""
    match one:
        case WholeRange(low, high):
            return IntDistribution(low, high)
        case LogRange(low, high):
            return FloatDistribution(low, high, log=True)
        case Choice(values):
            return CategoricalDistribution(values)
