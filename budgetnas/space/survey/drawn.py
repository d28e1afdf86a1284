"""A survey by evenly drawn networks, for spaces that are too large to count."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import BLOCKS, Architecture, Counts, Shape, block_counts, count, head_counts, stem_counts
from budgetnas.architecture.budget import QUANTITIES, Budget
from budgetnas.space.ranges import Params
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.survey.costs import MAX_WIDTHS, Costs, space_costs
from budgetnas.space.survey.counted import count_space
from budgetnas.space.survey.tally import End, Share, Tally, ValueShare, merged

DRAWS: Final = 200_000
"""Takes a fraction of a second; the error of the share of the whole space is 0.2 percentage points."""
FEW_DRAWS: Final = 2_000
"""For long tables of widths, where each draw is counted separately; the error is about 2 percentage points."""


def measure(space: SearchSpace, inputs: InputShape, budget: Budget, seed: int) -> Tally:
    """Return how much of `space` fits: counted if possible in time, otherwise from draws with `seed`."""
    return count_space(space, inputs, budget) or draw_space(space, inputs, budget, seed)


def draw_space(space: SearchSpace, inputs: InputShape, budget: Budget, seed: int, draws: int | None = None) -> Tally:
    """Return how much of the space fits, from `draws`, by default `DRAWS` or, with many widths, `FEW_DRAWS`.

    Each part of the space has as many draws: every number of stages, with or without squeeze-and-excitation.
    """
    if draws is None:
        draws = FEW_DRAWS if len(space.widths) > MAX_WIDTHS else DRAWS
    parts = space.parts()
    generators = np.random.default_rng(seed).spawn(len(parts))
    tallies = [
        _draw_part(part, inputs, budget, generator, draws // len(parts))
        for part, generator in zip(parts, generators, strict=True)
    ]
    return merged(space, tallies, inputs, budget)


def _draw_part(
    space: SearchSpace, inputs: InputShape, budget: Budget, generator: np.random.Generator, draws: int
) -> Tally:
    costs = space_costs(space, inputs, QUANTITIES)
    ranges = space.stage_ranges()
    tables = [values.values for values in ranges.values()]
    places = generator.integers([len(table) for table in tables], size=(draws, len(tables)))
    drawn = np.column_stack([np.array(table)[places[:, column]] for column, table in enumerate(tables)])
    counts = _counted_each(space, inputs, drawn) if costs is None else costs.of(places[:, 1::2], places[:, ::2])
    fits = np.ones(draws, dtype=np.bool_)
    for limit in budget.limits:
        fits &= counts[QUANTITIES.index(limit.quantity)] <= limit.value
    ends = _ends(space, inputs, drawn, counts[0])
    every = (*ends, *_ends(space, inputs, drawn[fits], counts[0][fits]))
    fitting = [architecture for architecture in every if budget.fits(architecture)]
    return Tally(
        share=Share(((int(fits.sum()), draws),), counted=False),
        values={
            name: _value_shares(space, inputs, budget, name, places[:, column], fits)
            for column, name in enumerate(ranges)
        },
        smallest=End(min(space.floors(inputs), key=_params), certain=True),
        largest=End(max(ends, key=_params), certain=False),
        largest_fitting=End(max(fitting, key=_params), certain=False) if fitting else None,
        fitting=(drawn[fits],),
    )


def _counted_each(space: SearchSpace, inputs: InputShape, drawn: NDArray[np.int64]) -> Costs:
    """Return the counts of networks, counted separately: quantity x network."""
    counts = [count(_architecture(space, inputs, row)) for row in drawn]
    return np.array(counts, dtype=np.int64).reshape(len(counts), len(QUANTITIES)).T


def _architecture(space: SearchSpace, inputs: InputShape, row: NDArray[np.int64]) -> Architecture:
    return space.architecture(dict(zip(space.stage_ranges(), row.tolist(), strict=True)), inputs)


def _ends(
    space: SearchSpace, inputs: InputShape, drawn: NDArray[np.int64], params: NDArray[np.int64]
) -> list[Architecture]:
    """Return the drawn networks with the fewest and the most parameters, and the known ends of the space."""
    highest: Params = {name: values.values[-1] for name, values in space.stage_ranges().items()}
    known = [*space.floors(inputs), space.architecture(highest, inputs)]
    extremes = (int(params.argmin()), int(params.argmax())) if len(drawn) else ()
    return [*known, *(_architecture(space, inputs, drawn[index]) for index in extremes)]


def _params(architecture: Architecture) -> int:
    return count(architecture).params


def _value_shares(
    space: SearchSpace,
    inputs: InputShape,
    budget: Budget,
    name: str,
    places: NDArray[np.int64],
    fits: NDArray[np.bool_],
) -> tuple[ValueShare, ...]:
    """Return for each value of a parameter the share of its draws that fit, and whether any network with it can fit."""
    ranges = space.stage_ranges()
    table = ranges[name].values
    lowest: Params = {parameter: values.values[0] for parameter, values in ranges.items()}
    of = np.bincount(places, minlength=len(table)).tolist()
    fitting = np.bincount(places[fits], minlength=len(table)).tolist()

    def never(value: int) -> bool:
        return bool(budget.excesses(lower_bound(space.architecture(lowest | {name: value}, inputs))))

    possible = bisect_left(table, True, key=never)  # the lower bound increases with the value
    return tuple(
        ValueShare(
            value,
            Share(((fitting[at], of[at]),), counted=False),
            1 / len(table),
            possible=fitting[at] > 0 or at < possible,
        )
        for at, value in enumerate(table)
    )


def lower_bound(lowest: Architecture) -> Counts:
    """Return a lower bound of the counts of networks with at least the blocks and the widths of `lowest`.

    Wider and deeper networks cost more, except that a stage of stride 1 whose input becomes as wide as its output no
    longer needs a projection. So the bound is the counts of `lowest` without the projections of its stages of stride 1.
    """
    channels = lowest.stem_width
    counts, side = stem_counts(lowest.in_channels, channels, lowest.stem_kernel, lowest.stem_stride, lowest.size)
    for blocks, width, stride in zip(lowest.blocks, lowest.widths, lowest.strides, strict=True):
        block, shape = BLOCKS[lowest.block](channels, width, stride, lowest.se), Shape(channels, side, side)
        branches = block.layers()
        first = replace(branches, shortcut=()) if stride == 1 else branches
        counts = counts.plus(first.counts(shape))
        channels, side, _ = block.out_shape(shape)
        if blocks > 1:
            further, _ = block_counts(lowest.block, channels, width, 1, side, lowest.se)
            counts = counts.plus(further.times(blocks - 1))
    return counts.plus(head_counts(channels, side, lowest.classes))
