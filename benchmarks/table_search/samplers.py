"""The samplers that are compared, each proposing only networks within the limit."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from benchmarks.opponents.candidates import CandidateSampler
from benchmarks.opponents.registry import HUB, NEIGHBOURS, OPPONENTS, algorithm, hub_sampler
from benchmarks.table_search.problem import Problem
from budgetnas.errors import InputError
from budgetnas.samplers.budget_sampler import BudgetSampler
from budgetnas.samplers.constraint_filter import MAX_PROPOSALS
from budgetnas.samplers.named import ONCE as OTHERS
from budgetnas.samplers.named import make_sampler

OURS: Final = "budget"
"""The name of `BudgetSampler`."""
SAMPLERS: Final = (*OTHERS, *NEIGHBOURS, OURS)
"""Those that need no further package."""
ALL: Final = (*SAMPLERS, *OPPONENTS, *HUB)
SLOW: Final = ("gp", *OPPONENTS, *HUB)
"""Those that take so long that fewer searches are made with them unless asked for."""


def split(name: str) -> tuple[str, int]:
    """Return the sampler of a name and its number of workers: budget*4 is `budget` with 4 trainings at a time."""
    sampler, _, workers = name.partition("*")
    return sampler, int(workers) if workers.isdecimal() and int(workers) > 0 else 1


def check_names(argument: str, asked: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return what was asked for, each once, if all of it is among `names`.

    Raises:
        InputError: If it is not.
    """
    for name in asked:
        sampler, workers = split(name)
        if sampler not in names or name not in (sampler, f"{sampler}*{workers}"):
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else ""
            raise InputError(argument, name, f"must be one of {', '.join(names)}", hint)
    return tuple(dict.fromkeys(asked))


def plans(name: str) -> bool:
    """Return whether a sampler is told how many trainings there will be, so that a longer search begins otherwise."""
    return split(name)[0] == OURS


def sampler_for(name: str, problem: Problem, trainings: int, seed: int, draws: np.random.Generator) -> BaseSampler:
    """Return the sampler of that name for one search.

    Args:
        name: One of `ALL`, without a number of workers.
        problem: What is searched.
        trainings: How many trainings there will be.
        seed: Its seed.
        draws: Where draws within the limit come from that are not the sampler's own.
    """
    if name == OURS:
        return ours(problem, trainings, seed)
    if name in NEIGHBOURS or name in OPPONENTS:
        return CandidateSampler(problem.candidates, algorithm(name, problem.candidates, draws))
    if name in HUB:
        inner = hub_sampler(name, seed, lambda params: problem.cost(params) - problem.limit)
    else:
        inner = make_sampler(name, seed, problem.fits)
    return WithinLimit(inner, problem, draws)


def ours(problem: Problem, trainings: int, seed: int) -> BudgetSampler:
    """Return `BudgetSampler` for one search."""
    return BudgetSampler(
        n_trainings=trainings,
        cost=problem.cost,
        limit=problem.limit,
        search_space=problem.distributions,
        seed=seed,
    )


class WithinLimit(BaseSampler):
    """Proposes what an inner sampler proposes, if it keeps the limit.

    A proposal over the limit is rejected before a trial exists and uses up no training. After as many rejections as
    `ConstraintFilter` allows, or when the inner sampler repeats itself, a network within the limit is drawn uniformly.
    Unlike the filter this sampler may propose a network again: another training of it adds information.

    Args:
        inner: Any single-objective Optuna sampler.
        problem: What is searched.
        draws: Where draws within the limit come from.
    """

    def __init__(self, inner: BaseSampler, problem: Problem, draws: np.random.Generator) -> None:
        self._inner = inner
        self._problem = problem
        self._draws = draws

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every parameter: all are proposed together, so that all can be judged."""
        return dict(self._problem.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a network that keeps the limit."""
        turned_down: list[dict[str, Any]] = []
        for _ in range(MAX_PROPOSALS):
            params = self._proposal(study, trial, search_space)
            if self._problem.fits(params):
                return params
            if params in turned_down:
                break
            turned_down.append(params)
        return dict(self._problem.draw(self._draws))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the inner sampler's value for one parameter."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass on to the inner sampler."""
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Pass on to the inner sampler."""
        self._inner.after_trial(study, trial, state, values)

    def _proposal(self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        params = self._inner.sample_relative(study, trial, space)
        for name, one in space.items():
            if name not in params:
                params[name] = self._inner.sample_independent(study, trial, name, one)
        return params
