"""A space counted to the last network, without making its networks.

What a stage costs depends on its own width and blocks and on the width before it, on nothing else. So a network is cut
in two where one half hands a width to the other: the costs of all left halves and of all right halves that meet at a
width are listed, and every pair of them is a network. A space of 32 million has lists of a few thousand for each width.
With one limit the lists are sorted and each half looks up how many others fit beside it; with several, all pairs are
compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture.budget import Budget, Limit
from budgetnas.space.search_space import InputShape, Params, SearchSpace
from budgetnas.space.survey.costs import Costs, SpaceCosts, space_costs
from budgetnas.space.survey.tally import Found, Share, Tally, ValueShare

MAX_HALVES: Final = 4_000_000
"""Halves that are listed."""
MAX_PAIRS: Final = 300_000_000
"""Pairs that are compared where there are several limits; about half a second."""
_CHUNK: Final = 4_000_000


def count_space(space: SearchSpace, inputs: InputShape, budget: Budget) -> Tally | None:
    """Return what fits of the whole space, exactly, or nothing if it is too large for that."""
    if _halves(space, _cut(space)) > MAX_HALVES:
        return None
    others = tuple(one.quantity for one in budget.limits if one.quantity != "params")
    costs = space_costs(space, inputs, ("params", *others))
    return None if costs is None else _Count(space, inputs, budget, costs).tally()


def _cut(space: SearchSpace) -> int:
    """Return the stage behind which to cut, so that the fewest halves are listed."""
    return min(range(1, space.num_stages + 1), key=lambda cut: _halves(space, cut))


def _halves(space: SearchSpace, cut: int) -> int:
    table = len(space.widths)
    options = [table * (high - low + 1) for low, high in space.blocks]
    return prod(options[:cut]) + table * prod(options[cut:])


@dataclass(frozen=True, slots=True)
class _Join:
    """All halves that meet at one width.

    Attributes:
        index: The width, as an index into the table.
        left: Costs of the left halves, by quantity.
        right: Costs of the right halves, by quantity.
    """

    index: int
    left: Costs
    right: Costs


@dataclass(frozen=True, slots=True)
class _Matches:
    """What fits of one join.

    Attributes:
        left: For each left half, how many right ones fit beside it.
        right: For each right half, how many left ones do.
        largest: The two halves of the network with the most parameters that fits, if any does.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    largest: tuple[int, int] | None


class _Count:
    """The halves of a space, and what fits of their pairs."""

    def __init__(self, space: SearchSpace, inputs: InputShape, budget: Budget, costs: SpaceCosts) -> None:
        self._space, self._inputs = space, inputs
        self._quantities = costs.quantities
        self._cut = _cut(space)
        self._left = _left_halves(costs.stages[: self._cut])
        self._right = _right_halves(costs.stages[self._cut :], costs.head)
        self._limits = tuple(limit for limit in budget.limits if self._binds(limit))

    def tally(self) -> Tally | None:
        """Return what fits, or nothing if there are too many pairs to compare."""
        if len(self._limits) > 1 and self._space.size() > MAX_PAIRS:
            return None
        left = np.zeros(self._left.shape[1:], dtype=np.int64)
        right = np.zeros(self._right.shape[1:], dtype=np.int64)
        by_join = np.moveaxis(left, 2 * self._cut - 2, 0)
        found: list[tuple[int, _Join, int, int]] = []
        for join in self._joins():
            matches = self._matches(join)
            by_join[join.index] = matches.left.reshape(by_join.shape[1:])
            right[join.index] = matches.right.reshape(right.shape[1:])
            if matches.largest is not None:
                one, other = matches.largest
                found.append((int(join.left[0, one] + join.right[0, other]), join, one, other))
        largest = max(found, key=lambda one: one[0], default=None)
        fits, size = int(left.sum()), self._space.size()
        return Tally(
            share=Share(fits, size, counted=True),
            values=self._values(left, right),
            smallest=self._extreme(least=True),
            largest=self._extreme(least=False),
            largest_fitting=None if largest is None else self._found(*largest[1:]),
        )

    def _binds(self, limit: Limit) -> bool:
        """Return whether any network of the space breaks `limit`."""
        at = self._quantities.index(limit.quantity)
        return any(int(one.left[at].max() + one.right[at].max()) > limit.value for one in self._joins())

    def _joins(self) -> Iterator[_Join]:
        kinds = len(self._quantities)
        by_join = np.moveaxis(self._left, 2 * self._cut - 1, 1)
        for index in range(len(self._space.widths)):
            yield _Join(index, by_join[:, index].reshape(kinds, -1), self._right[:, index].reshape(kinds, -1))

    def _matches(self, join: _Join) -> _Matches:
        if not self._limits:
            ways = join.left.shape[1], join.right.shape[1]
            every = np.full(ways[0], ways[1]), np.full(ways[1], ways[0])
            return _Matches(*every, (int(join.left[0].argmax()), int(join.right[0].argmax())))
        if len(self._limits) == 1:
            return _look_up(join, self._limits[0], self._quantities.index(self._limits[0].quantity))
        return _compare(join, [(self._quantities.index(limit.quantity), limit.value) for limit in self._limits])

    def _values(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> dict[str, tuple[ValueShare, ...]]:
        """Return for each value of each parameter how many of its networks fit."""
        found: dict[str, tuple[ValueShare, ...]] = {}
        names = self._space.ranges()
        for place, (name, one) in enumerate(self._named()):
            counts, axis = (left, place) if place < left.ndim else (right, place - left.ndim + 1)
            sums = counts.sum(axis=tuple(each for each in range(counts.ndim) if each != axis))
            of = self._space.size() // (one.high - one.low + 1)
            found[name] = tuple(
                ValueShare(value, Share(int(fits), of, counted=True), possible=bool(fits))
                for value, fits in zip(range(one.low, one.high + 1), sums, strict=True)
            )
        return {name: found[name] for name in names}

    def _named(self) -> list[tuple[str, Any]]:
        """Return the ranges in the order of the halves' axes: width and blocks of each stage."""
        ranges = self._space.ranges()
        stages = range(1, self._space.num_stages + 1)
        return [(name, ranges[name]) for stage in stages for name in (f"width_{stage}", f"blocks_{stage}")]

    def _extreme(self, *, least: bool) -> Found:
        sign = 1 if least else -1
        best = min(self._joins(), key=lambda one: sign * _ends(one, sign))
        left, right = (int((sign * half[0]).argmin()) for half in (best.left, best.right))
        return self._found(best, left, right)

    def _found(self, join: _Join, left: int, right: int) -> Found:
        shape = list(self._left.shape[1:])
        del shape[2 * self._cut - 2]
        indexes = list(np.unravel_index(left, shape))
        indexes.insert(2 * self._cut - 2, np.intp(join.index))
        indexes += np.unravel_index(right, self._right.shape[2:]) if self._right.ndim > 2 else ()
        params: Params = {name: one.low + int(index) for (name, one), index in zip(self._named(), indexes, strict=True)}
        return Found(self._space.architecture(params, self._inputs), certain=True)


def _ends(join: _Join, sign: int) -> int:
    return int(sum((sign * half[0]).min() for half in (join.left, join.right))) * sign


def _look_up(join: _Join, limit: Limit, at: int) -> _Matches:
    """Return what fits under one limit, by looking up each half's rest in the sorted others."""
    order = np.argsort(join.left[at], kind="stable")
    sorted_left, sorted_right = join.left[at][order], np.sort(join.right[at])
    right = np.searchsorted(sorted_left, limit.value - join.right[at], side="right")
    left = np.searchsorted(sorted_right, limit.value - join.left[at], side="right")
    if not right.any():
        return _Matches(left, right, None)
    most_params = np.maximum.accumulate(join.left[0][order])
    together = np.where(right > 0, most_params[right - 1] + join.right[0], -1)
    other = int(together.argmax())
    one = int(order[int(join.left[0][order][: right[other]].argmax())])
    return _Matches(left, right, (one, other))


def _compare(join: _Join, limits: list[tuple[int, int]]) -> _Matches:
    """Return what fits under several limits, pair by pair, the right halves with most parameters first."""
    order = np.argsort(-join.right[0], kind="stable")
    lefts, rights = join.left.shape[1], join.right.shape[1]
    left, right = np.zeros(lefts, dtype=np.int64), np.zeros(rights, dtype=np.int64)
    first = np.zeros(lefts, dtype=np.int64)
    step = max(1, _CHUNK // rights)
    for start in range(0, lefts, step):
        rows = slice(start, start + step)
        fits = np.ones((len(first[rows]), rights), dtype=np.bool_)
        for at, most in limits:
            fits &= join.left[at, rows, None] <= (most - join.right[at][order])[None, :]
        left[rows] = np.count_nonzero(fits, axis=1)
        right[order] += np.count_nonzero(fits, axis=0)
        first[rows] = fits.argmax(axis=1)
    if not left.any():
        return _Matches(left, right, None)
    together = np.where(left > 0, join.left[0] + join.right[0][order[first]], -1)
    one = int(together.argmax())
    return _Matches(left, right, (one, int(order[first[one]])))


def _left_halves(stages: Sequence[Costs]) -> Costs:
    """Return the costs of all beginnings: quantity x width 1 x blocks 1 x width 2 x blocks 2 ..."""
    costs = stages[0]
    for stage in stages[1:]:
        before = costs[..., None, None]
        kinds, widths, *own = stage.shape
        added = stage.reshape(kinds, *(1,) * (costs.ndim - 3), widths, 1, *own)
        costs = before + added
    return costs


def _right_halves(stages: Sequence[Costs], head: Costs) -> Costs:
    """Return the costs of all ends: quantity x width before them x width x blocks x width x blocks ..."""
    costs = head
    for stage in reversed(stages):
        kinds, widths, *rest = costs.shape
        after = costs.reshape(kinds, 1, widths, 1, *rest)
        costs = stage.reshape(*stage.shape, *(1,) * len(rest)) + after
    return costs
