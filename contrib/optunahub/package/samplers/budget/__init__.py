"""A sampler for noisy trainings under a hard limit on a cost that is known before a training."""

from budgetnas.samplers.budget_sampler import BudgetSampler

__all__ = ["BudgetSampler"]
