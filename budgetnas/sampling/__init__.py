"""A sampler for hard budgets, for any Optuna study with one objective; it needs nothing else of budgetnas."""

from budgetnas.sampling.sampler import BudgetSampler

__all__ = ["BudgetSampler"]
