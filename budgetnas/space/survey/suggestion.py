"""Ranges that waste less: a space without what cannot fit and what nearly never does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import Architecture
from budgetnas.architecture.budget import Budget
from budgetnas.space.search_space import InputShape, Params, SearchSpace
from budgetnas.space.survey.measure import measure
from budgetnas.space.survey.tally import Share, Tally, ValueShare

KEPT: Final = 0.95
"""Of the networks that fit, at least so many are in the suggested ranges."""
SELDOM: Final = 0.25
"""What nearly never fits: proposals with it do so less than so many times as often as all proposals."""
GAIN: Final = 1.1
"""Values that may fit are dropped only if proposals then fit so many times as often at least."""
_ROUNDS: Final = 4
_ENOUGH: Final = 100
"""AugmentationParameters that fit, below which only what is proved is dropped."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Narrower ranges.

    Attributes:
        space: The space with them.
        share: How much of it fits, measured.
        kept: How many of the networks that fit are in it, as a share.
        kept_counted: Whether that was counted; else it is the share of the draws that fit.
        widths_dropped: Widths that are gone from the table.
        blocks_dropped: For each stage, the numbers of blocks that are gone.
        never: Whether nothing that is gone could fit at all.
    """

    space: SearchSpace
    share: Share
    kept: float
    kept_counted: bool
    widths_dropped: tuple[int, ...]
    blocks_dropped: tuple[tuple[int, ...], ...]
    never: bool

    def toml(self) -> str:
        """Return the ranges as a fragment of a study file."""
        return "\n".join(("[space]", *_keys(self.space)))


def suggest(
    space: SearchSpace, inputs: InputShape, budget: Budget, tally: Tally, keep: Sequence[Params], seed: int
) -> Suggestion | None:
    """Return narrower ranges, or nothing if there are none worth it.

    Widths go from the table of all stages, the largest first; numbers of blocks from the top of each stage's range.
    What is left is measured again after each round.

    Args:
        space: The space as it is.
        inputs: Shape of the data.
        budget: The limits.
        tally: What fits of it.
        keep: Networks that shall stay, as parameters of `space`.
        seed: Seed of the draws, where they are needed.
    """
    kept = [space.architecture(params, inputs) for params in keep]
    looking = _Looking(inputs, budget, kept, seed)
    found = looking.narrowed(space, tally, seldom=True)
    if found.space != space and not found.never and found.tally.share.estimate < GAIN * tally.share.estimate:
        found = looking.narrowed(space, tally, seldom=False)
    return None if found.space == space else found.suggestion(space)


@dataclass(frozen=True, slots=True)
class _Narrowed:
    """A space on its way down.

    Attributes:
        space: What is left.
        tally: What fits of that.
        kept: How many of the networks that fitted at the beginning are in it, as a share.
        counted: Whether that was counted or proved.
        never: Whether nothing that went could fit at all.
    """

    space: SearchSpace
    tally: Tally
    kept: float = 1.0
    counted: bool = True
    never: bool = True

    def suggestion(self, before: SearchSpace) -> Suggestion:
        ranges = zip(before.blocks, self.space.blocks, strict=True)
        return Suggestion(
            space=self.space,
            share=self.tally.share,
            kept=self.kept,
            kept_counted=self.counted,
            widths_dropped=tuple(one for one in before.widths if one not in self.space.widths),
            blocks_dropped=tuple(tuple(range(new[1] + 1, old[1] + 1)) for old, new in ranges),
            never=self.never,
        )


@dataclass(frozen=True, slots=True)
class _Looking:
    """What all rounds share."""

    inputs: InputShape
    budget: Budget
    keep: Sequence[Architecture]
    seed: int

    def narrowed(self, space: SearchSpace, tally: Tally, *, seldom: bool) -> _Narrowed:
        """Return what is left when no round drops anything more, or too much."""
        now = _Narrowed(space, tally)
        for number in range(1, _ROUNDS + 1):
            after = self._round(now, number, seldom=seldom)
            if after is None or after.kept < KEPT:
                break
            now = after
            if not now.tally.share.counted:  # each drawing takes time
                break
        return now

    def _round(self, now: _Narrowed, number: int, *, seldom: bool) -> _Narrowed | None:
        keep = [params for one in self.keep if (params := now.space.params_of(one)) is not None]
        drop = _choose(now.space, now.tally, keep, allowed=1 - KEPT / now.kept, seldom=seldom)
        if not drop.values:
            return None
        space = drop.from_space(now.space)
        tally = measure(space, self.inputs, self.budget, self.seed + number)
        kept, counted = _kept(now, space, tally, drop)
        return _Narrowed(space, tally, now.kept * kept, now.counted and counted, now.never and drop.never)


@dataclass(frozen=True, slots=True)
class _Value:
    """A value that can be dropped: a width of the table, or a stage's highest numbers of blocks from one on.

    Attributes:
        stage: The stage whose blocks it is about; nothing for a width.
        value: The width as an index into the table, or the number of blocks.
        above: How many larger ones must be gone before it, if it may fit.
        fits: At most so many networks with it fit.
        of: Networks with it, a network counted once for each stage of that width.
        possible: Whether any can fit.
    """

    stage: int | None
    value: int
    above: int
    fits: int
    of: int
    possible: bool

    def goes_after(self, gone: Sequence[_Value]) -> bool:
        """Return whether it is at the top now; a width that can never fit may go from the middle of the table too."""
        if self.stage is None and not self.possible:
            return True
        return sum(one.stage == self.stage and one.value > self.value for one in gone) == self.above

    @property
    def rate(self) -> float:
        """How often it fits."""
        return self.fits / self.of if self.of else 0.0


@dataclass(frozen=True, slots=True)
class _Drop:
    """What goes in one round."""

    values: tuple[_Value, ...]

    @property
    def never(self) -> bool:
        return not any(one.possible for one in self.values)

    def from_space(self, space: SearchSpace) -> SearchSpace:
        """Return `space` without these values."""
        gone = {one.value for one in self.values if one.stage is None}
        tops = [
            min((one.value for one in self.values if one.stage == stage), default=high + 1) - 1
            for stage, (_, high) in enumerate(space.blocks)
        ]
        return space.model_copy(
            update={
                "widths": tuple(width for index, width in enumerate(space.widths) if index not in gone),
                "blocks": tuple((low, top) for (low, _), top in zip(space.blocks, tops, strict=True)),
            }
        )


def _choose(space: SearchSpace, tally: Tally, keep: Sequence[Params], *, allowed: float, seldom: bool) -> _Drop:
    """Return what goes: what can never fit, then what seldom does, while at most `allowed` of what fits may go."""
    seldom = seldom and (tally.share.counted or tally.share.fits >= _ENOUGH)
    left = allowed * tally.share.fits
    chosen: list[_Value] = []
    for one in _in_order(space, tally, keep):
        rare = seldom and one.fits <= left and one.rate < SELDOM * tally.share.estimate
        if (rare or not one.possible) and one.goes_after(chosen):
            chosen.append(one)
            left -= one.fits
    return _Drop(tuple(chosen))


def _in_order(space: SearchSpace, tally: Tally, keep: Sequence[Params]) -> list[_Value]:
    """Return what may be dropped: what can never fit, then the rest from the one that fits most seldom."""
    values = [*_widths(space, tally, keep), *_blocks(space, tally, keep)]
    return sorted(values, key=lambda one: (one.possible, one.rate if one.possible else 0.0, -one.value))


def _widths(space: SearchSpace, tally: Tally, keep: Sequence[Params]) -> Iterator[_Value]:
    names = [f"width_{stage}" for stage in range(1, space.num_stages + 1)]
    used = {params[name] for params in keep for name in names}
    above = 0
    for index in reversed(range(len(space.widths))):
        if index not in used:
            yield _value(None, index, above, [tally.values[name][index] for name in names])
            above += 1


def _blocks(space: SearchSpace, tally: Tally, keep: Sequence[Params]) -> Iterator[_Value]:
    for stage, (low, high) in enumerate(space.blocks):
        name = f"blocks_{stage + 1}"
        lowest = max([low, *(int(params[name]) for params in keep)])
        for value in range(lowest + 1, high + 1):
            yield _value(stage, value, high - value, [tally.values[name][value - low]])


def _value(stage: int | None, value: int, above: int, shares: Iterable[ValueShare]) -> _Value:
    of_stages = list(shares)
    return _Value(
        stage=stage,
        value=value,
        above=above,
        fits=sum(one.share.fits for one in of_stages),
        of=sum(one.share.of for one in of_stages),
        possible=any(one.possible for one in of_stages),
    )


def _kept(before: _Narrowed, space: SearchSpace, tally: Tally, drop: _Drop) -> tuple[float, bool]:
    """Return how many of the networks that fitted are left, as a share, and whether that was counted or proved."""
    if drop.never:
        return 1.0, True
    if before.tally.share.counted:
        return tally.share.fits / before.tally.share.fits, True
    fitting = before.tally.fitting
    assert fitting is not None
    return float(_inside(fitting, before.space, space).mean()), False


def _inside(drawn: NDArray[np.int64], was: SearchSpace, now: SearchSpace) -> NDArray[np.bool_]:
    """Return which networks of the ranges that were are in those that are now."""
    left = np.isin(was.widths, now.widths)
    highest = np.array([high for _, high in now.blocks])
    return np.asarray((left[drawn[:, 1::2]] & (drawn[:, ::2] <= highest)).all(axis=1))


def _keys(space: SearchSpace) -> Iterator[str]:
    plain = SearchSpace()
    if space.block != plain.block:
        yield f'block = "{space.block}"'
    yield f"blocks = [{', '.join(f'[{low}, {high}]' for low, high in space.blocks)}]"
    yield f"widths = [{', '.join(map(str, space.widths))}]"
    if space.stem_width is not None:
        yield f"stem_width = {space.stem_width}"
    if space.stem_kernel != plain.stem_kernel:
        yield f"stem_kernel = {space.stem_kernel}"
    if space.strides is not None:
        yield f"strides = [{', '.join(map(str, space.strides))}]"
