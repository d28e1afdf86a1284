"""Named edits that make a network smaller, and nothing else: what `budgetnas fit` proposes.

Each edit takes an architecture and gives one, so that a list of edits, applied in order, gives exactly the network it
stands for. It never makes anything larger, and leaves alone what is not there. `sentence` says what it changes of a
given network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from budgetnas.architecture import Architecture

WIDTH_STEP = 8
"""Widths that are proposed are multiples of it: what matrix units of processors and GPUs work on."""


@dataclass(frozen=True, slots=True)
class UseStages:
    """Only the first stages are left.

    Attributes:
        to: How many.
    """

    to: int

    def apply(self, one: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(one, blocks=one.blocks[: self.to], widths=one.widths[: self.to], strides=one.strides[: self.to])

    def sentence(self, one: Architecture) -> str:
        """Return what this changes of a network."""
        gone = one.num_stages - self.to
        return f"drop the last {'stage' if gone == 1 else f'{gone} stages'}"


@dataclass(frozen=True, slots=True)
class Shorten:
    """One stage has fewer blocks.

    Attributes:
        stage: Which, from 1.
        to: Blocks that are left.
    """

    stage: int
    to: int

    def apply(self, one: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(one, blocks=_lowered(one.blocks, self.stage, self.to))

    def sentence(self, one: Architecture) -> str:
        """Return what this changes of a network."""
        gone = one.blocks[self.stage - 1] - self.to
        return f"drop {'a block' if gone == 1 else f'{gone} blocks'} of stage {self.stage}"


@dataclass(frozen=True, slots=True)
class ShortenAll:
    """No stage has more blocks than so many.

    Attributes:
        to: The most.
    """

    to: int

    def apply(self, one: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(one, blocks=tuple(min(blocks, self.to) for blocks in one.blocks))

    def sentence(self, one: Architecture) -> str:
        """Return what this changes of a network."""
        blocks = "1 block" if self.to == 1 else f"{self.to} blocks"
        return f"keep at most {blocks} in every stage ({_changes(one.blocks, self.apply(one).blocks)})"


@dataclass(frozen=True, slots=True)
class Narrow:
    """One stage is narrower.

    Attributes:
        stage: Which, from 1.
        to: Its width.
    """

    stage: int
    to: int

    def apply(self, one: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(one, widths=_lowered(one.widths, self.stage, self.to))

    def sentence(self, one: Architecture) -> str:
        """Return what this changes of a network."""
        return f"narrow stage {self.stage} from {one.widths[self.stage - 1]} to {self.to}"


@dataclass(frozen=True, slots=True)
class Cap:
    """No stage is wider than so much.

    Attributes:
        to: The most.
    """

    to: int

    def apply(self, one: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(one, widths=tuple(min(width, self.to) for width in one.widths))

    def sentence(self, one: Architecture) -> str:
        """Return what this changes of a network."""
        return f"make no stage wider than {self.to} ({_changes(one.widths, self.apply(one).widths)})"


@dataclass(frozen=True, slots=True)
class NarrowAll:
    """The stem and all stages are narrower by one factor, their widths rounded down to multiples of 8.

    Attributes:
        percent: What is left of each width. No width goes below 8, or changes if it is below.
    """

    percent: int

    def apply(self, one: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(
            one, stem_width=self._narrowed(one.stem_width), widths=tuple(self._narrowed(width) for width in one.widths)
        )

    def sentence(self, one: Architecture) -> str:
        """Return what this changes of a network."""
        after = self.apply(one)
        stages = _changes(one.widths, after.widths)
        stem = f", stem {one.stem_width} to {after.stem_width}" if after.stem_width != one.stem_width else ""
        return f"narrow all to {self.percent} % ({stages}{stem})"

    def _narrowed(self, width: int) -> int:
        return max(width * self.percent // (100 * WIDTH_STEP) * WIDTH_STEP, min(width, WIDTH_STEP))


Edit = UseStages | Shorten | ShortenAll | Narrow | Cap | NarrowAll


def apply(edits: Sequence[Edit], network: Architecture) -> Architecture:
    """Return `network` with `edits` made in order."""
    return reduce(lambda one, edit: edit.apply(one), edits, network)


def sentences(edits: Sequence[Edit], network: Architecture) -> Iterator[str]:
    """Return what each of `edits`, made in order, changes."""
    for edit in edits:
        yield edit.sentence(network)
        network = edit.apply(network)


def to_dicts(edits: Sequence[Edit], network: Architecture) -> list[dict[str, Any]]:
    """Return each edit as plain JSON types: its kind, its numbers and its sentence."""
    told = sentences(edits, network)
    return [{"edit": _KINDS[type(one)], **_numbers(one), "text": next(told)} for one in edits]


def edits_to(target: Architecture, network: Architecture) -> tuple[Edit, ...] | None:
    """Return the fewest edits of blocks, widths and stages that make `target` of `network`, or nothing."""
    if target.num_stages > network.num_stages:
        return None
    edits: list[Edit] = [UseStages(target.num_stages)] if target.num_stages < network.num_stages else []
    left = apply(edits, network)
    shorter: list[Edit] = [
        Shorten(stage, new)
        for stage, (old, new) in enumerate(zip(left.blocks, target.blocks, strict=True), start=1)
        if new != old
    ]
    narrower: list[Edit] = [
        Narrow(stage, new)
        for stage, (old, new) in enumerate(zip(left.widths, target.widths, strict=True), start=1)
        if new != old
    ]
    edits += _at_once(shorter, ShortenAll(max(target.blocks)), left, replace(left, blocks=target.blocks))
    edits += _at_once(narrower, Cap(max(target.widths)), left, replace(left, widths=target.widths))
    smaller = all(new <= old for old, new in zip(left.blocks + left.widths, target.blocks + target.widths, strict=True))
    return tuple(edits) if smaller and apply(edits, network) == target else None


def _at_once(edits: list[Edit], instead: Edit, network: Architecture, target: Architecture) -> list[Edit]:
    """Return the one edit of all stages where it does what several edits of one stage do."""
    return [instead] if len(edits) > 1 and instead.apply(network) == target else edits


_KINDS: dict[type[Edit], str] = {
    UseStages: "use stages",
    Shorten: "drop blocks",
    ShortenAll: "drop blocks everywhere",
    Narrow: "narrow",
    Cap: "cap widths",
    NarrowAll: "narrow all",
}


def _numbers(edit: Edit) -> dict[str, int]:
    return {name: getattr(edit, name) for name in ("stage", "to", "percent") if hasattr(edit, name)}


def _lowered(values: tuple[int, ...], stage: int, most: int) -> tuple[int, ...]:
    return tuple(min(value, most) if place == stage else value for place, value in enumerate(values, start=1))


def _changes(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    """Return what all stages change from and to: ``64-128-256-512 to 64-128-128-128``."""
    return " to ".join("-".join(map(str, values)) for values in (before, after))
