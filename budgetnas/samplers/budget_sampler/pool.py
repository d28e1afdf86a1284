"""Candidates within the limit: evenly drawn ones, and neighbours of a candidate."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from budgetnas.samplers.budget_sampler.encoding import Params, Ranges
from budgetnas.samplers.budget_sampler.observed import Key, key_of

_LISTED: Final = 20_000
"""Finite search spaces of at most this many candidates are listed instead of drawn from."""
_DRAWS: Final = 5_000
_TRIES: Final = 20_000
_ENOUGH: Final = 200
_NEIGHBOURS: Final = 8


class NothingFitsError(ValueError):
    """No candidate within the limit was found."""


class Pool:
    """The candidates of a search space within a limit."""

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
        """Return whether a candidate is within the limit."""
        key = key_of(params)
        if key not in self._known:
            self._known[key] = self._cost(params) <= self._limit
        return self._known[key]

    def costs(self, candidates: list[Params]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the cost of each candidate."""
        return np.array([self._cost(params) for params in candidates], dtype=np.float64)

    def anything(self, number: int) -> list[Params]:
        """Return evenly drawn candidates, within the limit or not."""
        return [self._draw() for _ in range(number)]

    def draw(self) -> list[Params]:
        """Return distinct candidates within the limit.

        A small search space is listed completely. Otherwise candidates are drawn evenly. If very few draws fit, more
        are found by changing one parameter at a time, starting from these draws or from the cheapest candidate.

        Raises:
            NothingFitsError: If even the cheapest candidate found exceeds the limit.
        """
        listed = self._all()
        if listed is not None:
            return [params for params in listed if self.fits(params)] or [self._cheapest()]
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
        """Yield candidates within the limit that differ from `params` in a single parameter."""
        for name in params:
            for value in self._values(self._ranges.distributions[name]):
                near = self._with({**params, name: value})
                if value != params[name] and self.fits(near):
                    yield near

    def _all(self) -> list[Params] | None:
        """Return all candidates, within the limit or not; None if there are too many."""
        distributions = self._ranges.distributions
        lists = [values for values in map(_listed, distributions.values()) if values is not None]
        if len(lists) < len(distributions) or math.prod(len(values) for values in lists) > _LISTED:
            return None
        combinations = (dict(zip(distributions, values, strict=True)) for values in itertools.product(*lists))
        return list({key_of(params): params for params in map(self._ranges.of, combinations)}.values())

    def _wander(self, found: dict[Key, Params]) -> None:
        here = next(iter(found.values()), None) or self._cheapest()
        for _ in range(_TRIES // 4):
            name = self._random.choice(list(here))
            near = self._with({**here, name: self._value(self._ranges.distributions[name])})
            if self.fits(near):
                here = near
                found.setdefault(key_of(near), near)

    def _cheapest(self) -> Params:
        """Return the cheapest candidate reached by changing one parameter at a time."""
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
        distributions = self._ranges.distributions
        return self._ranges.of({name: self._value(distribution) for name, distribution in distributions.items()})

    def _with(self, params: Params) -> Params:
        """Return `params` with random values for missing parameters, without those that the candidate cannot have."""
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
        assert isinstance(distribution, FloatDistribution), "the encoding rejects any other"
        return _number(distribution, self._random.random())

    def _values(self, distribution: BaseDistribution, *, ends: bool = False) -> list[Any]:
        """Return all values if there are few, else some evenly drawn; with `ends`, the two ends as well."""
        listed = _listed(distribution)
        if listed is not None and (len(listed) <= 2 * _NEIGHBOURS or not _is_ordered(distribution)):
            return list(listed)
        drawn = [self._value(distribution) for _ in range(_NEIGHBOURS)]
        return [*drawn, *_ends(distribution)] if ends else drawn


def _listed(distribution: BaseDistribution) -> Sequence[Any] | None:
    """Return all values of a parameter; None if there are infinitely many."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    return None


def _is_ordered(distribution: BaseDistribution) -> bool:
    """Return whether a parameter's values are numbers."""
    choices = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)


def _ends(distribution: BaseDistribution) -> tuple[Any, Any]:
    """Return the lowest and the highest value of an ordered parameter."""
    if isinstance(distribution, CategoricalDistribution):
        numbers = [choice for choice in distribution.choices if isinstance(choice, int | float)]
        return min(numbers), max(numbers)
    assert isinstance(distribution, IntDistribution | FloatDistribution), "the encoding rejects any other"
    return distribution.low, distribution.high


def _whole(distribution: IntDistribution, share: float) -> int:
    low, high = distribution.low, distribution.high
    if distribution.log:
        start, end = np.log(low - 0.5), np.log(high + 0.5)
        return int(min(high, max(low, round(float(np.exp(start + share * (end - start)))))))
    steps = (high - low) // distribution.step
    return int(low + distribution.step * min(steps, int(share * (steps + 1))))


def _number(distribution: FloatDistribution, share: float) -> float:
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        return float(min(high, max(low, low * (high / low) ** share)))
    if step is not None:
        steps = round((high - low) / step)
        return float(min(high, low + step * min(steps, int(share * (steps + 1)))))
    return float(low + share * (high - low))
