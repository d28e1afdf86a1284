"""Suggested ranges: a space without values that cannot fit or rarely fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import Architecture
from budgetnas.architecture.budget import Budget
from budgetnas.space.ranges import Params
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.survey.drawn import measure
from budgetnas.space.survey.tally import Share, Tally, ValueShare

KEPT: Final = 0.95
"""Lowest share of the fitting networks that the suggested ranges keep."""
RARE: Final = 0.25
"""A value rarely fits if proposals with it fit less often than all proposals by this factor."""
GAIN: Final = 1.1
"""Values that can fit are dropped only if the share that fits then grows by this factor."""
_ROUNDS: Final = 4
_ENOUGH: Final = 100
"""With fewer draws that fit, only values that provably cannot fit are dropped."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Narrower ranges."""

    space: SearchSpace  # the space with these ranges
    share: Share  # its share that fits
    kept: float  # share of the fitting networks that it contains
    kept_counted: bool  # whether `kept` was counted; otherwise it is from draws
    widths_dropped: tuple[int, ...]  # widths dropped from the table
    blocks_dropped: tuple[tuple[int, ...], ...]  # for each stage, the dropped numbers of blocks
    never: bool  # whether no dropped network fits

    def toml(self) -> str:
        """Return the ranges as part of a study file."""
        return "\n".join(("[space]", *_keys(self.space)))


def suggest(
    space: SearchSpace, inputs: InputShape, budget: Budget, tally: Tally, keep: Sequence[Params], seed: int
) -> Suggestion | None:
    """Return narrower ranges, or None if nothing is worth dropping.

    Widths are dropped from the table of all stages, the largest first; numbers of blocks from the top of each stage's
    range. The remaining space is measured again after each round. All networks in `keep` remain.
    """
    kept = [space.architecture(params, inputs) for params in keep]
    narrowing = _Narrowing(inputs, budget, kept, seed)
    result = narrowing.narrowed(space, tally, drop_rare=True)
    if result.space != space and not result.never and result.tally.share.estimate < GAIN * tally.share.estimate:
        result = narrowing.narrowed(space, tally, drop_rare=False)
    gains = result.space != space and result.tally.share.estimate > tally.share.estimate
    return result.suggestion(space) if gains else None


@dataclass(frozen=True, slots=True)
class _Narrowed:
    """A narrowed space."""

    space: SearchSpace
    tally: Tally  # how much of the space fits
    kept: float = 1.0  # share of the initially fitting networks that it contains
    counted: bool = True  # whether `kept` was counted or proved
    never: bool = True  # whether no dropped network fits

    def suggestion(self, before: SearchSpace) -> Suggestion:
        stages = range(1, len(before.blocks) + 1)
        depths = [(before.depths_of(stage), self.space.depths_of(stage)) for stage in stages]
        return Suggestion(
            space=self.space,
            share=self.tally.share,
            kept=self.kept,
            kept_counted=self.counted,
            widths_dropped=tuple(width for width in before.widths if width not in self.space.widths),
            blocks_dropped=tuple(tuple(depth for depth in old if depth not in new) for old, new in depths),
            never=self.never,
        )


@dataclass(frozen=True, slots=True)
class _Narrowing:
    """The arguments that all rounds share."""

    inputs: InputShape
    budget: Budget
    keep: Sequence[Architecture]
    seed: int

    def narrowed(self, space: SearchSpace, tally: Tally, *, drop_rare: bool) -> _Narrowed:
        """Narrow in rounds while a round drops something and at least `KEPT` of the fitting networks remain."""
        current = _Narrowed(space, tally)
        for number in range(1, _ROUNDS + 1):
            after = self._round(current, number, drop_rare=drop_rare)
            if after is None or after.kept < KEPT:
                break
            current = after
            if not current.tally.share.counted:  # draws take time
                break
        return current

    def _round(self, current: _Narrowed, number: int, *, drop_rare: bool) -> _Narrowed | None:
        keep = [params for network in self.keep if (params := current.space.params_of(network)) is not None]
        drop = _choose(current.space, current.tally, keep, allowed=1 - KEPT / current.kept, drop_rare=drop_rare)
        if not drop.values:
            return None
        space = drop.from_space(current.space)
        tally = measure(space, self.inputs, self.budget, self.seed + number)
        kept, counted = _kept(current, space, tally, drop)
        return _Narrowed(space, tally, current.kept * kept, current.counted and counted, current.never and drop.never)


@dataclass(frozen=True, slots=True)
class _Value:
    """A value that can be dropped: a width of the table, or a number of blocks of a stage."""

    stage: int | None  # the stage of a number of blocks; None for a width
    value: int  # the width, or the number of blocks
    above: int  # number of larger values; all must be dropped first, except for a width that cannot fit
    fits: float  # upper bound of the share of all proposals that have it and fit
    of: float  # share of all proposals that have it, counted once for each stage of that width
    possible: bool  # whether any network with it can fit

    def can_follow(self, dropped: Sequence[_Value]) -> bool:
        """Return whether all larger values are dropped, or it is a width that cannot fit."""
        if self.stage is None and not self.possible:
            return True
        return sum(value.stage == self.stage and value.value > self.value for value in dropped) == self.above

    @property
    def rate(self) -> float:
        """Share of the proposals with it that fit."""
        return self.fits / self.of if self.of else 0.0


@dataclass(frozen=True, slots=True)
class _Drop:
    """The values that a round drops."""

    values: tuple[_Value, ...]

    @property
    def never(self) -> bool:
        return not any(value.possible for value in self.values)

    def from_space(self, space: SearchSpace) -> SearchSpace:
        """Return `space` without these values."""
        widths = {value.value for value in self.values if value.stage is None}
        blocks = []
        for stage, (low, high) in enumerate(space.blocks):
            dropped = {value.value for value in self.values if value.stage == stage}
            left = [depth for depth in space.depths_of(stage + 1) if depth not in dropped]
            blocks.append((low, left[-1] if dropped else high))
        return space.model_copy(
            update={
                "widths": tuple(width for width in space.widths if width not in widths),
                "blocks": tuple(blocks),
            }
        )


def _choose(space: SearchSpace, tally: Tally, keep: Sequence[Params], *, allowed: float, drop_rare: bool) -> _Drop:
    """Return the values to drop: those that cannot fit, then rare ones up to a share `allowed` of what fits."""
    drop_rare = drop_rare and (tally.share.counted or tally.share.fits >= _ENOUGH)
    left = allowed * tally.share.estimate
    chosen: list[_Value] = []
    for value in _in_order(space, tally, keep):
        rare = drop_rare and value.fits <= left and value.rate < RARE * tally.share.estimate
        if (rare or not value.possible) and value.can_follow(chosen):
            chosen.append(value)
            left -= value.fits
    return _Drop(tuple(chosen))


def _in_order(space: SearchSpace, tally: Tally, keep: Sequence[Params]) -> list[_Value]:
    """Return the values that can be dropped: those that cannot fit, then the rest, rarest first."""
    values = [*_widths(space, tally, keep), *_blocks(space, tally, keep)]
    return sorted(values, key=lambda value: (value.possible, value.rate if value.possible else 0.0, -value.value))


def _widths(space: SearchSpace, tally: Tally, keep: Sequence[Params]) -> Iterator[_Value]:
    names = [f"width_{stage}" for stage in range(1, len(space.blocks) + 1)]
    used = {params.get(name) for params in keep for name in names}
    above = 0
    for index in reversed(range(len(space.widths))):
        if space.widths[index] not in used:
            yield _value(None, space.widths[index], above, [tally.values[name][index] for name in names])
            above += 1


def _blocks(space: SearchSpace, tally: Tally, keep: Sequence[Params]) -> Iterator[_Value]:
    for stage in range(len(space.blocks)):
        name, depths = f"blocks_{stage + 1}", space.depths_of(stage + 1)
        lowest = max([depths[0], *(int(params.get(name, 0)) for params in keep)])
        for index, depth in enumerate(depths):
            if depth > lowest:
                yield _value(stage, depth, len(depths) - 1 - index, [tally.values[name][index]])


def _value(stage: int | None, value: int, above: int, shares: Iterable[ValueShare]) -> _Value:
    of_stages = list(shares)
    return _Value(
        stage=stage,
        value=value,
        above=above,
        fits=sum(value.weight * value.share.estimate for value in of_stages),
        of=sum(value.weight for value in of_stages),
        possible=any(value.possible for value in of_stages),
    )


def _kept(before: _Narrowed, space: SearchSpace, tally: Tally, drop: _Drop) -> tuple[float, bool]:
    """Return the share of the fitting proposals that is left, and whether it was counted or proved."""
    if drop.never:
        return 1.0, True
    if before.tally.share.counted:
        groups = zip(before.tally.share.groups, tally.share.groups, strict=True)
        return sum(now / of for (_, of), (now, _) in groups) / (before.tally.share.estimate * len(space.parts())), True
    assert before.tally.fitting is not None
    inside = [_inside(rows, space) for rows in before.tally.fitting]
    return float(np.concatenate(inside).mean()), False


def _inside(drawn: NDArray[np.int64], space: SearchSpace) -> NDArray[np.bool_]:
    """Return which drawn networks are also in the narrower space."""
    highest = np.array([high for _, high in space.blocks[: drawn.shape[1] // 2]])
    return np.asarray((np.isin(drawn[:, 1::2], space.widths) & (drawn[:, ::2] <= highest)).all(axis=1))


def _keys(space: SearchSpace) -> Iterator[str]:
    plain = SearchSpace()
    if space.block != plain.block:
        yield f'block = "{space.block}"'
    if space.stages is not None:
        yield f"stages = [{', '.join(map(str, space.stages))}]"
    yield f"blocks = [{', '.join(f'[{low}, {high}]' for low, high in space.blocks)}]"
    if space.depths is not None:
        yield f"depths = [{', '.join(map(str, space.depths))}]"
    yield f"widths = [{', '.join(map(str, space.widths))}]"
    if space.se != (False,):
        yield f"se = [{', '.join(str(se).lower() for se in space.se)}]"
    if space.stem_width is not None:
        yield f"stem_width = {space.stem_width}"
    if space.stem_kernel != plain.stem_kernel:
        yield f"stem_kernel = {space.stem_kernel}"
    if space.stem_stride is not None:
        yield f"stem_stride = {space.stem_stride}"
    if space.strides is not None:
        yield f"strides = [{', '.join(map(str, space.strides))}]"
