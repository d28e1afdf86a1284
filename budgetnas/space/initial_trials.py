"""The initial trials: networks with a name, each with one of the optimisers."""

from __future__ import annotations

from typing import Final, get_args

from budgetnas.architecture import NAMES, named
from budgetnas.errors import InputError
from budgetnas.space.candidates import Candidate
from budgetnas.space.recipe import OptimizerName, RecipeSpace
from budgetnas.space.search_space import InputShape

LEARNING_RATE: Final = 0.1
WEIGHT_DECAY: Final[dict[OptimizerName, float]] = {"sgd": 5e-4, "adam": 0.0}
INITIAL_TRIALS: Final = ("v1-sgd", "v1-adam", "v2-sgd", "v2-adam")
"""The default: the two networks of the source report, each with both of its optimisers."""


def check_initial_trial(name: str) -> None:
    """Check the name of an initial trial.

    Raises:
        InputError: If it is not a network's name, ``-`` and an optimiser.
    """
    network, _, optimizer = name.partition("-")
    if network not in NAMES or optimizer not in get_args(OptimizerName):
        rule = "is not a network and an optimiser (sgd or adam), as in v2-sgd"
        raise InputError("seeds", name, rule, f"the networks are {', '.join(NAMES)}")


def initial_candidate(name: str, recipes: RecipeSpace, inputs: InputShape) -> Candidate:
    """Return the candidate of an initial trial, its network adapted to the data's shape.

    Args:
        name: Network and optimiser, e.g. ``v2-sgd``; the rates are those of the source report.
        recipes: Source of epochs, batch size, augmentation and the first choice of every extra.
        inputs: Shape of the images and number of classes.

    Raises:
        InputError: If no initial trial has that name.
    """
    check_initial_trial(name)
    network, _, optimizer = name.partition("-")
    architecture = named(network, in_channels=inputs.in_channels, size=inputs.size, classes=inputs.classes)
    chosen = next(known for known in get_args(OptimizerName) if known == optimizer)
    return Candidate(architecture, recipes.recipe(chosen, LEARNING_RATE, WEIGHT_DECAY[chosen]))
