"""The closed set of layers that networks are made of, each with its counts and the shape it puts out.

The builder in `budgetnas.training.network` matches on the union `Primitive` and ends in `assert_never`, so a primitive
without a count or without a builder is a type error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Shape(NamedTuple):
    """Shape of one image's feature map: channels, height and width, in elements."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.channels * self.height * self.width


class Counts(NamedTuple):
    """Static cost of a part of a network, for one image.

    Attributes:
        params: Trainable parameters, as ``sum(p.numel() for p in net.parameters())`` gives them.
        macs: Multiply-accumulates of convolutions and linear layers in a forward pass.
        activations: Output elements of all convolutions (Radosavovic et al. 2020, "Designing network design
            spaces", section 3.1).
    """

    params: int
    macs: int
    activations: int

    def plus(self, other: Counts) -> Counts:
        """Return the sum, part by part."""
        return Counts(self.params + other.params, self.macs + other.macs, self.activations + other.activations)

    def times(self, repeats: int) -> Counts:
        """Return the counts of `repeats` such parts."""
        return Counts(self.params * repeats, self.macs * repeats, self.activations * repeats)


NOTHING = Counts(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Conv:
    """A square convolution without bias, padded by half its kernel."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1

    @property
    def padding(self) -> int:
        """Zero padding on each side, in pixels."""
        return self.kernel // 2

    def out_shape(self, shape: Shape) -> Shape:
        """Return the shape put out for an input of `shape`."""
        margin = 2 * self.padding - self.kernel
        return Shape(
            self.out_channels,
            (shape.height + margin) // self.stride + 1,
            (shape.width + margin) // self.stride + 1,
        )

    def counts(self, shape: Shape) -> Counts:
        """Return the counts for an input of `shape`."""
        params = self.in_channels * self.out_channels * self.kernel**2
        out = self.out_shape(shape)
        return Counts(params, params * out.height * out.width, out.size)


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Batch normalisation with a trainable scale and shift for each channel."""

    channels: int

    def out_shape(self, shape: Shape) -> Shape:
        """Return `shape` unchanged."""
        return shape

    def counts(self, shape: Shape) -> Counts:
        """Return scale and shift; normalisation is not counted as multiply-accumulates."""
        return Counts(2 * self.channels, 0, 0)


@dataclass(frozen=True, slots=True)
class ReLU:
    """Rectifier; costs nothing that is counted."""

    def out_shape(self, shape: Shape) -> Shape:
        """Return `shape` unchanged."""
        return shape

    def counts(self, shape: Shape) -> Counts:
        """Return nothing."""
        return NOTHING


@dataclass(frozen=True, slots=True)
class GlobalAveragePool:
    """Mean over all pixels of each channel."""

    def out_shape(self, shape: Shape) -> Shape:
        """Return one pixel of the same channels."""
        return Shape(shape.channels, 1, 1)

    def counts(self, shape: Shape) -> Counts:
        """Return nothing."""
        return NOTHING


@dataclass(frozen=True, slots=True)
class Linear:
    """A fully connected layer with bias."""

    in_features: int
    out_features: int

    def out_shape(self, shape: Shape) -> Shape:
        """Return one pixel of `out_features` channels."""
        return Shape(self.out_features, 1, 1)

    def counts(self, shape: Shape) -> Counts:
        """Return weights and biases; the biases are no multiply-accumulates."""
        weights = self.in_features * self.out_features
        return Counts(weights + self.out_features, weights, 0)


Primitive = Conv | BatchNorm | ReLU | GlobalAveragePool | Linear
Path = tuple[tuple[str, Primitive], ...]
"""Named primitives, applied one after the other."""


def path_counts(path: Path, shape: Shape) -> Counts:
    """Return the counts of `path` for an input of `shape`."""
    total = NOTHING
    for _, primitive in path:
        total = total.plus(primitive.counts(shape))
        shape = primitive.out_shape(shape)
    return total


def path_out_shape(path: Path, shape: Shape) -> Shape:
    """Return the shape that `path` puts out for an input of `shape`."""
    for _, primitive in path:
        shape = primitive.out_shape(shape)
    return shape
