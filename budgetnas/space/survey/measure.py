"""What fits of a space: counted where that can be done in time, else drawn."""

from __future__ import annotations

from budgetnas.architecture.budget import Budget
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.survey.counted import count_space
from budgetnas.space.survey.drawn import draw_space
from budgetnas.space.survey.tally import Tally


def measure(space: SearchSpace, inputs: InputShape, budget: Budget, seed: int) -> Tally:
    """Return what fits of `space`; `seed` is that of the draws, where they are needed."""
    return count_space(space, inputs, budget) or draw_space(space, inputs, budget, seed)
