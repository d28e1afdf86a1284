"""TPE under a budget: one fit for a trial, and of all that is drawn from it only what keeps the budget is ranked.

Optuna's sampler draws candidates from the density of the good trials and proposes the one that its acquisition
function ranks first. Where that one is over the budget, asking again means another fit, which at a thousand trials
takes longer than anything else. Here the draws over the budget are thrown away before they are ranked.

Everything here that Optuna does not promise: the class of the density, `_ParzenEstimator`, and the sampler's
`_parzen_estimator_cls`, which its source offers for this. ``tests/test_search_tpe.py`` fails if either changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator

from budgetnas.budget import Budget
from budgetnas.space import CandidateSpace, Params

DOUBLINGS: Final = 5
"""Rounds of draws for one proposal, each twice as many as the one before: 24, 48, ... 384."""
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


class _BudgetDensity(_ParzenEstimator):
    """A density of which only draws that keep a budget are given, if any does in a bounded number."""

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
        """Return up to `size` draws that keep the budget; where none does, draws that do not."""
        drawn, kept, found = super().sample(rng, size), [], 0
        if self._fits(self._params(drawn, 0)) is None:
            return drawn
        for doubling in range(DOUBLINGS):
            more = drawn if doubling == 0 else super().sample(rng, size << doubling)
            chosen = self._keeping(more, size - found)
            kept.append({name: values[chosen] for name, values in more.items()})
            found += len(chosen)
            if found == size:
                break
        return {name: np.concatenate([one[name] for one in kept]) for name in drawn} if found else drawn

    def _keeping(self, drawn: _Draws, wanted: int) -> list[int]:
        chosen: list[int] = []
        for index in range(len(next(iter(drawn.values())))):
            if len(chosen) == wanted:
                break
            if self._fits(self._params(drawn, index)):
                chosen.append(index)
        return chosen

    def _params(self, drawn: _Draws, index: int) -> Params:
        return {
            name: self._distributions[name].to_external_repr(values[index].item()) for name, values in drawn.items()
        }
