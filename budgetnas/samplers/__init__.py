"""Samplers: the budget gate around any of them, BudgetSampler, TPE within a budget, and which candidate is best."""
