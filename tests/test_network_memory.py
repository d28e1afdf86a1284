from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from budgetnas.architecture import Architecture
from budgetnas.training.network import StridedPointwiseConv, build

_STEPS = """
import sys, torch
from budgetnas.architecture import Architecture
from budgetnas.training.network import build
torch.set_num_threads(1)
width = int(sys.argv[1])
architecture = Architecture((1, 1), (width, 12), (1, 2), stem_width=width, in_channels=1, size=8)
network = build(architecture, seed=0).to(memory_format=torch.channels_last)
for _ in range(30):
    images = torch.randn(50, 1, 8, 8).to(memory_format=torch.channels_last)
    network(images).square().sum().backward()
print("sound")
"""


@pytest.mark.parametrize("width", [1, 3, 4, 6])
def test_narrow_projections_do_not_corrupt_the_heap(width: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _STEPS, str(width)], capture_output=True, text=True, env={"MALLOC_CHECK_": "3"}
    )
    assert (result.returncode, result.stdout) == (0, "sound\n"), result.stderr


@pytest.mark.parametrize("size", [8, 9])
def test_the_strided_projection_is_the_plain_convolution(size: int) -> None:
    torch.manual_seed(0)
    ours = StridedPointwiseConv(16, 24, 1, 2, bias=False).double()
    images = torch.randn(4, 16, size, size, dtype=torch.float64, requires_grad=True)
    plain = torch.nn.functional.conv2d(images, ours.weight, stride=2)
    torch.testing.assert_close(ours(images), plain)
    gradients = torch.autograd.grad(plain.square().sum(), (images, ours.weight))
    ours_gradients = torch.autograd.grad(ours(images).square().sum(), (images, ours.weight))
    torch.testing.assert_close(ours_gradients, gradients)


def test_every_strided_projection_uses_it() -> None:
    network = build(Architecture((1, 1), (8, 8), (1, 2), stem_width=8))
    assert isinstance(network.get_submodule("layer2.0.shortcut.0"), StridedPointwiseConv)
