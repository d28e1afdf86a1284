"""TPE under a budget: it fits its densities once per trial and ranks only draws within the budget.

Optuna's sampler draws candidates from the density of the good trials and proposes the best by its acquisition function.
If that candidate is over the budget, a new proposal needs another fit, which at a thousand trials takes longer than
anything else. Here, draws over the budget are discarded before they are ranked.

This is the only module that uses private parts of Optuna: the density `_ParzenEstimator`; the sampler's
`_parzen_estimator_cls`, which is meant to be replaced; and a study's `_get_trials`, which caches trials while a trial
runs. ``tests/test_tpe.py`` fails if they change.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.trial import FrozenTrial, TrialState

from budgetnas.architecture.budget import Budget
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.ranges import Params, existing, in_tables

DOUBLINGS: Final = 5
"""Rounds of draws per proposal, with 24, 48, ... 384 draws, until a draw fits."""
Fits = Callable[[Params], bool | None]
_Draws = dict[str, NDArray[Any]]


def fits_within(space: CandidateSpace, budget: Budget) -> Fits:
    """Return a function that checks parameters against `budget`; it returns None if they define no architecture.

    Numbers between those of a table count as the nearest of the table.
    """
    ranges, conditions = space.space.ranges(), space.space.conditions()

    def fits(params: Params) -> bool | None:
        if any(name not in params for name in existing(ranges, params, conditions)):
            return None
        return budget.fits(space.space.architecture(in_tables(params, ranges), space.inputs))

    return fits


class BudgetTPE(TPESampler):
    """Optuna's multivariate TPE that ranks only candidates within a budget."""

    def __init__(self, fits: Fits, seed: int | None) -> None:
        super().__init__(seed=seed, multivariate=True)

        def density(*arguments: Any) -> _ParzenEstimator:
            return _BudgetDensity(fits, *arguments)

        self._parzen_estimator_cls = density  # type: ignore[assignment]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a proposal, all parameters drawn together."""
        return super().sample_relative(cast(Study, _CachedStudy(study)), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of a parameter."""
        return super().sample_independent(cast(Study, _CachedStudy(study)), trial, param_name, param_distribution)


class _CachedStudy:
    """A study that reads its trials from the storage once per proposal rather than once per parameter.

    With ``constant_liar``, Optuna's TPE reads all trials again for each parameter, to see those of other processes. The
    trials at the start of the proposal are recent enough.
    """

    def __init__(self, study: Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return self._study._get_trials(deepcopy, states, use_cache=True)


class _BudgetDensity(_ParzenEstimator):
    """A density whose draws are within a budget, if any of a bounded number of draws is."""

    def __init__(
        self,
        fits: Fits,
        observations: _Draws,
        search_space: dict[str, BaseDistribution],
        *arguments: Any,
    ) -> None:
        super().__init__(observations, search_space, *arguments)
        self._fits = fits
        self._distributions = search_space

    def sample(self, rng: np.random.RandomState, size: int) -> _Draws:
        """Return those of `size` draws that are within the budget; if none is, draw more."""
        drawn = super().sample(rng, size)
        if self._fits(self._params(drawn, 0)) is None:
            return drawn
        more = drawn
        for doubling in range(1, DOUBLINGS + 1):
            fitting = self._fitting(more)
            if fitting:
                return {name: values[fitting] for name, values in more.items()}
            if doubling < DOUBLINGS:
                more = super().sample(rng, size << doubling)
        return drawn

    def _fitting(self, drawn: _Draws) -> list[int]:
        draws = len(next(iter(drawn.values())))
        return [index for index in range(draws) if self._fits(self._params(drawn, index))]

    def _params(self, drawn: _Draws, index: int) -> Params:
        return {
            name: self._distributions[name].to_external_repr(values[index].item()) for name, values in drawn.items()
        }
