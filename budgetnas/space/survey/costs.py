"""What every stage of a space costs, for each width before it, each width and each number of blocks of its own."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import BLOCKS, default_strides, head_counts, stage_counts, stem_counts
from budgetnas.architecture.budget import QUANTITIES, Quantity
from budgetnas.space.search_space import InputShape, SearchSpace

Costs = NDArray[np.int64]

MAX_WIDTHS: Final = 64
"""Widths in the table: a stage is counted for each pair of them, of 64 in about half a second for four stages."""


@dataclass(frozen=True, slots=True)
class SpaceCosts:
    """The costs of a space's stages; the sum along a network is its counts.

    Attributes:
        quantities: What is counted; parameters first.
        stages: For each stage, quantity x width before it x width x blocks, each further block costing the same. The
            first has the stem in it, and no width before it.
        head: Quantity x width of the last stage.
    """

    quantities: tuple[Quantity, ...]
    stages: tuple[Costs, ...]
    head: Costs

    def of(self, widths: NDArray[np.int64], blocks: NDArray[np.int64]) -> Costs:
        """Return the counts of networks: quantity x network.

        Args:
            widths: Indexes of their widths: network x stage.
            blocks: How many blocks they have beyond the fewest: network x stage.
        """
        total = self.stages[0][:, widths[:, 0], blocks[:, 0]] + self.head[:, widths[:, -1]]
        for at, stage in enumerate(self.stages[1:], start=1):
            total += stage[:, widths[:, at - 1], widths[:, at], blocks[:, at]]
        return total


def space_costs(space: SearchSpace, inputs: InputShape, quantities: tuple[Quantity, ...]) -> SpaceCosts | None:
    """Return the costs of a space's stages, or nothing if it has too many widths for that."""
    if len(space.widths) > MAX_WIDTHS:
        return None
    stages = _stage_costs(space, inputs, quantities)
    return SpaceCosts(quantities, tuple(stages), _head_costs(space, inputs, quantities))


def _stage_costs(space: SearchSpace, inputs: InputShape, quantities: tuple[Quantity, ...]) -> list[Costs]:
    side, found = inputs.size, []
    strides = space.strides or default_strides(space.num_stages)
    for stage, ((low, high), stride) in enumerate(zip(space.blocks, strides, strict=True)):
        before = space.widths if stage else (None,)
        fewest: list[list[int]] = []
        further: list[list[int]] = []
        for one, width in product(before, space.widths):
            channels = space.stem_width or width if one is None else _out_channels(space, one)
            counts, (_, out_side) = stage_counts(space.block, channels, width, stride, side, low)
            if len(further) < len(space.widths):  # it is the same whatever width is before
                more, _ = stage_counts(space.block, channels, width, stride, side, low + 1)
                further.append([*more.plus(counts.times(-1))])
            if one is None:
                counts = counts.plus(stem_counts(inputs.in_channels, channels, space.stem_kernel, side))
            fewest.append([*counts])
        lowest = _each(fewest, quantities).reshape(len(quantities), len(before), len(space.widths), 1)
        added = _each(further, quantities)[:, None, :, None] * np.arange(high - low + 1)
        costs = lowest + added
        found.append(costs if stage else costs[:, 0])
        side = out_side
    return found


def _head_costs(space: SearchSpace, inputs: InputShape, quantities: tuple[Quantity, ...]) -> Costs:
    """Return the costs of the head behind each width: quantity x width."""
    heads = [[*head_counts(_out_channels(space, width), inputs.classes)] for width in space.widths]
    return _each(heads, quantities)


def _each(counts: list[list[int]], quantities: tuple[Quantity, ...]) -> Costs:
    """Return lists of counts by quantity."""
    every = np.array(counts, dtype=np.int64).T
    return every[[QUANTITIES.index(one) for one in quantities]]


def _out_channels(space: SearchSpace, width: int) -> int:
    return BLOCKS[space.block].expansion * width
