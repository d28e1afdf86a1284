"""A sampler for hard budgets, for any Optuna study with one objective; it needs nothing else of budgetnas."""

from budgetnas.samplers.budget_sampler.sampler import BudgetSampler

__all__ = ["BudgetSampler"]
