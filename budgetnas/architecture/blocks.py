"""Residual blocks: each declares its layers once; counts, shapes and the module are derived from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, final

from budgetnas.architecture.primitives import (
    BatchNorm,
    Conv,
    Counts,
    Gate,
    GlobalAveragePool,
    Linear,
    Path,
    ReLU,
    Shape,
    Sigmoid,
    path_counts,
    path_out_shape,
    peak_beside,
)

_DERIVED = ("counts", "out_shape")
_SQUEEZE = 16
_FEWEST_SQUEEZED = 4


@dataclass(frozen=True, slots=True)
class Branches:
    """The two paths of a residual block."""

    main: Path  # the residual path; the names of its layers become attributes of the block
    shortcut: Path  # the layers ``shortcut.0``, ``shortcut.1``, ...; empty for the identity

    def counts(self, shape: Shape) -> Counts:
        """Return the counts of a block of these paths for an input of `shape`.

        The input is alive while both paths run, and the result of the main path while the shortcut does.
        """
        out = path_out_shape(self.main, shape).size
        peak = max(peak_beside(self.main, shape), peak_beside(self.shortcut, shape, out))
        return path_counts(self.main, shape).plus(path_counts(self.shortcut, shape))._replace(ram_bytes=peak)


@dataclass(frozen=True)
class Block(ABC):
    """A residual block: ReLU(main(x) + shortcut(x)).

    A new kind of block defines `layers` and `expansion` and is added to `BLOCKS`; the rest is derived.
    """

    in_channels: int
    width: int  # channels of the inner convolutions; the block has ``expansion * width`` output channels
    stride: int  # stride of the strided convolution
    se: bool = False  # whether squeeze-and-excitation ends the main path

    expansion: ClassVar[int]

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "layers" not in vars(cls):
            raise TypeError(f"block {cls.__name__} must define layers(): its two paths")
        if not isinstance(vars(cls).get("expansion"), int):
            raise TypeError(f"block {cls.__name__} must define expansion: output channels / width")
        overridden = [name for name in _DERIVED if name in vars(cls)]
        if overridden:
            raise TypeError(
                f"block {cls.__name__} overrides {', '.join(overridden)}, derived from layers(): change layers()"
            )

    @abstractmethod
    def layers(self) -> Branches:
        """Declare the block's branches."""

    @property
    def out_channels(self) -> int:
        """Output channels."""
        return self.expansion * self.width

    @final
    def counts(self, shape: Shape) -> Counts:
        """Return the block's counts for an input of `shape`."""
        return self.layers().counts(shape)

    @final
    def out_shape(self, shape: Shape) -> Shape:
        """Return the output shape for an input of `shape`."""
        return path_out_shape(self.layers().main, shape)

    def _squeeze_excitation(self) -> Path:
        """Declare squeeze-and-excitation (Hu, Shen and Sun 2018), with a sixteenth of the channels inside, at least 4.

        With their ratio of 16 alone, a block of 16 channels would be gated by a single number.
        """
        if not self.se:
            return ()
        channels, inner = self.out_channels, max(_FEWEST_SQUEEZED, self.out_channels // _SQUEEZE)
        layers: Path = (
            ("pool", GlobalAveragePool()),
            ("squeeze", Linear(channels, inner)),
            ("relu", ReLU()),
            ("excite", Linear(inner, channels)),
            ("sigmoid", Sigmoid()),
        )
        return (("se", Gate(layers)),)

    def _projection(self) -> Path:
        if self.stride == 1 and self.in_channels == self.out_channels:
            return ()
        return (
            ("0", Conv(self.in_channels, self.out_channels, kernel=1, stride=self.stride)),
            ("1", BatchNorm(self.out_channels)),
        )


@dataclass(frozen=True)
class BasicBlock(Block):
    """Two 3x3 convolutions (He et al. 2016, "Deep residual learning", figure 5 left)."""

    expansion: ClassVar[int] = 1

    def layers(self) -> Branches:
        """Declare 3x3 (strided), 3x3, a gate if there is one, and a projection where the shape changes."""
        main: Path = (
            ("conv1", Conv(self.in_channels, self.width, kernel=3, stride=self.stride)),
            ("bn1", BatchNorm(self.width)),
            ("relu1", ReLU()),
            ("conv2", Conv(self.width, self.width, kernel=3)),
            ("bn2", BatchNorm(self.width)),
            *self._squeeze_excitation(),
        )
        return Branches(main, self._projection())


@dataclass(frozen=True)
class BottleneckBlock(Block):
    """1x1, 3x3 (strided), 1x1 to four times the width (He et al. 2016, figure 5 right; stride as in v1.5)."""

    expansion: ClassVar[int] = 4

    def layers(self) -> Branches:
        """Declare 1x1, 3x3 (strided), 1x1, a gate if there is one, and a projection where the shape changes."""
        main: Path = (
            ("conv1", Conv(self.in_channels, self.width, kernel=1)),
            ("bn1", BatchNorm(self.width)),
            ("relu1", ReLU()),
            ("conv2", Conv(self.width, self.width, kernel=3, stride=self.stride)),
            ("bn2", BatchNorm(self.width)),
            ("relu2", ReLU()),
            ("conv3", Conv(self.width, self.out_channels, kernel=1)),
            ("bn3", BatchNorm(self.out_channels)),
            *self._squeeze_excitation(),
        )
        return Branches(main, self._projection())


BLOCKS: dict[str, type[Block]] = {"basic": BasicBlock, "bottleneck": BottleneckBlock}


@lru_cache(maxsize=1 << 16)
def block_counts(kind: str, in_channels: int, width: int, stride: int, height: int, se: bool) -> tuple[Counts, Shape]:
    """Return counts and output shape of a block on a square input of side `height`, cached.

    A search counts thousands of architectures with the same few blocks, so the cache keeps counting cheap.
    """
    block = BLOCKS[kind](in_channels, width, stride, se)
    shape = Shape(in_channels, height, height)
    return block.counts(shape), block.out_shape(shape)
