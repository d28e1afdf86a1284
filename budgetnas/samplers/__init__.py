"""Samplers: the constraint filter, BudgetSampler, TPE within a budget, and the choice of the winner."""
