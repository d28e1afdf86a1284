"""An exact count of the networks of a space that fit, without building each network.

Each part of the space, with a single number of stages and with or without squeeze-and-excitation, is counted by itself.

A stage's costs depend only on its own width and blocks and on the width before it. So networks are cut into a left and
a right half, which meet at a width: every left half and every right half with the same width make a network. A space of
32 million networks has a few thousand halves per width. With a single limit the halves are sorted, and a binary search
finds how many partners of each half fit. With several limits all pairs are compared, except for halves that exceed a
limit with each of their partners.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture.budget import PEAKS, Budget, Limit, Quantity
from budgetnas.space.ranges import Params, Steps
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.survey.costs import Costs, SpaceCosts, space_costs, together
from budgetnas.space.survey.tally import End, Share, Tally, ValueShare, merged

MAX_HALVES: Final = 4_000_000
"""Largest number of halves that are listed."""
MAX_PAIRS: Final = 1_000_000_000
"""Largest number of pairs that are compared with several limits; about two seconds."""
_PASSES: Final = 2
_CHUNK: Final = 4_000_000


def count_space(space: SearchSpace, inputs: InputShape, budget: Budget) -> Tally | None:
    """Return how much of the whole space fits, exactly, or None if it is too large."""
    tallies = []
    for part in reversed(space.parts()):  # the largest first: it may be too large
        tally = _count_part(part, inputs, budget)
        if tally is None:
            return None
        tallies.append(tally)
    return merged(space, tallies[::-1], inputs, budget)


def _count_part(space: SearchSpace, inputs: InputShape, budget: Budget) -> Tally | None:
    if _halves(space, _cut(space)) > MAX_HALVES:
        return None
    others = tuple(limit.quantity for limit in budget.limits if limit.quantity != "params")
    costs = space_costs(space, inputs, ("params", *others))
    return None if costs is None else _Count(space, inputs, budget, costs).tally()


def _cut(space: SearchSpace) -> int:
    """Return how many stages belong to the left halves, so that the fewest halves have to be listed."""
    return min(range(1, len(space.blocks) + 1), key=lambda cut: _halves(space, cut))


def _halves(space: SearchSpace, cut: int) -> int:
    table = len(space.widths)
    options = [table * len(space.depths_of(stage)) for stage in range(1, len(space.blocks) + 1)]
    return prod(options[:cut]) + table * prod(options[cut:])


class _Bound(NamedTuple):
    """A limit, for halves."""

    row: int  # row of the limited quantity
    most: int  # the limit
    peak: bool  # whether a network has the larger of its halves' costs instead of their sum

    def rest(self, costs: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
        """Return the most that the other half may cost, for each cost of a half; -1 for a half over the limit."""
        return np.where(costs <= self.most, self.most, -1) if self.peak else np.asarray(self.most - costs)


@dataclass(frozen=True, slots=True)
class _Join:
    """All halves that share a width."""

    index: int  # the width, as an index into the table
    left: Costs  # costs of the left halves, by quantity
    right: Costs  # costs of the right halves, by quantity

    def within(self, bounds: Sequence[_Bound]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the halves, left and right, that keep each limit alone with their cheapest partners."""
        halves = [np.arange(self.left.shape[1]), np.arange(self.right.shape[1])]
        for _ in range(_PASSES):
            for bound in bounds:
                for own, other in ((0, 1), (1, 0)):
                    costs = self.left[bound.row, halves[0]], self.right[bound.row, halves[1]]
                    cheapest = costs[other].min() if len(costs[other]) else np.int64(bound.most + 1)
                    halves[own] = halves[own][costs[own] <= bound.rest(cheapest)]
        return halves[0], halves[1]


@dataclass(frozen=True, slots=True)
class _Matches:
    """The networks of a join that fit."""

    left: NDArray[np.int64]  # for each left half, the number of right halves that fit
    right: NDArray[np.int64]  # for each right half, the number of left halves that fit
    largest: tuple[int, int] | None  # the two halves of the fitting network with the most parameters, or None


class _Count:
    """The halves of a space, and their pairs that fit."""

    def __init__(self, space: SearchSpace, inputs: InputShape, budget: Budget, costs: SpaceCosts) -> None:
        self._space, self._inputs = space, inputs
        self._quantities = costs.quantities
        self._cut = _cut(space)
        self._left = _left_halves(costs.stages[: self._cut], costs.quantities)
        self._right = _right_halves(costs.stages[self._cut :], costs.head, costs.quantities)
        self._limits = tuple(limit for limit in budget.limits if self._binds(limit))

    def tally(self) -> Tally | None:
        """Return how much fits, or None if there are too many pairs to compare."""
        if len(self._limits) > 1 and self._pairs() > MAX_PAIRS:
            return None
        left = np.zeros(self._left.shape[1:], dtype=np.int64)
        right = np.zeros(self._right.shape[1:], dtype=np.int64)
        by_join = np.moveaxis(left, 2 * self._cut - 2, 0)
        largest: list[tuple[int, _Join, int, int]] = []
        for join in self._joins():
            matches = self._matches(join)
            by_join[join.index] = matches.left.reshape(by_join.shape[1:])
            right[join.index] = matches.right.reshape(right.shape[1:])
            if matches.largest is not None:
                first, second = matches.largest
                largest.append((int(join.left[0, first] + join.right[0, second]), join, first, second))
        best = max(largest, key=lambda network: network[0], default=None)
        fits, size = int(left.sum()), self._space.size()
        return Tally(
            share=Share(((fits, size),), counted=True),
            values=self._values(left, right),
            smallest=self._extreme(least=True),
            largest=self._extreme(least=False),
            largest_fitting=None if best is None else self._end(*best[1:]),
        )

    def _binds(self, limit: Limit) -> bool:
        """Return whether any network of the space exceeds `limit`."""
        bound = self._bound(limit)
        return any(join.left[bound.row].max() > bound.rest(join.right[bound.row].max()) for join in self._joins())

    def _pairs(self) -> int:
        halves = (join.within(self._bounds()) for join in self._joins())
        return sum(len(left) * len(right) for left, right in halves)

    def _bounds(self) -> list[_Bound]:
        return [self._bound(limit) for limit in self._limits]

    def _bound(self, limit: Limit) -> _Bound:
        return _Bound(self._quantities.index(limit.quantity), limit.value, limit.quantity in PEAKS)

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
            return _look_up(join, self._bound(self._limits[0]))
        return _compare(join, self._bounds())

    def _values(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> dict[str, tuple[ValueShare, ...]]:
        """Return the share that fits for each value of each parameter."""
        shares: dict[str, tuple[ValueShare, ...]] = {}
        names = self._space.stage_ranges()
        for index, (name, values) in enumerate(self._named()):
            counts, axis = (left, index) if index < left.ndim else (right, index - left.ndim + 1)
            sums = counts.sum(axis=tuple(other for other in range(counts.ndim) if other != axis))
            table = values.values
            of = self._space.size() // len(table)
            shares[name] = tuple(
                ValueShare(value, Share(((int(fits), of),), counted=True), 1 / len(table), possible=bool(fits))
                for value, fits in zip(table, sums, strict=True)
            )
        return {name: shares[name] for name in names}

    def _named(self) -> list[tuple[str, Steps]]:
        """Return the ranges in the order of the halves' axes: width and blocks of each stage."""
        ranges = self._space.stage_ranges()
        stages = range(1, len(self._space.blocks) + 1)
        return [(name, ranges[name]) for stage in stages for name in (f"width_{stage}", f"blocks_{stage}")]

    def _extreme(self, *, least: bool) -> End:
        sign = 1 if least else -1
        best = min(self._joins(), key=lambda join: sign * _extreme_params(join, sign))
        left, right = (int((sign * half[0]).argmin()) for half in (best.left, best.right))
        return self._end(best, left, right)

    def _end(self, join: _Join, left: int, right: int) -> End:
        shape = list(self._left.shape[1:])
        del shape[2 * self._cut - 2]
        indexes = list(np.unravel_index(left, shape))
        indexes.insert(2 * self._cut - 2, np.intp(join.index))
        indexes += np.unravel_index(right, self._right.shape[2:]) if self._right.ndim > 2 else ()
        params: Params = {
            name: values.values[int(index)] for (name, values), index in zip(self._named(), indexes, strict=True)
        }
        return End(self._space.architecture(params, self._inputs), certain=True)


def _extreme_params(join: _Join, sign: int) -> int:
    return int(sum((sign * half[0]).min() for half in (join.left, join.right))) * sign


def _look_up(join: _Join, bound: _Bound) -> _Matches:
    """Return the matches under a single limit: a binary search finds the partners that keep within its rest."""
    own_left, own_right = join.left[bound.row], join.right[bound.row]
    order = np.argsort(own_left, kind="stable")
    right = np.searchsorted(own_left[order], bound.rest(own_right), side="right")
    left = np.searchsorted(np.sort(own_right), bound.rest(own_left), side="right")
    if not right.any():
        return _Matches(left, right, None)
    most_params = np.maximum.accumulate(join.left[0][order])
    together = np.where(right > 0, most_params[right - 1] + join.right[0], -1)
    right_half = int(together.argmax())
    left_half = int(order[int(join.left[0][order][: right[right_half]].argmax())])
    return _Matches(left, right, (left_half, right_half))


def _compare(join: _Join, bounds: Sequence[_Bound]) -> _Matches:
    """Return the matches under several limits by comparing all pairs, right halves with most parameters first."""
    matches = _Matches(np.zeros(join.left.shape[1], np.int64), np.zeros(join.right.shape[1], np.int64), None)
    lefts, rights = join.within(bounds)
    if not len(lefts) or not len(rights):
        return matches
    rights = rights[np.argsort(-join.right[0, rights], kind="stable")]
    first = np.zeros(len(lefts), dtype=np.int64)
    step = max(1, _CHUNK // len(rights))
    for start in range(0, len(lefts), step):
        rows = lefts[start : start + step]
        fits = np.ones((len(rows), len(rights)), dtype=np.bool_)
        for bound in bounds:
            fits &= join.left[bound.row, rows, None] <= bound.rest(join.right[bound.row, rights])[None, :]
        matches.left[rows] = np.count_nonzero(fits, axis=1)
        matches.right[rights] += np.count_nonzero(fits, axis=0)
        first[start : start + step] = fits.argmax(axis=1)
    if not matches.left.any():
        return matches
    together = np.where(matches.left[lefts] > 0, join.left[0, lefts] + join.right[0, rights[first]], -1)
    half = int(together.argmax())
    return replace(matches, largest=(int(lefts[half]), int(rights[first[half]])))


def _left_halves(stages: Sequence[Costs], quantities: tuple[Quantity, ...]) -> Costs:
    """Return the costs of all left halves: quantity x width 1 x blocks 1 x width 2 x blocks 2 ..."""
    costs = stages[0]
    for stage in stages[1:]:
        before = costs[..., None, None]
        kinds, widths, *own = stage.shape
        added = stage.reshape(kinds, *(1,) * (costs.ndim - 3), widths, 1, *own)
        costs = together(quantities, before, added)
    return costs


def _right_halves(stages: Sequence[Costs], head: Costs, quantities: tuple[Quantity, ...]) -> Costs:
    """Return the costs of all right halves: quantity x width before x width x blocks x width x blocks ..."""
    costs = head
    for stage in reversed(stages):
        kinds, widths, *rest = costs.shape
        after = costs.reshape(kinds, 1, widths, 1, *rest)
        costs = together(quantities, stage.reshape(*stage.shape, *(1,) * len(rest)), after)
    return costs
