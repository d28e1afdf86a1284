"""A sampler for hard budgets, for any Optuna study with one objective; it needs nothing else of budgetnas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgetnas.samplers.budget_sampler.sampler import BudgetSampler

__all__ = ["BudgetSampler"]


def __getattr__(name: str) -> Any:
    if name != "BudgetSampler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from budgetnas.samplers.budget_sampler.sampler import BudgetSampler  # imports SciPy, which takes a second

    return BudgetSampler
