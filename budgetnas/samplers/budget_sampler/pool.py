"""Candidates within the limit: evenly drawn ones, and neighbours of a candidate."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from budgetnas.samplers.budget_sampler.encoding import Params, Ranges
from budgetnas.samplers.budget_sampler.observed import Key, key_of

_LISTED: Final = 20_000
"""Finite search spaces of at most this many candidates are listed instead of drawn from."""
_DRAWS: Final = 5_000
_TRIES: Final = 20_000
_ENOUGH: Final = 1_000
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
        self._values = {name: _Values.of(distribution) for name, distribution in ranges.distributions.items()}
        self._known: dict[Key, bool] = {}

    def fits(self, params: Params) -> bool:
        """Return whether a candidate is within the limit."""
        return self._fits(key_of(params), params)

    def draw_any(self, number: int) -> list[Params]:
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
            self._random_walk(found)
        return list(found.values())

    def neighbours(self, params: Params) -> Iterator[tuple[Key, Params]]:
        """Yield candidates within the limit that differ from `params` in a single parameter, with their keys."""
        for name in params:
            for value in self._values[name].near(self._random):
                near = self._with({**params, name: value}, changed=name)
                if value != params[name] and self._fits(key := key_of(near), near):
                    yield key, near

    def _fits(self, key: Key, params: Params) -> bool:
        if key not in self._known:
            self._known[key] = self._cost(params) <= self._limit
        return self._known[key]

    def _all(self) -> list[Params] | None:
        """Return all candidates, within the limit or not; None if there are too many."""
        lists = [values.listed for values in self._values.values() if values.listed is not None]
        if len(lists) < len(self._values) or math.prod(len(values) for values in lists) > _LISTED:
            return None
        combinations = (dict(zip(self._values, values, strict=True)) for values in itertools.product(*lists))
        return list({key_of(params): params for params in map(self._ranges.of, combinations)}.values())

    def _random_walk(self, found: dict[Key, Params]) -> None:
        here = next(iter(found.values()), None) or self._cheapest()
        for _ in range(_TRIES // 4):
            name = self._random.choice(list(here))
            near = self._with({**here, name: self._values[name].draw(self._random)}, changed=name)
            if self.fits(near):
                here = near
                found.setdefault(key_of(near), near)

    def _cheapest(self) -> Params:
        """Return the cheapest candidate reached by changing one parameter at a time."""
        best = min(self.draw_any(100), key=self._cost)
        cost = self._cost(best)
        while True:
            near = [
                self._with({**best, name: value}, changed=name)
                for name in best
                for value in self._values[name].near(self._random, ends=True)
            ]
            cheaper = min(near, key=self._cost)
            if not self._cost(cheaper) < cost:
                break
            best, cost = cheaper, self._cost(cheaper)
        if cost > self._limit:
            raise NothingFitsError(f"limit {self._limit:g}: the cheapest candidate found costs {cost:g}: {best}")
        return best

    def _draw(self) -> Params:
        return self._ranges.of({name: values.draw(self._random) for name, values in self._values.items()})

    def _with(self, params: Params, *, changed: str) -> Params:
        """Return `params` with random values for missing parameters, without those that the candidate cannot have."""
        if changed not in self._ranges.parents:
            return params
        complete = dict(params)
        while missing := [name for name in self._ranges.names(complete) if name not in complete]:
            complete |= {name: self._values[name].draw(self._random) for name in missing}
        return self._ranges.of(complete)


@dataclass(frozen=True, slots=True)
class _Values:
    """The values of a parameter."""

    listed: Sequence[Any] | None  # all of them; None if there are infinitely many
    ends: tuple[Any, ...]  # the lowest and the highest, if they are ordered
    draw: Callable[[random.Random], Any]  # returns an evenly drawn value

    @classmethod
    def of(cls, distribution: BaseDistribution) -> _Values:
        """Return the values of a distribution."""
        ends = _ends(distribution) if _is_ordered(distribution) else ()
        return cls(_listed(distribution), ends, _drawing(distribution))

    def near(self, generator: random.Random, *, ends: bool = False) -> list[Any]:
        """Return all values if there are few, else some evenly drawn; with `ends`, the two ends as well."""
        if self.listed is not None and (len(self.listed) <= 2 * _NEIGHBOURS or not self.ends):
            return list(self.listed)
        drawn = [self.draw(generator) for _ in range(_NEIGHBOURS)]
        return [*drawn, *self.ends] if ends else drawn


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


def _drawing(distribution: BaseDistribution) -> Callable[[random.Random], Any]:
    """Return a function that draws evenly from a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return lambda generator: generator.choice(choices)
    if isinstance(distribution, IntDistribution):
        return lambda generator: _whole(distribution, generator.random())
    assert isinstance(distribution, FloatDistribution), "the encoding rejects any other"
    return lambda generator: _number(distribution, generator.random())


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
