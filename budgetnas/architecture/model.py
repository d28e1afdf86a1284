"""The description of a network: `Architecture`, its JSON and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from budgetnas.architecture.blocks import BLOCKS
from budgetnas.errors import InputError

MAX_STAGES: Final = 5
MAX_BLOCKS: Final = 200
MAX_WIDTH: Final = 4096
MAX_SIZE: Final = 1024
STEM_STRIDES: Final = (1, 2, 4)
LARGEST_UNREDUCED: Final = 48
"""The stem reduces images until their side is at most this, in pixels, as far as `STEM_STRIDES` allow."""
_ADDED_LATER: Final = ("se", "stem_stride")
"""Fields that are omitted from the JSON at their default, so that older architectures keep their digest."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A complete description of a residual network: equal values build the same network.

    Args:
        blocks: Blocks in each stage, 1 to 5 stages.
        widths: Width of each stage, in channels. For bottleneck blocks the inner width; the output has 4 times as many.
        strides: Stride of each stage's first block, 1 or 2.
        block: ``"basic"`` or ``"bottleneck"``.
        stem_width: Output channels of the stem.
        stem_kernel: Side of the stem's convolution, odd, in pixels.
        in_channels: Channels of an image.
        size: Side of a (square) image, in pixels.
        classes: Number of classes.
        se: Whether every block ends with squeeze-and-excitation.
        stem_stride: Factor by which the stem reduces the sides of an image: 1; 2 for a convolution of stride 2; 4 with
            a 3x3 maximum pool of stride 2 after it, as in the ImageNet ResNets (He et al. 2016).

    Raises:
        InputError: If a value breaks a rule above.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    block: str = "basic"
    stem_width: int = 64
    stem_kernel: int = 3
    in_channels: int = 3
    size: int = 32
    classes: int = 10
    se: bool = False
    stem_stride: int = 1

    def __post_init__(self) -> None:
        _check_stages(self.blocks, self.widths, self.strides)
        if not isinstance(self.block, str) or self.block not in BLOCKS:
            raise InputError("--block", self.block, f"must be one of {', '.join(BLOCKS)}")
        _check_range("--stem-width", self.stem_width, 1, MAX_WIDTH)
        _check_range("--stem-kernel", self.stem_kernel, 1, 15)
        if self.stem_kernel % 2 == 0:
            raise InputError("--stem-kernel", self.stem_kernel, "must be odd, so that padding keeps the size", "try 3")
        _check_range("--in-channels", self.in_channels, 1, 64)
        _check_range("--size", self.size, 1, MAX_SIZE)
        _check_range("--classes", self.classes, 1, 100_000)
        if not isinstance(self.se, bool):
            raise InputError("--se", self.se, "must be true or false")
        _check_range("--stem-stride", self.stem_stride, 1, max(STEM_STRIDES))
        if self.stem_stride not in STEM_STRIDES:
            raise InputError("--stem-stride", self.stem_stride, "must be 1, 2 or 4: the stem's reduction of the image")

    @property
    def num_stages(self) -> int:
        """Number of stages."""
        return len(self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types for `from_dict`; `se` and `stem_stride` only if they differ from their defaults."""
        return {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in fields(self)
            if field.name not in _ADDED_LATER or getattr(self, field.name) != field.default
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """Return the architecture of `to_dict`'s result.

        Raises:
            InputError: If a field is missing, unknown, of another type, or breaks a rule.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError("architecture", ", ".join(unknown), f"unknown; known are {', '.join(sorted(known))}")
        missing = [name for name in ("blocks", "widths", "strides") if name not in values]
        if missing:
            raise InputError("architecture", ", ".join(missing), "missing")
        plain: dict[str, Any] = {
            name: _whole_numbers(name, value) if name in ("blocks", "widths", "strides") else value
            for name, value in values.items()
        }
        return cls(**plain)

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no spaces; equal values give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Return the architecture of `to_json`'s text.

        Raises:
            InputError: If the text is not the JSON object of an architecture.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError("architecture", text[:80], f"is not JSON ({error.msg})") from None
        if not isinstance(values, dict):
            raise InputError("architecture", text[:80], "must be a JSON object")
        return cls.from_dict(values)

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON: stable across versions."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def describe(self) -> str:
        """Return a short line, e.g. ``basic 2-2-2-2 x 64-128-128-128, stem 64`` or ``..., SE, stem 64 (stride 2)``."""
        blocks = "-".join(map(str, self.blocks))
        widths = "-".join(map(str, self.widths))
        kernel = [] if self.stem_kernel == 3 else [f"{self.stem_kernel}x{self.stem_kernel}"]
        stride = [] if self.stem_stride == 1 else [f"stride {self.stem_stride}"]
        details = f" ({', '.join(kernel + stride)})" if kernel or stride else ""
        return f"{self.block} {blocks} x {widths}, {'SE, ' if self.se else ''}stem {self.stem_width}{details}"


def default_strides(stages: int) -> tuple[int, ...]:
    """Return the classic strides: 1 for the first stage, 2 for each later one."""
    return (1,) + (2,) * (stages - 1)


def default_stem_stride(size: int) -> int:
    """Return the smallest stem stride that reduces sides of `size` pixels to at most 48, or else the largest stride.

    Without a reduction, nearly all multiply-accumulates are in stage 1: at 64 pixels four times as many as at 32.

    Raises:
        InputError: If `size` is not the side of an image.
    """
    _check_range("--size", size, 1, MAX_SIZE)
    return next((stride for stride in STEM_STRIDES if -(-size // stride) <= LARGEST_UNREDUCED), STEM_STRIDES[-1])


def _check_stages(blocks: Sequence[int], widths: Sequence[int], strides: Sequence[int]) -> None:
    if not 1 <= len(blocks) <= MAX_STAGES:
        raise InputError("--blocks", _listed(blocks), f"must name 1 to {MAX_STAGES} stages", "write e.g. 2,2,2,2")
    if len(blocks) != len(widths):
        raise InputError(
            "--blocks",
            _listed(blocks),
            f"names {len(blocks)} stages, but --widths {_listed(widths)} names {len(widths)}",
            "give a number for each stage in both",
        )
    if len(strides) != len(blocks):
        raise InputError("--strides", _listed(strides), f"must have a number for each of the {len(blocks)} stages")
    for argument, values, highest in (
        ("--blocks", blocks, MAX_BLOCKS),
        ("--widths", widths, MAX_WIDTH),
        ("--strides", strides, 2),
    ):
        for value in values:
            _check_range(argument, value, 1, highest)


def _check_range(argument: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(argument, value, f"must be a whole number from {low} to {high:,}")


def _whole_numbers(name: str, value: object) -> tuple[int, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"--{name}", value, "must be a list of whole numbers")
    return tuple(value)


def _listed(values: Sequence[int]) -> str:
    return ",".join(map(str, values))
