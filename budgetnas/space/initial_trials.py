"""The seed trials: the source report's two networks, each with both of its optimisers."""

from __future__ import annotations

from typing import Final, get_args

from budgetnas.architecture import named
from budgetnas.errors import InputError
from budgetnas.space.recipe import OptimizerName, RecipeSpace
from budgetnas.space.search_space import Candidate, InputShape

LEARNING_RATE: Final = 0.1
WEIGHT_DECAY: Final[dict[OptimizerName, float]] = {"sgd": 5e-4, "adam": 0.0}
INITIAL_TRIALS: Final = ("v1-sgd", "v1-adam", "v2-sgd", "v2-adam")


def initial_candidate(seed: str, recipes: RecipeSpace, inputs: InputShape) -> Candidate:
    """Return the candidate of a seed, its network fitted to the data's shape.

    Args:
        seed: One of `INITIAL_TRIALS`: network and optimiser; the rates are the source report's.
        recipes: Where epochs, batch and augmentation come from, and the first choice of every extra.
        inputs: Shape of the images and number of classes.

    Raises:
        InputError: If no seed has that name.
    """
    name, _, optimizer = seed.partition("-")
    if seed not in INITIAL_TRIALS:
        raise InputError("seeds", seed, f"unknown; known are {', '.join(INITIAL_TRIALS)}")
    architecture = named(name, in_channels=inputs.in_channels, size=inputs.size, classes=inputs.classes)
    chosen = next(one for one in get_args(OptimizerName) if one == optimizer)
    return Candidate(architecture, recipes.recipe(chosen, LEARNING_RATE, WEIGHT_DECAY[chosen]))
