"""Named edits that make a network smaller, as `budgetnas fit` proposes them.

An edit maps an architecture to an architecture, so a list of edits, applied in order, defines a network exactly. No
edit makes anything larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from budgetnas.architecture import Architecture

WIDTH_STEP = 8
"""Proposed widths are multiples of it: the granularity of matrix units in processors and GPUs."""


@dataclass(frozen=True, slots=True)
class DropSe:
    """Drops squeeze-and-excitation from every block."""

    def apply(self, network: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(network, se=False)

    def sentence(self, network: Architecture) -> str:
        """Describe what the edit changes of `network`."""
        return "drop squeeze-and-excitation"


@dataclass(frozen=True, slots=True)
class UseStages:
    """Drops the last stages."""

    to: int  # number of stages left

    def apply(self, network: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(
            network,
            blocks=network.blocks[: self.to],
            widths=network.widths[: self.to],
            strides=network.strides[: self.to],
        )

    def sentence(self, network: Architecture) -> str:
        """Describe what the edit changes of `network`."""
        gone = network.num_stages - self.to
        return f"drop the last {'stage' if gone == 1 else f'{gone} stages'}"


@dataclass(frozen=True, slots=True)
class Shorten:
    """Drops blocks of a stage."""

    stage: int  # the stage, from 1
    to: int  # number of blocks left

    def apply(self, network: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(network, blocks=_lowered(network.blocks, self.stage, self.to))

    def sentence(self, network: Architecture) -> str:
        """Describe what the edit changes of `network`."""
        gone = network.blocks[self.stage - 1] - self.to
        return f"drop {'a block' if gone == 1 else f'{gone} blocks'} of stage {self.stage}"


@dataclass(frozen=True, slots=True)
class ShortenAll:
    """Limits the number of blocks of every stage."""

    to: int  # largest number of blocks of a stage

    def apply(self, network: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(network, blocks=tuple(min(blocks, self.to) for blocks in network.blocks))

    def sentence(self, network: Architecture) -> str:
        """Describe what the edit changes of `network`."""
        blocks = "1 block" if self.to == 1 else f"{self.to} blocks"
        return f"keep at most {blocks} in every stage ({_changes(network.blocks, self.apply(network).blocks)})"


@dataclass(frozen=True, slots=True)
class Narrow:
    """Makes a stage narrower."""

    stage: int  # the stage, from 1
    to: int  # its width

    def apply(self, network: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(network, widths=_lowered(network.widths, self.stage, self.to))

    def sentence(self, network: Architecture) -> str:
        """Describe what the edit changes of `network`."""
        return f"narrow stage {self.stage} from {network.widths[self.stage - 1]} to {self.to}"


@dataclass(frozen=True, slots=True)
class Cap:
    """Limits the width of every stage."""

    to: int  # largest width of a stage

    def apply(self, network: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(network, widths=tuple(min(width, self.to) for width in network.widths))

    def sentence(self, network: Architecture) -> str:
        """Describe what the edit changes of `network`."""
        return f"make no stage wider than {self.to} ({_changes(network.widths, self.apply(network).widths)})"


@dataclass(frozen=True, slots=True)
class NarrowAll:
    """Narrows the stem and all stages by the same factor and rounds their widths down to multiples of 8."""

    percent: int  # new width in percent of the old; widths do not go below 8, and widths below 8 do not change

    def apply(self, network: Architecture) -> Architecture:
        """Return the edited network."""
        return replace(
            network,
            stem_width=self._narrowed(network.stem_width),
            widths=tuple(self._narrowed(width) for width in network.widths),
        )

    def sentence(self, network: Architecture) -> str:
        """Describe what the edit changes of `network`."""
        after = self.apply(network)
        stages = _changes(network.widths, after.widths)
        stem = f", stem {network.stem_width} to {after.stem_width}" if after.stem_width != network.stem_width else ""
        return f"narrow all to {self.percent} % ({stages}{stem})"

    def _narrowed(self, width: int) -> int:
        return max(width * self.percent // (100 * WIDTH_STEP) * WIDTH_STEP, min(width, WIDTH_STEP))


Edit = DropSe | UseStages | Shorten | ShortenAll | Narrow | Cap | NarrowAll


def apply(edits: Sequence[Edit], network: Architecture) -> Architecture:
    """Return `network` with `edits` applied in order."""
    return reduce(lambda edited, edit: edit.apply(edited), edits, network)


def sentences(edits: Sequence[Edit], network: Architecture) -> Iterator[str]:
    """Describe what each of `edits` changes, applied in order."""
    for edit in edits:
        yield edit.sentence(network)
        network = edit.apply(network)


def to_dicts(edits: Sequence[Edit], network: Architecture) -> list[dict[str, Any]]:
    """Return each edit as plain JSON types: its kind, its numbers and its sentence."""
    texts = sentences(edits, network)
    return [
        {"edit": _KINDS[type(edit)], **_numbers(edit), "text": text} for edit, text in zip(edits, texts, strict=True)
    ]


def edits_to(target: Architecture, network: Architecture) -> tuple[Edit, ...] | None:
    """Return the fewest edits from `network` to `target`, without `NarrowAll`, or None if there are none."""
    if target.num_stages > network.num_stages:
        return None
    edits: list[Edit] = [DropSe()] if network.se and not target.se else []
    edits += [UseStages(target.num_stages)] if target.num_stages < network.num_stages else []
    left = apply(edits, network)
    shorter, narrower = _single(Shorten, left.blocks, target.blocks), _single(Narrow, left.widths, target.widths)
    edits += _at_once(shorter, ShortenAll(max(target.blocks)), left, replace(left, blocks=target.blocks))
    edits += _at_once(narrower, Cap(max(target.widths)), left, replace(left, widths=target.widths))
    smaller = all(new <= old for old, new in zip(left.blocks + left.widths, target.blocks + target.widths, strict=True))
    return tuple(edits) if smaller and apply(edits, network) == target else None


def _single(kind: type[Shorten] | type[Narrow], old: tuple[int, ...], new: tuple[int, ...]) -> list[Edit]:
    """Return an edit for each stage whose value differs."""
    stages = enumerate(zip(old, new, strict=True), start=1)
    return [kind(stage, after) for stage, (before, after) in stages if after != before]


def _at_once(edits: list[Edit], instead: Edit, network: Architecture, target: Architecture) -> list[Edit]:
    """Return the edit `instead`, which changes all stages at once, if it replaces several `edits`; else `edits`."""
    return [instead] if len(edits) > 1 and instead.apply(network) == target else edits


_KINDS: dict[type[Edit], str] = {
    DropSe: "drop squeeze-and-excitation",
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
    """Return the values of all stages before and after: ``64-128-256-512 to 64-128-128-128``."""
    return " to ".join("-".join(map(str, values)) for values in (before, after))
