"""The network of a bundle as a module of plain PyTorch: for a hand-in, or for a program without budgetnas."""

from __future__ import annotations

import io
from textwrap import dedent, indent
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from budgetnas.architecture import Architecture
from budgetnas.architecture.blocks import BLOCKS
from budgetnas.architecture.primitives import Gate, Linear
from budgetnas.bundle.contents import Preprocessing
from budgetnas.errors import BudgetnasError
from budgetnas.training.network import ResNet

_TOLERANCE: Final = 1e-4
"""Largest difference of a logit, as a share of the largest logit: the kernels of strided 1x1 convolutions differ."""

_HEAD: Final = '''\
"""A residual network in plain PyTorch: {words}.

    network = load("model.pt")  # or "weights.safetensors", with the package safetensors
    logits = network(normalised(images))  # images: uint8, (N, {channels}, {side}, {side}), from 0 to 255
    names = [CLASSES[index] for index in logits.argmax(1)]

Written by budgetnas; this file needs torch only.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

CLASSES = {classes}
MEAN = {mean}
STD = {std}


'''
_GATE: Final = '''\
class Gate(nn.Module):
    """Squeeze-and-excitation: multiplies each channel by a factor computed from all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max({fewest}, channels // {ratio})
        self.squeeze = nn.Linear(channels, inner)
        self.excite = nn.Linear(inner, channels)

    def forward(self, features: Tensor) -> Tensor:
        inner = torch.relu(self.squeeze(features.mean(dim=(2, 3))))
        return features * torch.sigmoid(self.excite(inner))[:, :, None, None]


'''
_BLOCK: Final = '''\
class Block(nn.Module):
    """{words}"""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = {expansion} * width
{convolutions}{gate}        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
{forward}        return torch.relu(out + self.shortcut(features))


'''
_CONVOLUTIONS: Final = {
    "basic": """
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        """,
    "bottleneck": """
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        """,
}
_FORWARD: Final = {
    "basic": """
        out = torch.relu(self.bn1(self.conv1(features)))
        out = self.bn2(self.conv2(out))
        """,
    "bottleneck": """
        out = torch.relu(self.bn1(self.conv1(features)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        """,
}
_WORDS: Final = {
    "basic": "ReLU(main(x) + shortcut(x)), with two 3x3 convolutions in the main path.",
    "bottleneck": "ReLU(main(x) + shortcut(x)), with 1x1, 3x3 and 1x1 convolutions in the main path.",
}
_NETWORK: Final = '''\
class Network(nn.Module):
    """Images (N, {channels}, {side}, {side}) to logits (N, {classes})."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d({channels}, {stem}, {kernel}, {stride}, {padding}, bias=False)
        self.bn1 = nn.BatchNorm2d({stem})
{pool}{stages}        self.linear = nn.Linear({features}, {classes})

    def forward(self, images: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(images)))
{pooled}{staged}        return self.linear(out.mean(dim=(2, 3)))


def normalised(images: Tensor) -> Tensor:
    """Return uint8 images (N, {channels}, {side}, {side}), from 0 to 255, as the network expects them."""
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1:] != ({channels}, {side}, {side}):
        given = f"{{images.dtype}} {{tuple(images.shape)}}"
        raise ValueError(f"images are {{given}}, must be torch.uint8 (N, {channels}, {side}, {side}), from 0 to 255")
    mean, std = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (MEAN, STD))
    return (images / 255 - mean) / std


def load(path: str | Path) -> Network:
    """Return the trained network, on the CPU, in evaluation mode."""
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    network = Network()
    network.load_state_dict(weights)
    return network.eval()
'''


def plain_module(architecture: Architecture, preprocessing: Preprocessing) -> str:
    """Return the source of a module that needs torch only, with the network, its classes and its normalisation.

    Its parameters have the names of the usual CIFAR ResNets, as those of `budgetnas.training.network` have.
    """
    constants, side = preprocessing.normalisation, architecture.size
    head = _HEAD.format(
        words=architecture.describe(),
        channels=architecture.in_channels,
        side=side,
        classes=ascii(preprocessing.classes),
        mean=constants.mean,
        std=constants.std,
    )
    return head + (_gate(architecture) if architecture.se else "") + _block(architecture) + _network(architecture)


def to_pt(network: ResNet) -> bytes:
    """Return the weights as ``torch.save`` writes them, for ``torch.load(..., weights_only=True)``."""
    file = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}, file)
    return file.getvalue()


def check_plain_module(source: str, network: ResNet, images: NDArray[np.uint8]) -> None:
    """Raise `BudgetnasError` unless the module has the network's weights by name, and its logits on images.

    `source` is from `plain_module`. `network` is in evaluation mode, on the CPU; `images` are (N, C, side, side).
    """
    module: dict[str, Any] = {}
    exec(compile(source, "model.py", "exec"), module)
    plain = module["Network"]().eval()
    plain.load_state_dict(network.state_dict(), strict=True)
    with torch.inference_mode():
        prepared = module["normalised"](torch.from_numpy(images))
        expected, logits = network(prepared), plain(prepared)
    difference, largest = float((expected - logits).abs().max()), float(expected.abs().max())
    if not difference <= _TOLERANCE * max(1.0, largest):
        raise BudgetnasError(f"model.py differs from the network by {difference:.2g} in a logit, so the export stopped")


def _gate(architecture: Architecture) -> str:
    """Return the class of the gates, with the numbers of the declared block."""
    narrow, wide = (_squeeze(architecture, width) for width in (1, 1024))
    return _GATE.format(fewest=narrow.out_features, ratio=wide.in_features // wide.out_features)


def _squeeze(architecture: Architecture, width: int) -> Linear:
    gate = dict(BLOCKS[architecture.block](width, width, 1, se=True).layers().main)["se"]
    assert isinstance(gate, Gate), "squeeze-and-excitation is a gate"
    squeeze = dict(gate.layers)["squeeze"]
    assert isinstance(squeeze, Linear), "its first layer is linear"
    return squeeze


def _block(architecture: Architecture) -> str:
    kind, gated = architecture.block, architecture.se
    return _BLOCK.format(
        words=_WORDS[kind],
        expansion=BLOCKS[kind].expansion,
        convolutions=_lines(_CONVOLUTIONS[kind]),
        gate=_lines("self.se = Gate(outputs)") if gated else "",
        forward=_lines(_FORWARD[kind]) + (_lines("out = self.se(out)") if gated else ""),
    )


def _network(architecture: Architecture) -> str:
    expansion, channels, stages = BLOCKS[architecture.block].expansion, architecture.stem_width, []
    shapes = zip(architecture.blocks, architecture.widths, architecture.strides, strict=True)
    for number, (blocks, width, stride) in enumerate(shapes, start=1):
        first = f"Block({channels}, {width}, {stride})"
        channels = expansion * width
        others = f", *(Block({channels}, {width}, 1) for _ in range({blocks - 1}))" if blocks > 1 else ""
        stages.append(f"self.layer{number} = nn.Sequential({first}{others})")
    pooled = architecture.stem_stride == 4
    return _NETWORK.format(
        channels=architecture.in_channels,
        side=architecture.size,
        classes=architecture.classes,
        stem=architecture.stem_width,
        kernel=architecture.stem_kernel,
        stride=min(architecture.stem_stride, 2),
        padding=architecture.stem_kernel // 2,
        pool=_lines("self.maxpool = nn.MaxPool2d(3, 2, 1)") if pooled else "",
        pooled=_lines("out = self.maxpool(out)") if pooled else "",
        stages=_lines("\n".join(stages)),
        staged=_lines("\n".join(f"out = self.layer{number}(out)" for number in range(1, len(stages) + 1))),
        features=channels,
    )


def _lines(code: str) -> str:
    return indent(dedent(code).strip() + "\n", " " * 8)
