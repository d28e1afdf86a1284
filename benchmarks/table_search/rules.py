"""How a search that has ended names one network: the same rules for every sampler.

- ``single``: all trainings are the search's; the network with the best single one is named.
- ``repeat``: a fifth of the trainings is kept back (see `repeats`); it goes to two more of each of the best distinct
  networks; of these the one with the best mean, over all of its trainings, is named.
- ``recommend``: all trainings are the search's; what `BudgetSampler.recommend` names is named, whoever searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

RULES: Final = ("single", "repeat", "recommend")
AGAIN: Final = 2
"""Further trainings of each network that is repeated."""
FEWEST: Final = 5
"""Trainings below which there is nothing to keep back."""


@dataclass(frozen=True, slots=True)
class Training:
    """One training.

    Attributes:
        network: Which network.
        error: Its test error, in percent.
    """

    network: int
    error: float


def repeats(trainings: int) -> int:
    """Return how many networks are repeated: one for ten trainings, so 5 of 50, and at least one."""
    return max(1, trainings // 10)


def searched(rule: str, trainings: int) -> int:
    """Return how many of all `trainings` are the search's."""
    return trainings - AGAIN * repeats(trainings) if rule == "repeat" else trainings


def best_single(made: Sequence[Training]) -> int:
    """Return the network with the least error in one training; the earlier of two equal ones."""
    return min(made, key=lambda one: one.error).network


def best_repeated(made: Sequence[Training], count: int, train: Callable[[int], float]) -> int:
    """Return the best of those trained again.

    Args:
        made: The search's trainings.
        count: How many distinct networks to train again, the best by the mean of their trainings so far; fewer if
            there are no more.
        train: Trains one once more.
    """
    errors: dict[int, list[float]] = {}
    for one in made:
        errors.setdefault(one.network, []).append(one.error)
    again = sorted(errors, key=lambda network: fmean(errors[network]))[:count]
    return min(again, key=lambda network: fmean([*errors[network], *(train(network) for _ in range(AGAIN))]))
