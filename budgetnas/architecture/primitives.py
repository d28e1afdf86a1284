"""The closed set of layers that networks consist of, each with its counts and its output shape.

The builder in `budgetnas.training.network` matches on the union `Primitive` and ends in `assert_never`, so a primitive
without counts or without a builder is a type error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Shape(NamedTuple):
    """Shape of an image's feature map: channels, height and width, in elements."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.channels * self.height * self.width


class Counts(NamedTuple):
    """Static cost of a part of a network, for an image.

    Attributes:
        params: Trainable parameters, as ``sum(p.numel() for p in net.parameters())`` gives them.
        macs: Multiply-accumulates of convolutions and linear layers in a forward pass.
        activations: Output elements of all convolutions (Radosavovic et al. 2020, "Designing network design
            spaces", section 3.1).
        weight_bytes: Bytes of its int8 weights: 1 for each weight of a convolution or a linear layer, and 8 for each of
            their output channels, a float32 scale and an int32 bias. Batch normalisation is folded into them.
        ram_bytes: Most bytes of int8 activations that are alive at once. Layers run in the order of their declaration,
            a main path before its shortcut. The input of a residual block stays alive until the shortcut has read it.
            ReLU, sigmoid, the product of a gate and the addition of a block write over their input.
    """

    params: int
    macs: int
    activations: int
    weight_bytes: int
    ram_bytes: int

    def plus(self, other: Counts) -> Counts:
        """Return the counts of both parts, one after the other: the sums, and the larger peak of RAM."""
        return Counts(
            self.params + other.params,
            self.macs + other.macs,
            self.activations + other.activations,
            self.weight_bytes + other.weight_bytes,
            max(self.ram_bytes, other.ram_bytes),
        )

    def times(self, repeats: int) -> Counts:
        """Return the counts of `repeats` such parts, at least 1, one after the other."""
        return Counts(
            self.params * repeats,
            self.macs * repeats,
            self.activations * repeats,
            self.weight_bytes * repeats,
            self.ram_bytes,
        )


ZERO = Counts(0, 0, 0, 0, 0)
_BYTES_PER_CHANNEL = 4 + 4
"""A float32 scale and an int32 bias."""


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
        """Return the output shape for an input of `shape`."""
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
        return Counts(
            params=params,
            macs=params * out.height * out.width,
            activations=out.size,
            weight_bytes=params + _BYTES_PER_CHANNEL * self.out_channels,
            ram_bytes=shape.size + out.size,
        )


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Batch normalisation with a trainable scale and shift for each channel."""

    channels: int

    def out_shape(self, shape: Shape) -> Shape:
        """Return `shape` unchanged."""
        return shape

    def counts(self, shape: Shape) -> Counts:
        """Return scale and shift; normalisation is not counted as multiply-accumulates, and needs no bytes."""
        return Counts(2 * self.channels, 0, 0, 0, shape.size)


@dataclass(frozen=True, slots=True)
class ReLU:
    """Rectifier, in place, without counted costs."""

    def out_shape(self, shape: Shape) -> Shape:
        """Return `shape` unchanged."""
        return shape

    def counts(self, shape: Shape) -> Counts:
        """Return zero but for the bytes of its input."""
        return ZERO._replace(ram_bytes=shape.size)


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """Logistic function, in place, without counted costs."""

    def out_shape(self, shape: Shape) -> Shape:
        """Return `shape` unchanged."""
        return shape

    def counts(self, shape: Shape) -> Counts:
        """Return zero but for the bytes of its input."""
        return ZERO._replace(ram_bytes=shape.size)


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Maximum over square windows, padded by half their side."""

    kernel: int
    stride: int

    @property
    def padding(self) -> int:
        """Padding on each side, in pixels; padded pixels are never the maximum."""
        return self.kernel // 2

    def out_shape(self, shape: Shape) -> Shape:
        """Return the output shape for an input of `shape`."""
        margin = 2 * self.padding - self.kernel
        height, width = ((side + margin) // self.stride + 1 for side in (shape.height, shape.width))
        return Shape(shape.channels, height, width)

    def counts(self, shape: Shape) -> Counts:
        """Return zero but for the bytes of its input and output."""
        return ZERO._replace(ram_bytes=shape.size + self.out_shape(shape).size)


@dataclass(frozen=True, slots=True)
class GlobalAveragePool:
    """Mean over all pixels of each channel."""

    def out_shape(self, shape: Shape) -> Shape:
        """Return a single pixel with the same channels."""
        return Shape(shape.channels, 1, 1)

    def counts(self, shape: Shape) -> Counts:
        """Return zero but for the bytes of its input and output."""
        return ZERO._replace(ram_bytes=shape.size + self.out_shape(shape).size)


@dataclass(frozen=True, slots=True)
class Linear:
    """A fully connected layer with bias."""

    in_features: int
    out_features: int

    def out_shape(self, shape: Shape) -> Shape:
        """Return a single pixel with `out_features` channels."""
        return Shape(self.out_features, 1, 1)

    def counts(self, shape: Shape) -> Counts:
        """Return weights and biases; only the weights are multiply-accumulates."""
        weights = self.in_features * self.out_features
        return Counts(
            params=weights + self.out_features,
            macs=weights,
            activations=0,
            weight_bytes=weights + _BYTES_PER_CHANNEL * self.out_features,
            ram_bytes=shape.size + self.out_features,
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """The input with each channel multiplied by a factor, which `layers` compute from the input.

    Attributes:
        layers: From the input to a factor for each channel. The product is not counted as multiply-accumulates.
    """

    layers: Path

    def out_shape(self, shape: Shape) -> Shape:
        """Return `shape` unchanged."""
        return shape

    def counts(self, shape: Shape) -> Counts:
        """Return the counts of `layers`; the input stays alive while they run."""
        return path_counts(self.layers, shape)._replace(ram_bytes=peak_beside(self.layers, shape))


Primitive = Conv | BatchNorm | ReLU | Sigmoid | MaxPool | GlobalAveragePool | Linear | Gate
Path = tuple[tuple[str, Primitive], ...]
"""Named primitives, in order of application."""


def path_counts(path: Path, shape: Shape) -> Counts:
    """Return the counts of `path` for an input of `shape` that nothing else reads."""
    total = ZERO
    for _, primitive in path:
        total = total.plus(primitive.counts(shape))
        shape = primitive.out_shape(shape)
    return total


def path_out_shape(path: Path, shape: Shape) -> Shape:
    """Return the output shape of `path` for an input of `shape`."""
    for _, primitive in path:
        shape = primitive.out_shape(shape)
    return shape


def peak_beside(path: Path, shape: Shape, other: int = 0) -> int:
    """Return the most bytes alive while `path` runs and its input is kept.

    Args:
        path: The layers.
        shape: Shape of the input.
        other: Bytes of other activations that are alive all the while.
    """
    kept = peak = shape.size + other
    own = 0  # bytes of the path's current activation, 0 while that is the input
    for _, primitive in path:
        out = primitive.out_shape(shape).size
        inside = primitive.counts(shape).ram_bytes - shape.size if isinstance(primitive, Gate) else 0
        in_place = own > 0 and isinstance(primitive, BatchNorm | ReLU | Sigmoid | Gate)
        peak = max(peak, kept + own + inside + (0 if in_place else out))
        shape, own = primitive.out_shape(shape), out
    return peak
