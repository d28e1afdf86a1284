"""A sampler for hard budgets, for any Optuna study with a single objective; independent of the rest of budgetnas."""

from budgetnas.samplers.budget_sampler.sampler import BudgetSampler

__all__ = ["BudgetSampler"]
