from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from budgetnas.architecture import Architecture, named
from budgetnas.training.network import build, folded


def convolution(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)


def projection(channels: int, out: int, stride: int) -> nn.Sequential:
    if stride == 1 and channels == out:
        return nn.Sequential()
    return nn.Sequential(convolution(channels, out, 1, stride), nn.BatchNorm2d(out))


class ClassicBasic(nn.Module):
    """The basic block of the public CIFAR ResNets, written out: what the declared one has to equal."""

    growth = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = projection(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ClassicBottleneck(nn.Module):
    growth = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = projection(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(x)))
        inner = functional.relu(self.bn2(self.conv2(inner)))
        return functional.relu(self.bn3(self.conv3(inner)) + self.shortcut(x))


class Classic(nn.Module):
    """Four stages for images of 32 x 32 pixels and 10 classes, with a 4 x 4 average pool."""

    def __init__(
        self, block: type[ClassicBasic] | type[ClassicBottleneck], blocks: tuple[int, ...], widths: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.conv1 = convolution(3, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        stages = []
        for stage, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
            layers: list[nn.Module] = []
            for index in range(depth):
                layers.append(block(channels, width, 2 if stage > 0 and index == 0 else 1))
                channels = width * block.growth
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(functional.avg_pool2d(x, 4).flatten(1))


CLASSICS = {
    "v2": lambda: Classic(ClassicBasic, (2, 2, 2, 2), (64, 128, 128, 128)),
    "v1": lambda: Classic(ClassicBasic, (1, 1, 1, 1), (64, 128, 256, 512)),
    "bottleneck": lambda: Classic(ClassicBottleneck, (1, 2, 2, 1), (16, 16, 32, 32)),
}
ARCHITECTURES = {
    "v2": named("v2"),
    "v1": named("v1"),
    "bottleneck": Architecture((1, 2, 2, 1), (16, 16, 32, 32), (1, 2, 2, 2), block="bottleneck"),
}


@pytest.mark.parametrize("name", list(CLASSICS))
def test_checkpoints_of_the_classic_layout_load_both_ways_and_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    classic, ours = CLASSICS[name](), build(ARCHITECTURES[name])
    assert list(ours.state_dict()) == list(classic.state_dict())
    ours.load_state_dict(classic.state_dict(), strict=True)
    images = torch.randn(4, 3, 32, 32)
    for training in (True, False):  # training first: it moves the running statistics
        classic.train(training)
        ours.train(training)
        torch.testing.assert_close(ours(images), classic(images))
    back = CLASSICS[name]()
    back.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(back.eval()(images), classic(images))


class ClassicGated(ClassicBasic):
    """Squeeze-and-excitation of Hu et al. 2018, with 1x1 convolutions as the linear layers."""

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        squeezed = functional.adaptive_avg_pool2d(inner, 1)
        weights = [layer.weight[:, :, None, None] for layer in (self.se.squeeze, self.se.excite)]
        squeezed = functional.relu(functional.conv2d(squeezed, weights[0], self.se.squeeze.bias))
        gate = torch.sigmoid(functional.conv2d(squeezed, weights[1], self.se.excite.bias))
        return functional.relu(inner * gate + self.shortcut(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_block_with_squeeze_and_excitation_computes_what_was_published(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    network = build(Architecture((1,), (80,), (2,), stem_width=8, se=True)).double().to(memory_format=memory_format)
    block = network.layer1[0]
    assert block.se.squeeze.weight.shape == (5, 80)
    classic = ClassicGated(8, 80, 2).double()
    classic.se = block.se
    classic.load_state_dict(block.state_dict(), strict=True)
    features = torch.randn(4, 8, 12, 12, dtype=torch.float64).to(memory_format=memory_format)
    torch.testing.assert_close(block(features), classic(features))
    assert block(features).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("stride", [2, 4])
def test_a_reducing_stem_computes_what_the_imagenet_resnets_do(stride: int) -> None:
    torch.manual_seed(0)
    network = build(Architecture((1,), (8,), (1,), stem_width=8, size=65, stem_stride=stride)).eval()
    images = torch.randn(2, 3, 65, 65)
    features = functional.relu(network.bn1(functional.conv2d(images, network.conv1.weight, stride=2, padding=1)))
    if stride == 4:
        features = functional.max_pool2d(features, 3, stride=2, padding=1)
    features = network.layer1(features)
    torch.testing.assert_close(network(images), network.linear(features.mean(dim=(2, 3))))


@pytest.mark.parametrize("form", [{}, {"se": True}, {"block": "bottleneck"}, {"stem_stride": 4}])
def test_a_folded_network_computes_the_same_without_normalisations(form: dict[str, Any]) -> None:
    network = build(Architecture((1, 2), (8, 16), (1, 2), stem_width=8, **form), seed=0).double()
    images = torch.randn(16, 3, 32, 32, dtype=torch.float64)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias)
    network(images)  # statistics other than 0 and 1
    without = folded(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in without.modules())
    assert network.training and any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(without(images), network.eval()(images))


@pytest.mark.parametrize("name", list(CLASSICS))
def test_gradients_are_those_of_the_classic_layout(name: str) -> None:
    torch.manual_seed(0)
    classic, ours = CLASSICS[name]().double(), build(ARCHITECTURES[name]).double()
    ours.load_state_dict(classic.state_dict())
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.arange(4)
    for network in (classic, ours):
        functional.cross_entropy(network(images), labels).backward()
    expected = {key: parameter.grad for key, parameter in classic.named_parameters()}
    torch.testing.assert_close({key: parameter.grad for key, parameter in ours.named_parameters()}, expected)


def test_a_seed_decides_every_weight() -> None:
    one, same, other = (build(named("v2"), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one if "conv" in key or "linear" in key)


def test_a_seed_leaves_the_global_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    build(named("v2"), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_generator_decides() -> None:
    torch.manual_seed(3)
    one, another = build(named("v2")), build(named("v2"))
    assert torch.equal(one.conv1.weight, build(named("v2"), seed=3).conv1.weight)
    assert not torch.equal(one.conv1.weight, another.conv1.weight)


def test_inputs_are_not_changed() -> None:
    network = build(Architecture((1,), (4,), (1,), stem_width=4, size=8)).eval()
    images = torch.randn(2, 3, 8, 8)
    before = images.clone()
    network(images)
    assert torch.equal(images, before)


NARROW = """
import torch
from budgetnas.architecture import Architecture
from budgetnas.training.network import build, folded

network = build(Architecture((1,), (4,), (2,), stem_width=4, in_channels=1, size=8), seed=0)
network.to(memory_format=torch.channels_last)
for _ in range(60):
    images = torch.rand(8, 1, 8, 8).to(memory_format=torch.channels_last)
    network(images).sum().backward()
print("done")
"""


def test_a_narrow_network_trains_in_channels_last_memory() -> None:
    """In a process of its own: the strided kernel that it stays clear of corrupts memory, which ends in an abort."""
    done = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
