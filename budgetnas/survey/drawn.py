"""A space too large to be counted: networks drawn from it evenly, as a sampler without a model would."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from budgetnas.architecture import BLOCKS, Architecture, Counts, Shape, count, path_counts
from budgetnas.budget import Budget
from budgetnas.space import InputShape, Params, SearchSpace
from budgetnas.survey.tally import Found, Share, Tally, ValueShare

DRAWS: Final = 10_000
"""About half a second, and an error of a point at most in the share of the whole space."""
FEW_DRAWS: Final = 2_500
"""The same time where the table has so many widths that hardly a block is met twice; an error of two points."""
MANY_WIDTHS: Final = 100


def draw_space(space: SearchSpace, inputs: InputShape, budget: Budget, seed: int, draws: int | None = None) -> Tally:
    """Return what fits of so many networks drawn evenly: `DRAWS` or `FEW_DRAWS` of them, unless told."""
    generator = random.Random(seed)
    seen = _Seen(space, inputs, budget)
    if draws is None:
        draws = FEW_DRAWS if len(space.widths) > MANY_WIDTHS else DRAWS
    for _ in range(draws):
        seen.add(space.draw(generator))
    return seen.tally()


@dataclass
class _Seen:
    """The draws so far."""

    space: SearchSpace
    inputs: InputShape
    budget: Budget
    fitting: list[Params] = field(default_factory=list)
    of: int = 0

    def __post_init__(self) -> None:
        ranges = self.space.ranges()
        ends = (self.space.smallest(self.inputs), self.space.architecture(_highest(self.space), self.inputs))
        sized = [(count(one).params, one) for one in ends]
        self._smallest, self._largest = sized
        self._largest_fitting: tuple[int, Architecture] | None = None
        for params, one in sized:
            self._note_fitting(params, one, self.budget.fits(one))
        self._values: dict[str, list[list[int]]] = {
            name: [[0, 0] for _ in range(one.low, one.high + 1)] for name, one in ranges.items()
        }
        self._ranges = ranges
        self._limits = self.budget.limits

    def add(self, params: Params) -> None:
        """Note one draw."""
        architecture = self.space.architecture(params, self.inputs)
        counts = count(architecture)
        fits = self._fits(counts)
        self.of += 1
        for name, value in params.items():
            tally = self._values[name][int(value) - self._ranges[name].low]
            tally[0] += fits
            tally[1] += 1
        if counts.params < self._smallest[0]:
            self._smallest = counts.params, architecture
        if counts.params > self._largest[0]:
            self._largest = counts.params, architecture
        self._note_fitting(counts.params, architecture, fits)
        if fits:
            self.fitting.append(params)

    def tally(self) -> Tally:
        """Return what was seen."""
        return Tally(
            share=Share(len(self.fitting), self.of, counted=False),
            values={name: self._value_shares(name) for name in self._ranges},
            smallest=Found(self._smallest[1], certain=False),
            largest=Found(self._largest[1], certain=False),
            largest_fitting=None if self._largest_fitting is None else Found(self._largest_fitting[1], certain=False),
            fitting=tuple(self.fitting),
        )

    def _note_fitting(self, params: int, architecture: Architecture, fits: bool) -> None:
        if fits and (self._largest_fitting is None or params > self._largest_fitting[0]):
            self._largest_fitting = params, architecture

    def _value_shares(self, name: str) -> tuple[ValueShare, ...]:
        low = self._ranges[name].low
        lowest: Params = {each: one.low for each, one in self._ranges.items()}
        found = []
        for value, (fits, of) in enumerate(self._values[name], start=low):
            least = self.space.architecture(lowest | {name: value}, self.inputs)
            possible = fits > 0 or self._fits(at_least(least))
            found.append(ValueShare(value, Share(fits, of, counted=False), possible))
        return tuple(found)

    def _fits(self, counts: Counts) -> bool:
        return all(limit.count(counts) <= limit.most for limit in self._limits)


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


def _highest(space: SearchSpace) -> Params:
    return {name: one.high for name, one in space.ranges().items()}
