"""The candidates within a limit, numbered, and the Optuna sampler that proposes those an algorithm picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState


class Training(NamedTuple):
    """A finished training."""

    candidate: int
    error: float


class Algorithm(Protocol):
    """Decides what to train next."""

    def propose(self, trainings: Sequence[Training]) -> int:
        """Return the number of a candidate, given all trainings so far in their order."""
        ...


class Candidates:
    """All candidates within the limit.

    Args:
        params: Parameters of each candidate; its place in this sequence is its number.
        distributions: The ranges of the parameters.
    """

    def __init__(self, params: Sequence[Mapping[str, int]], distributions: Mapping[str, IntDistribution]) -> None:
        self.params = params
        self.distributions = distributions
        self.numbers = {tuple(values.values()): number for number, values in enumerate(params)}

    def __len__(self) -> int:
        return len(self.params)

    @property
    def levels(self) -> dict[str, int]:
        """Number of values in each range."""
        return {name: (range_.high - range_.low) // range_.step + 1 for name, range_ in self.distributions.items()}

    @cached_property
    def places(self) -> NDArray[np.intp]:
        """A row for each candidate: the place of its value in each range, from 0."""
        low = np.array([range_.low for range_ in self.distributions.values()])
        step = np.array([range_.step for range_ in self.distributions.values()])
        values = np.array([[params[name] for name in self.distributions] for params in self.params])
        return np.asarray((values - low) // step, dtype=np.intp)

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """The places as shares of each range, from 0 (the lowest value) to 1 (the highest)."""
        return self.places / (np.array(list(self.levels.values()), dtype=np.float64) - 1)

    def number(self, params: Mapping[str, Any]) -> int:
        """Return the number of the candidate with these parameters."""
        return self.numbers[tuple(params[name] for name in self.distributions)]

    def draw(self, generator: np.random.Generator) -> int:
        """Return a candidate drawn evenly."""
        return int(generator.integers(len(self)))

    def neighbours(self, candidate: int) -> NDArray[np.intp]:
        """Return the candidates that differ from this one in a single parameter, by one place of its range."""
        return np.flatnonzero(np.abs(self.places - self.places[candidate]).sum(axis=1) == 1)


class CandidateSampler(BaseSampler):
    """Proposes the candidates that an algorithm picks.

    Args:
        candidates: All that can be proposed.
        algorithm: Picks from them.
    """

    def __init__(self, candidates: Candidates, algorithm: Algorithm) -> None:
        self._candidates = candidates
        self._algorithm = algorithm

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every parameter."""
        return dict(self._candidates.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the algorithm's proposal."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        trainings = [Training(self._candidates.number(done.params), done.values[0]) for done in complete]
        return dict(self._candidates.params[self._algorithm.propose(trainings)])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Not called: all parameters are proposed together."""
        raise NotImplementedError(f"{param_name} is not among the parameters of the candidates")
