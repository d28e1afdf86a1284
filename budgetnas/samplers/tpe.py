"""TPE under a budget: one fit for a trial, and of all that is drawn from it only what keeps the budget is ranked.

Optuna's sampler draws candidates from the density of the good trials and proposes the one that its acquisition
function ranks first. Where that one is over the budget, asking again means another fit, which at a thousand trials
takes longer than anything else. Here the draws over the budget are thrown away before they are ranked.

What Optuna does not promise is used here only: the class of the density, `_ParzenEstimator`; the sampler's
`_parzen_estimator_cls`, which its source offers for this; and a study's `_get_trials`, which keeps what it read for
the length of a trial. ``tests/test_search_tpe.py`` fails where they change.
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
from budgetnas.space.search_space import CandidateSpace, Params

DOUBLINGS: Final = 5
"""Rounds of draws for one proposal, each twice as many as the one before: 24, 48, ... 384, until one fits."""
Fits = Callable[[Params], bool | None]
_Draws = dict[str, NDArray[Any]]


def fits_within(space: CandidateSpace, budget: Budget) -> Fits:
    """Return what tells whether parameters keep `budget`; of parameters that name no architecture, nothing."""
    names = space.space.ranges().keys()

    def fits(params: Params) -> bool | None:
        return budget.fits(space.space.architecture(params, space.inputs)) if names <= params.keys() else None

    return fits


class BudgetTPE(TPESampler):
    """Optuna's multivariate TPE, ranking only candidates that keep a budget.

    Args:
        fits: Tells whether parameters keep the budget.
        seed: Seed of its draws.
    """

    def __init__(self, fits: Fits, seed: int | None) -> None:
        super().__init__(seed=seed, multivariate=True)

        def density(*arguments: Any) -> _ParzenEstimator:
            return _BudgetDensity(fits, *arguments)

        self._parzen_estimator_cls = density  # type: ignore[assignment]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a proposal, drawn together."""
        return super().sample_relative(cast(Study, _OneReading(study)), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of one parameter."""
        return super().sample_independent(cast(Study, _OneReading(study)), trial, param_name, param_distribution)


class _OneReading:
    """A study whose trials are read from the storage once for a proposal, and not again for each of its parameters.

    With a constant liar, TPE reads anew whenever it samples, to hear of other processes' trials. Those of the moment
    at which the proposal began are as good.
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
    """A density of which only draws that keep a budget are ranked, if any does in a bounded number."""

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
        """Return those of `size` draws that keep the budget; more are drawn only where none does."""
        drawn = super().sample(rng, size)
        if self._fits(self._params(drawn, 0)) is None:
            return drawn
        more = drawn
        for doubling in range(1, DOUBLINGS + 1):
            keeping = self._keeping(more)
            if keeping:
                return {name: values[keeping] for name, values in more.items()}
            if doubling < DOUBLINGS:
                more = super().sample(rng, size << doubling)
        return drawn

    def _keeping(self, drawn: _Draws) -> list[int]:
        draws = len(next(iter(drawn.values())))
        return [index for index in range(draws) if self._fits(self._params(drawn, index))]

    def _params(self, drawn: _Draws, index: int) -> Params:
        return {
            name: self._distributions[name].to_external_repr(values[index].item()) for name, values in drawn.items()
        }
