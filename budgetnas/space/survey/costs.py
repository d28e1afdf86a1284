"""The costs of each stage of a space, by the width before it, its own width and its number of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import (
    BLOCKS,
    block_counts,
    default_stem_stride,
    default_strides,
    head_counts,
    stage_counts,
    stem_counts,
)
from budgetnas.architecture.budget import PEAKS, QUANTITIES, Quantity
from budgetnas.space.search_space import InputShape, SearchSpace

Costs = NDArray[np.int64]

MAX_WIDTHS: Final = 64
"""Largest table of widths: stages are counted for each pair, in half a second for four stages and 64 widths."""


@dataclass(frozen=True, slots=True)
class SpaceCosts:
    """The costs of a space's stages; a network's counts are its stages' costs put `together`."""

    quantities: tuple[Quantity, ...]  # the counted quantities; parameters first
    # For each stage: quantity x width before it x width x blocks. The first includes the stem; no width is before it.
    stages: tuple[Costs, ...]
    head: Costs  # quantity x width of the last stage

    def of(self, widths: NDArray[np.int64], blocks: NDArray[np.int64]) -> Costs:
        """Return the counts of networks: quantity x network.

        Args:
            widths: Indexes of their widths: network x stage.
            blocks: Indexes of their numbers of blocks: network x stage.
        """
        total = together(self.quantities, self.stages[0][:, widths[:, 0], blocks[:, 0]], self.head[:, widths[:, -1]])
        for index, stage in enumerate(self.stages[1:], start=1):
            own = stage[:, widths[:, index - 1], widths[:, index], blocks[:, index]]
            total = together(self.quantities, total, own)
        return total


def together(quantities: tuple[Quantity, ...], first: Costs, second: Costs) -> Costs:
    """Return the costs of two parts of a network: their sums, and of a quantity of `PEAKS` the larger."""
    costs = first + second
    for row, quantity in enumerate(quantities):
        if quantity in PEAKS:
            costs[row] = np.maximum(first[row], second[row])
    return costs


def space_costs(space: SearchSpace, inputs: InputShape, quantities: tuple[Quantity, ...]) -> SpaceCosts | None:
    """Return the costs of the stages of a part of a space, or None if it has too many widths."""
    if len(space.widths) > MAX_WIDTHS:
        return None
    stages, side = _stage_costs(space, inputs, quantities)
    heads = [[*head_counts(_out_channels(space, width), side, inputs.classes)] for width in space.widths]
    return SpaceCosts(quantities, tuple(stages), _by_quantity(heads, quantities))


def _stage_costs(space: SearchSpace, inputs: InputShape, quantities: tuple[Quantity, ...]) -> tuple[list[Costs], int]:
    """Return the costs of every stage, and the side of the last stage's output."""
    kind, se, stem_stride = space.block, space.se[0], space.stem_stride or default_stem_stride(inputs.size)
    _, side = stem_counts(inputs.in_channels, 1, space.stem_kernel, stem_stride, inputs.size)
    every = []
    for stage, stride in enumerate(space.strides or default_strides(len(space.blocks))):
        depths = space.depths_of(stage + 1)
        low, before = depths[0], space.widths if stage else (None,)
        fewest: list[list[int]] = []
        further: list[list[int]] = []
        for previous, width in product(before, space.widths):
            channels = space.stem_width or width if previous is None else _out_channels(space, previous)
            counts, (_, out_side) = stage_counts(kind, channels, width, stride, side, low, se=se)
            if len(further) < len(space.widths):  # the same for every width before
                further.append([*block_counts(kind, _out_channels(space, width), width, 1, out_side, se)[0]])
            if previous is None:
                stem, _ = stem_counts(inputs.in_channels, channels, space.stem_kernel, stem_stride, inputs.size)
                counts = counts.plus(stem)
            fewest.append([*counts])
        lowest = _by_quantity(fewest, quantities).reshape(len(quantities), len(before), len(space.widths), 1)
        number = np.array(depths) - low
        times = np.array([np.minimum(number, 1) if quantity in PEAKS else number for quantity in quantities])
        added = _by_quantity(further, quantities)[:, None, :, None] * times[:, None, None, :]
        costs = together(quantities, lowest, added)
        every.append(costs if stage else costs[:, 0])
        side = out_side
    return every, side


def _by_quantity(counts: list[list[int]], quantities: tuple[Quantity, ...]) -> Costs:
    """Return counts as quantity x network."""
    every = np.array(counts, dtype=np.int64).T
    return every[[QUANTITIES.index(quantity) for quantity in quantities]]


def _out_channels(space: SearchSpace, width: int) -> int:
    return BLOCKS[space.block].expansion * width
