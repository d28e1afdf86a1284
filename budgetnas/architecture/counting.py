"""Static counts of an architecture, per part and in total, without building it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from budgetnas.architecture.blocks import BLOCKS, block_counts
from budgetnas.architecture.model import Architecture
from budgetnas.architecture.primitives import (
    BatchNorm,
    Conv,
    Counts,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Path,
    ReLU,
    Shape,
    path_counts,
    path_out_shape,
)


@dataclass(frozen=True, slots=True)
class Part:
    """A named part of a network (``stem``, ``stage 1``, ..., ``head``), its counts and output shape."""

    name: str
    counts: Counts
    out_shape: Shape


def stem(architecture: Architecture) -> Path:
    """Declare the stem: a convolution, batch normalisation and ReLU; with a stride of 4 a maximum pool."""
    return _stem(architecture.in_channels, architecture.stem_width, architecture.stem_kernel, architecture.stem_stride)


def _stem(in_channels: int, width: int, kernel: int, stride: int) -> Path:
    path: Path = (
        ("conv1", Conv(in_channels, width, kernel, min(stride, 2))),
        ("bn1", BatchNorm(width)),
        ("relu", ReLU()),
    )
    return (*path, ("maxpool", MaxPool(kernel=3, stride=2))) if stride == 4 else path


def head(architecture: Architecture) -> Path:
    """Declare the head: global average pool and a linear layer with bias."""
    return _head(BLOCKS[architecture.block].expansion * architecture.widths[-1], architecture.classes)


def _head(features: int, classes: int) -> Path:
    return (("pool", GlobalAveragePool()), ("linear", Linear(features, classes)))


def count(architecture: Architecture) -> Counts:
    """Return the totals of `architecture` for an image, equal to those of `budgetnas.training.network.build`."""
    kind, channels, se = architecture.block, architecture.stem_width, architecture.se
    total, side = stem_counts(
        architecture.in_channels, channels, architecture.stem_kernel, architecture.stem_stride, architecture.size
    )
    for blocks, width, stride in zip(architecture.blocks, architecture.widths, architecture.strides, strict=True):
        counts, (channels, side) = stage_counts(kind, channels, width, stride, side, blocks, se=se)
        total = total.plus(counts)
    return total.plus(head_counts(channels, side, architecture.classes))


def count_parts(architecture: Architecture) -> tuple[Part, ...]:
    """Return the counts of stem, each stage and head, in order.

    They add up to `count`, except for the peak of RAM, which is the largest.
    """
    shape = Shape(architecture.in_channels, architecture.size, architecture.size)
    parts = [_path_part("stem", stem(architecture), shape)]
    for index, (blocks, width, stride) in enumerate(
        zip(architecture.blocks, architecture.widths, architecture.strides, strict=True), start=1
    ):
        before = parts[-1].out_shape
        counts, (channels, side) = stage_counts(
            architecture.block, before.channels, width, stride, before.height, blocks, se=architecture.se
        )
        parts.append(Part(f"stage {index}", counts, Shape(channels, side, side)))
    parts.append(_path_part("head", head(architecture), parts[-1].out_shape))
    return tuple(parts)


@lru_cache(maxsize=1 << 12)
def stem_counts(in_channels: int, width: int, kernel: int, stride: int, side: int) -> tuple[Counts, int]:
    """Return the counts of a stem on a square input of side `side`, and the side of its output."""
    path, shape = _stem(in_channels, width, kernel, stride), Shape(in_channels, side, side)
    return path_counts(path, shape), path_out_shape(path, shape).height


def stage_counts(
    kind: str, channels: int, width: int, stride: int, side: int, blocks: int, *, se: bool
) -> tuple[Counts, tuple[int, int]]:
    """Return the counts of a stage, and the channels and the side of its output.

    `channels` and `side` are those of its input, `stride` is that of its first block.
    """
    first, shape = block_counts(kind, channels, width, stride, side, se)
    if blocks == 1:
        return first, (shape.channels, shape.height)
    rest, _ = block_counts(kind, shape.channels, width, 1, shape.height, se)
    return first.plus(rest.times(blocks - 1)), (shape.channels, shape.height)


@lru_cache(maxsize=1 << 12)
def head_counts(channels: int, side: int, classes: int) -> Counts:
    """Return the counts of a head after a stage of `channels` output channels with sides of `side` pixels."""
    return path_counts(_head(channels, classes), Shape(channels, side, side))


def _path_part(name: str, path: Path, shape: Shape) -> Part:
    return Part(name, path_counts(path, shape), path_out_shape(path, shape))
