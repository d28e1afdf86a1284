"""One look at a space: its share, its ends, its ranges, the seed networks, and ranges that waste less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from budgetnas.architecture import Architecture, Counts, count, named
from budgetnas.architecture.budget import Budget, Quantity
from budgetnas.errors import InputError
from budgetnas.space.initial_trials import INITIAL_TRIALS
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.survey.measure import measure
from budgetnas.space.survey.suggestion import Suggestion, suggest
from budgetnas.space.survey.tally import Tally


@dataclass(frozen=True, slots=True)
class InitialTrial:
    """A network that seed trials have, against the limits and the space.

    Attributes:
        name: Its name.
        seeds: The study's seed trials with it.
        architecture: What it is, fitted to the data.
        counts: What it costs.
        left: For each limit, how much is to spare; below zero, by how much it is over.
        held: Whether the space holds it.
    """

    name: str
    seeds: tuple[str, ...]
    architecture: Architecture
    counts: Counts
    left: Mapping[Quantity, int]
    held: bool

    @property
    def fits(self) -> bool:
        """Whether it keeps every limit."""
        return min(self.left.values()) >= 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look at a space found.

    Attributes:
        space: The space.
        inputs: Shape of the data.
        budget: The limits.
        tally: What fits of it.
        seeds: The seed networks.
        suggestion: Ranges that waste less; nothing where there is nothing worth dropping.
    """

    space: SearchSpace
    inputs: InputShape
    budget: Budget
    tally: Tally
    seeds: tuple[InitialTrial, ...]
    suggestion: Suggestion | None


def survey(
    space: SearchSpace, inputs: InputShape, budget: Budget, *, seeds: Sequence[str] = INITIAL_TRIALS, seed: int = 0
) -> Survey:
    """Look at a space before anything is trained.

    Args:
        space: The space.
        inputs: Shape of the data.
        budget: The limits.
        seeds: The study's seed trials: those of their networks that fit stay in what is suggested.
        seed: Seed of the draws, where they are needed.

    Raises:
        InputError: If nothing in the space fits, or a seed trial is unknown.
    """
    for one in seeds:
        if one not in INITIAL_TRIALS:
            raise InputError("seeds", one, f"unknown; known are {', '.join(INITIAL_TRIALS)}")
    space.require_feasible(inputs, budget)
    tally = measure(space, inputs, budget, seed)
    networks = _seed_networks(space, inputs, budget, seeds)
    kept = [one.architecture for one in networks if one.seeds and one.fits and one.held]
    keep = [params for one in kept if (params := space.params_of(one)) is not None]
    return Survey(
        space=space,
        inputs=inputs,
        budget=budget,
        tally=tally,
        seeds=networks,
        suggestion=suggest(space, inputs, budget, tally, keep, seed),
    )


def _seed_networks(
    space: SearchSpace, inputs: InputShape, budget: Budget, seeds: Sequence[str]
) -> tuple[InitialTrial, ...]:
    found = []
    for name in dict.fromkeys(seed.partition("-")[0] for seed in INITIAL_TRIALS):
        architecture = named(name, in_channels=inputs.in_channels, size=inputs.size, classes=inputs.classes)
        counts = count(architecture)
        found.append(
            InitialTrial(
                name=name,
                seeds=tuple(seed for seed in seeds if seed.partition("-")[0] == name),
                architecture=architecture,
                counts=counts,
                left={limit.quantity: limit.value - limit.count(counts) for limit in budget.limits},
                held=space.params_of(architecture) is not None,
            )
        )
    return tuple(found)
