"""From an architecture to a `torch.nn.Module`, layer by layer as the blocks declare them.

Parameter names follow the classic CIFAR ResNet layout (``conv1``, ``bn1``, ``layer1.0.conv1``,
``layer1.0.shortcut.0``, ..., ``linear``), so that public checkpoints of that family load with ``strict=True``.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import assert_never

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from budgetnas.architecture import BLOCKS, Architecture, Block, Path, Primitive, head, stem
from budgetnas.architecture.primitives import (
    BatchNorm,
    Conv,
    Gate,
    GlobalAveragePool,
    Linear,
    MaxPool,
    ReLU,
    Sigmoid,
)


class GlobalPool(nn.Module):
    """Mean over height and width: (N, C, H, W) to (N, C)."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean of each channel."""
        return features.mean(dim=(2, 3))


class StridedPointwiseConv(nn.Conv2d):
    """A 1x1 convolution with a stride; on a CPU the pixels are selected first and convolved without a stride.

    Function and parameters are those of `nn.Conv2d`. The workaround is for oneDNN's strided kernel. Its backward pass
    writes past its workspace when channels-last input has fewer channels than a vector, which gives wrong gradients, a
    hang or a crash (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return the convolution of every `stride`-th pixel."""
        if images.device.type != "cpu":
            return super().forward(images)
        down, across = self.stride
        return functional.conv2d(images[:, :, ::down, ::across], self.weight, self.bias)


class ChannelGate(nn.Module):
    """Multiplies each channel by a factor computed from all channels; (N, C, H, W) to (N, C, H, W)."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._layers = _add(self, gate.layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return the gated features."""
        factors = features
        for name in self._layers:
            factors = self._modules[name](factors)  # type: ignore[misc]
        return features * factors[:, :, None, None]


class ResidualBlock(nn.Module):
    """ReLU(main(x) + shortcut(x)) for a declared block; (N, C, H, W) to (N, C', H', W')."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        branches = block.layers()
        self._main = _add(self, branches.main)
        self.shortcut = nn.Sequential(*(_module(primitive) for _, primitive in branches.shortcut))

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's output."""
        out = features
        for name in self._main:
            out = self._modules[name](out)  # type: ignore[misc]
        return torch.relu_(out + self.shortcut(features))


class ResNet(nn.Module):
    """The network of an architecture: images (N, C, H, W) to logits (N, classes)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self._stem = _add(self, stem(architecture))
        self._stages = tuple(f"layer{index}" for index in range(1, architecture.num_stages + 1))
        for name, stage in zip(self._stages, _stages(architecture), strict=True):
            self.add_module(name, nn.Sequential(*(ResidualBlock(block) for block in stage)))
        self._head = _add(self, head(architecture))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        out = images
        for name in (*self._stem, *self._stages, *self._head):
            out = self._modules[name](out)  # type: ignore[misc]
        return out


def build(architecture: Architecture, *, seed: int | None = None) -> ResNet:
    """Return the network of `architecture`, with PyTorch's own initialisation.

    With a `seed` of the initial weights the global generator keeps its state; with None it draws them.
    """
    if seed is None:
        return ResNet(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        return ResNet(architecture)


def folded(network: ResNet) -> ResNet:
    """Return a copy for evaluation, with each batch normalisation folded into the convolution before it.

    Its logits differ by rounding alone, and it takes less time: the normalised features are neither read nor written.
    """
    copy = deepcopy(network).eval()
    for module in copy.modules():
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module.add_module(conv_name, fuse_conv_bn_eval(conv, norm))
                module.add_module(norm_name, nn.Identity())
    return copy


def _stages(architecture: Architecture) -> list[list[Block]]:
    kind = BLOCKS[architecture.block]
    channels = architecture.stem_width
    stages: list[list[Block]] = []
    for blocks, width, stride in zip(architecture.blocks, architecture.widths, architecture.strides, strict=True):
        stage: list[Block] = []
        for index in range(blocks):
            stage.append(kind(channels, width, stride if index == 0 else 1, architecture.se))
            channels = stage[-1].out_channels
        stages.append(stage)
    return stages


def _add(module: nn.Module, path: Path) -> tuple[str, ...]:
    for name, primitive in path:
        module.add_module(name, _module(primitive))
    return tuple(name for name, _ in path)


def _module(primitive: Primitive) -> nn.Module:
    match primitive:
        case Conv(in_channels, out_channels, kernel, stride):
            kind = StridedPointwiseConv if kernel == 1 and stride > 1 else nn.Conv2d
            return kind(in_channels, out_channels, kernel, stride, primitive.padding, bias=False)
        case BatchNorm(channels):
            return nn.BatchNorm2d(channels)
        case ReLU():
            return nn.ReLU(inplace=True)
        case Sigmoid():
            return nn.Sigmoid()
        case MaxPool(kernel, stride):
            return nn.MaxPool2d(kernel, stride, primitive.padding)
        case GlobalAveragePool():
            return GlobalPool()
        case Linear(in_features, out_features):
            return nn.Linear(in_features, out_features)
        case Gate():
            return ChannelGate(primitive)
        case _:
            assert_never(primitive)
