"""A space too large to be counted: networks drawn from it evenly, as a sampler without a model would."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import BLOCKS, Architecture, Counts, Shape, count, path_counts
from budgetnas.architecture.budget import QUANTITIES, Budget
from budgetnas.space.search_space import InputShape, Params, SearchSpace
from budgetnas.space.survey.costs import Costs, space_costs
from budgetnas.space.survey.tally import Found, Share, Tally, ValueShare

DRAWS: Final = 200_000
"""A fraction of a second, and an error of 0.2 points in the share of the whole space."""
FEW_DRAWS: Final = 2_000
"""Where the table has so many widths that every draw is counted by itself; an error of about 2 points."""


def draw_space(space: SearchSpace, inputs: InputShape, budget: Budget, seed: int, draws: int | None = None) -> Tally:
    """Return what fits of so many networks drawn evenly: `DRAWS`, or `FEW_DRAWS` for a long table, unless told."""
    costs = space_costs(space, inputs, QUANTITIES)
    if draws is None:
        draws = FEW_DRAWS if costs is None else DRAWS
    ranges = space.ranges()
    lows, highs = (np.array(ends) for ends in zip(*((one.low, one.high) for one in ranges.values()), strict=True))
    drawn = np.random.default_rng(seed).integers(lows, highs, size=(draws, len(ranges)), endpoint=True)
    counts = _counted_each(space, inputs, drawn) if costs is None else costs.of(drawn[:, 1::2], (drawn - lows)[:, ::2])
    fits = np.ones(draws, dtype=np.bool_)
    for limit in budget.limits:
        fits &= counts[QUANTITIES.index(limit.quantity)] <= limit.value
    ends = _ends(space, inputs, drawn, counts[0])
    fitting = [one for one in (*ends, *_ends(space, inputs, drawn[fits], counts[0][fits])) if budget.fits(one)]
    return Tally(
        share=Share(int(fits.sum()), draws, counted=False),
        values={name: _value_shares(space, inputs, budget, name, drawn[:, at], fits) for at, name in enumerate(ranges)},
        smallest=Found(min(space.floors(inputs), key=_params), certain=True),
        largest=Found(max(ends, key=_params), certain=False),
        largest_fitting=Found(max(fitting, key=_params), certain=False) if fitting else None,
        fitting=drawn[fits],
    )


def _counted_each(space: SearchSpace, inputs: InputShape, drawn: NDArray[np.int64]) -> Costs:
    """Return the counts of networks, made one by one: quantity x network."""
    found = [count(_architecture(space, inputs, row)) for row in drawn]
    return np.array(found, dtype=np.int64).reshape(len(found), len(QUANTITIES)).T


def _architecture(space: SearchSpace, inputs: InputShape, row: NDArray[np.int64]) -> Architecture:
    return space.architecture(dict(zip(space.ranges(), row.tolist(), strict=True)), inputs)


def _ends(
    space: SearchSpace, inputs: InputShape, drawn: NDArray[np.int64], params: NDArray[np.int64]
) -> list[Architecture]:
    """Return the networks with the fewest and the most parameters of those drawn, and those known to be at the ends."""
    highest: Params = {name: one.high for name, one in space.ranges().items()}
    known = [*space.floors(inputs), space.architecture(highest, inputs)]
    at = (int(params.argmin()), int(params.argmax())) if len(drawn) else ()
    return [*known, *(_architecture(space, inputs, drawn[one]) for one in at)]


def _params(one: Architecture) -> int:
    return count(one).params


def _value_shares(
    space: SearchSpace,
    inputs: InputShape,
    budget: Budget,
    name: str,
    drawn: NDArray[np.int64],
    fits: NDArray[np.bool_],
) -> tuple[ValueShare, ...]:
    """Return for each value of a parameter how many of its draws fit, and whether any network with it can."""
    one = space.ranges()[name]
    lowest: Params = {each: other.low for each, other in space.ranges().items()}
    of = np.bincount(drawn, minlength=one.high + 1).tolist()
    fitting = np.bincount(drawn[fits], minlength=one.high + 1).tolist()

    def never(value: int) -> bool:
        return bool(budget.excesses(at_least(space.architecture(lowest | {name: value}, inputs))))

    values = range(one.low, one.high + 1)
    possible = bisect_left(values, True, key=never)  # the least counts rise with the value
    return tuple(
        ValueShare(value, Share(fitting[value], of[value], counted=False), fitting[value] > 0 or at < possible)
        for at, value in enumerate(values)
    )


def at_least(lowest: Architecture) -> Counts:
    """Return counts below which no network lies that has at least the blocks and the widths of `lowest`.

    Wider and deeper costs more, with one exception: a stage of stride 1 whose input becomes as wide as its output no
    longer needs a projection. So these are the counts of `lowest` without the projections of its stages of stride 1.
    """
    counts = count(lowest)
    kind, channels, side = BLOCKS[lowest.block], lowest.stem_width, lowest.size
    for width, stride in zip(lowest.widths, lowest.strides, strict=True):
        block = kind(channels, width, stride)
        shape = Shape(channels, side, side)
        if stride == 1:
            counts = counts.plus(path_counts(block.layers().shortcut, shape).times(-1))
        channels, side, _ = block.out_shape(shape)
    return counts
