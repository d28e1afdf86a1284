"""Candidates within the limit: drawn, and near to others."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from budgetnas.samplers.budget_sampler.ranges import Params, Ranges

Key = tuple[tuple[str, Any], ...]
_LISTED: Final = 20_000
"""Search spaces of no more candidates than this, all of finitely many values, are listed instead of drawn from."""
_DRAWS: Final = 5_000
_TRIES: Final = 20_000
_ENOUGH: Final = 200
_NEIGHBOURS: Final = 8


class NothingFitsError(ValueError):
    """No candidate within the limit was found."""


def key_of(params: Mapping[str, Any]) -> Key:
    """Return what is equal for equal candidates."""
    return tuple(sorted(params.items()))


class Pool:
    """The candidates of a search space that keep a limit.

    Args:
        ranges: The parameters.
        cost: Cost of a candidate.
        limit: The most that it may be; equal to it is within.
        generator: AugmentationParameters them.
    """

    def __init__(
        self,
        ranges: Ranges,
        cost: Callable[[Params], float],
        limit: float,
        generator: random.Random,
    ) -> None:
        self._ranges = ranges
        self._cost = cost
        self._limit = limit
        self._random = generator
        self._known: dict[Key, bool] = {}

    def fits(self, params: Params) -> bool:
        """Return whether a candidate keeps the limit."""
        key = key_of(params)
        if key not in self._known:
            self._known[key] = self._cost(params) <= self._limit
        return self._known[key]

    def costs(self, many: list[Params]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the cost of each candidate."""
        return np.array([self._cost(params) for params in many], dtype=np.float64)

    def anything(self, number: int) -> list[Params]:
        """Return candidates drawn evenly, within the limit or not."""
        return [self._draw() for _ in range(number)]

    def draw(self) -> list[Params]:
        """Return distinct candidates within the limit: all of them where the search space is small.

        Else they are drawn evenly as long as enough of the draws fit. Where next to none does, the rest is reached from
        those that do, or from the cheapest, by changing one parameter after the other.

        Raises:
            NothingFitsError: If not even the cheapest that was found keeps the limit.
        """
        listed = self._all()
        if listed is not None:
            return [one for one in listed if self.fits(one)] or [self._cheapest()]
        found: dict[Key, Params] = {}
        for _ in range(_TRIES):
            params = self._draw()
            if self.fits(params):
                found.setdefault(key_of(params), params)
            if len(found) >= _DRAWS:
                break
        if len(found) < _ENOUGH:
            self._wander(found)
        return list(found.values())

    def neighbours(self, params: Params) -> Iterator[Params]:
        """Yield candidates within the limit that differ from one in a single parameter."""
        for name in params:
            for value in self._values(self._ranges.distributions[name]):
                near = self._with({**params, name: value})
                if value != params[name] and self.fits(near):
                    yield near

    def _all(self) -> list[Params] | None:
        """Return all candidates, within the limit or not; None where they are too many."""
        values = {name: _listed(one) for name, one in self._ranges.distributions.items()}
        if any(one is None for one in values.values()):
            return None
        lists = [one for one in values.values() if one is not None]
        if math.prod(len(one) for one in lists) > _LISTED:
            return None
        every = (self._ranges.of(dict(zip(values, one, strict=True))) for one in itertools.product(*lists))
        return list({key_of(one): one for one in every}.values())

    def _wander(self, found: dict[Key, Params]) -> None:
        here = next(iter(found.values()), None) or self._cheapest()
        for _ in range(_TRIES // 4):
            name = self._random.choice(list(here))
            near = self._with({**here, name: self._value(self._ranges.distributions[name])})
            if self.fits(near):
                here = near
                found.setdefault(key_of(near), near)

    def _cheapest(self) -> Params:
        """Return the cheapest candidate that changing one parameter after the other comes to."""
        best = min(self.anything(100), key=self._cost)
        cost = self._cost(best)
        while True:
            near = [
                self._with({**best, name: value})
                for name in best
                for value in self._values(self._ranges.distributions[name], ends=True)
            ]
            cheaper = min(near, key=self._cost)
            if not self._cost(cheaper) < cost:
                break
            best, cost = cheaper, self._cost(cheaper)
        if cost > self._limit:
            raise NothingFitsError(f"limit {self._limit:g}: the cheapest candidate found costs {cost:g}: {best}")
        return best

    def _draw(self) -> Params:
        return self._ranges.of({name: self._value(one) for name, one in self._ranges.distributions.items()})

    def _with(self, params: Params) -> Params:
        """Return a candidate without parameters that it does not have, and with drawn ones where it lacks some."""
        if not self._ranges.conditions:
            return params
        complete = dict(params)
        while missing := [name for name in self._ranges.names(complete) if name not in complete]:
            complete |= {name: self._value(self._ranges.distributions[name]) for name in missing}
        return self._ranges.of(complete)

    def _value(self, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return self._random.choice(distribution.choices)
        if isinstance(distribution, IntDistribution):
            return _whole(distribution, self._random.random())
        assert isinstance(distribution, FloatDistribution), "the encoding refuses any other"
        return _number(distribution, self._random.random())

    def _values(self, distribution: BaseDistribution, *, ends: bool = False) -> list[Any]:
        """Return all values where they are few, else some drawn evenly; with `ends` the two ends among them."""
        listed = _listed(distribution)
        if listed is not None and (isinstance(distribution, CategoricalDistribution) or len(listed) <= 2 * _NEIGHBOURS):
            return list(listed)
        assert isinstance(distribution, IntDistribution | FloatDistribution), "the encoding refuses any other"
        drawn = [self._value(distribution) for _ in range(_NEIGHBOURS)]
        return [*drawn, distribution.low, distribution.high] if ends else drawn


def _listed(distribution: BaseDistribution) -> Sequence[Any] | None:
    """Return all values of a parameter; None where they are not finitely many."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    return None


def _whole(one: IntDistribution, share: float) -> int:
    if one.log:
        low, high = np.log(one.low - 0.5), np.log(one.high + 0.5)
        return int(min(one.high, max(one.low, round(float(np.exp(low + share * (high - low)))))))
    steps = (one.high - one.low) // one.step
    return int(one.low + one.step * min(steps, int(share * (steps + 1))))


def _number(one: FloatDistribution, share: float) -> float:
    if one.log:
        return float(min(one.high, max(one.low, one.low * (one.high / one.low) ** share)))
    if one.step is not None:
        steps = round((one.high - one.low) / one.step)
        return float(min(one.high, one.low + one.step * min(steps, int(share * (steps + 1)))))
    return float(one.low + share * (one.high - one.low))
