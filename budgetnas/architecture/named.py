"""Networks by name: those of the source report, their comparisons and small ones; and networks written as lists."""

from __future__ import annotations

from typing import Any, Final

from budgetnas.architecture.model import Architecture, default_stem_stride, default_strides
from budgetnas.errors import InputError, closest

_WIDE = (64, 128, 256, 512)
_NARROW = (16, 32, 64)
_LAYOUTS: Final[dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]]] = {
    "v1": ("basic", (1, 1, 1, 1), _WIDE),
    "v2": ("basic", (2, 2, 2, 2), (64, 128, 128, 128)),
    "resnet8": ("basic", (1, 1, 1), _NARROW),
    "resnet20": ("basic", (3, 3, 3), _NARROW),
    "resnet56": ("basic", (9, 9, 9), _NARROW),
    "resnet18": ("basic", (2, 2, 2, 2), _WIDE),
    "resnet34": ("basic", (3, 4, 6, 3), _WIDE),
    "resnet50": ("bottleneck", (3, 4, 6, 3), _WIDE),
    "resnet101": ("bottleneck", (3, 4, 23, 3), _WIDE),
    "resnet152": ("bottleneck", (3, 8, 36, 3), _WIDE),
}
NAMES: Final = tuple(_LAYOUTS)


def named(name: str, *, in_channels: int = 3, size: int = 32, classes: int = 10) -> Architecture:
    """Return the network of that name for images of `in_channels` x `size` x `size` and `classes` classes.

    Its stem reduces images of more than 48 pixels a side (`default_stem_stride`).

    Args:
        name: One of `NAMES`, in any case; ``34`` means ``resnet34``.
        in_channels: Channels of an image.
        size: Side of an image, in pixels.
        classes: Number of classes.

    Raises:
        InputError: If no network has that name.
    """
    key = name.strip().lower()
    key = f"resnet{key}" if key.isdigit() else key
    if key not in _LAYOUTS:
        raise InputError(
            "NAME",
            name,
            f"no network has that name; known are {', '.join(NAMES)}",
            f"{closest(key, NAMES)} or describe a network with --blocks and --widths".removeprefix(" or "),
        )
    block, blocks, widths = _LAYOUTS[key]
    return Architecture(
        blocks=blocks,
        widths=widths,
        strides=default_strides(len(blocks)),
        block=block,
        in_channels=in_channels,
        size=size,
        classes=classes,
        stem_width=widths[0],
        stem_stride=default_stem_stride(size),
    )


def parse_architecture(
    blocks: str | None, widths: str | None, strides: str | None = None, **fields: Any
) -> Architecture:
    """Return the network that comma-separated lists describe.

    Args:
        blocks: Number of blocks of each stage, e.g. ``2,2,2,2``.
        widths: Width of each stage.
        strides: Stride of each stage; by default 1, then 2.
        fields: The other fields of `Architecture`; by default the stem reduces images of more than 48 pixels a side.

    Raises:
        InputError: If blocks or widths are missing, an entry is not a whole number, or `Architecture` rejects a value.
    """
    stages = _numbers("--blocks", blocks)
    fields = {"stem_stride": default_stem_stride(fields.get("size", 32))} | fields
    return Architecture(
        stages,
        _numbers("--widths", widths),
        default_strides(len(stages)) if strides is None else _numbers("--strides", strides),
        **fields,
    )


def _numbers(argument: str, text: str | None) -> tuple[int, ...]:
    if text is None:
        raise InputError(argument, None, "is missing: --blocks and --widths go together", "write e.g. 2,2,2,2")
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise InputError(argument, text, "must be whole numbers separated by commas", "write e.g. 2,2,2,2") from None
