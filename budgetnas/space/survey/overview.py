"""The survey of a space: its share that fits, its ends, its ranges, the initial networks, and suggested ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from budgetnas.architecture import Architecture, Counts, count, named
from budgetnas.architecture.budget import Budget, Quantity
from budgetnas.space.initial_trials import INITIAL_TRIALS, check_initial_trial
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.survey.drawn import measure
from budgetnas.space.survey.suggestion import Suggestion, suggest
from budgetnas.space.survey.tally import Tally


@dataclass(frozen=True, slots=True)
class InitialNetwork:
    """The network of an initial trial, compared with the limits and the space."""

    name: str
    trials: tuple[str, ...]  # the study's initial trials with it
    architecture: Architecture  # the network, adapted to the data
    counts: Counts
    left: Mapping[Quantity, int]  # for each limit, the limit minus the count
    in_space: bool  # whether it is in the space

    @property
    def fits(self) -> bool:
        """Whether it is within every limit."""
        return min(self.left.values()) >= 0


@dataclass(frozen=True, slots=True)
class Survey:
    """The result of a survey."""

    space: SearchSpace
    inputs: InputShape  # shape of the data
    budget: Budget
    tally: Tally  # how much of it fits
    initial_networks: tuple[InitialNetwork, ...]  # the networks of the initial trials
    suggestion: Suggestion | None  # narrower ranges, or None if nothing is worth dropping


def survey(
    space: SearchSpace, inputs: InputShape, budget: Budget, *, seeds: Sequence[str] = INITIAL_TRIALS, seed: int = 0
) -> Survey:
    """Survey a space before anything is trained.

    Args:
        space: The space.
        inputs: Shape of the data.
        budget: The limits.
        seeds: The study's initial trials; the suggested ranges contain their networks that fit.
        seed: Seed of the draws, if the space is too large to count.

    Raises:
        InputError: If nothing in the space fits, or an initial trial is unknown.
    """
    for name in seeds:
        check_initial_trial(name)
    space.require_feasible(inputs, budget)
    tally = measure(space, inputs, budget, seed)
    networks = _initial_networks(space, inputs, budget, seeds)
    kept = [network.architecture for network in networks if network.trials and network.fits]
    keep = [params for architecture in kept if (params := space.params_of(architecture)) is not None]
    return Survey(
        space=space,
        inputs=inputs,
        budget=budget,
        tally=tally,
        initial_networks=networks,
        suggestion=suggest(space, inputs, budget, tally, keep, seed),
    )


def _initial_networks(
    space: SearchSpace, inputs: InputShape, budget: Budget, seeds: Sequence[str]
) -> tuple[InitialNetwork, ...]:
    networks = []
    for name in dict.fromkeys(trial.partition("-")[0] for trial in (*INITIAL_TRIALS, *seeds)):
        architecture = named(name, in_channels=inputs.in_channels, size=inputs.size, classes=inputs.classes)
        counts = count(architecture)
        networks.append(
            InitialNetwork(
                name=name,
                trials=tuple(trial for trial in seeds if trial.partition("-")[0] == name),
                architecture=architecture,
                counts=counts,
                left={limit.quantity: limit.value - limit.count(counts) for limit in budget.limits},
                in_space=space.params_of(architecture) is not None,
            )
        )
    return tuple(networks)
