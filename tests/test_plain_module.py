"""The network of a bundle as a module that needs torch only."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from budgetnas.architecture import Architecture
from budgetnas.bundle.contents import Preprocessing
from budgetnas.bundle.plain_module import check_plain_module, plain_module, to_pt
from budgetnas.errors import BudgetnasError
from budgetnas.space.recipe import Normalisation
from budgetnas.training.network import ResNet, build
from budgetnas.training.weights import to_safetensors

SMALL = Architecture((1, 2, 1), (4, 6, 8), (1, 2, 2), stem_width=4, size=16, classes=3)
NETWORKS = {
    "basic": SMALL,
    "bottleneck": replace(SMALL, block="bottleneck"),
    "narrow stem": replace(SMALL, stem_width=6),
    "gates": replace(SMALL, se=True),
    "gates in bottlenecks": replace(SMALL, block="bottleneck", se=True, widths=(16, 32, 64)),
    "reducing stem": replace(SMALL, stem_stride=2, size=64),
    "pooling stem": replace(SMALL, stem_stride=4, stem_kernel=7, size=112),
    "grey": replace(SMALL, in_channels=1, size=8),
    "one stage": Architecture((3,), (5,), (1,), size=8, classes=2),
}


def preprocessing_of(architecture: Architecture) -> Preprocessing:
    channels = architecture.in_channels
    return Preprocessing(
        classes=tuple(f"class '{index}' \\ \"quoted\"\n é 猫" for index in range(architecture.classes)),
        channels=channels,  # type: ignore[arg-type]
        resolution=architecture.size,
        normalisation=Normalisation(mean=(0.4,) * channels, std=(0.2,) * channels),
    )


def trained(architecture: Architecture) -> ResNet:
    """A network whose batch-norm statistics and gates are not those of the initialisation."""
    network = build(architecture, seed=1)
    torch.manual_seed(0)
    for _ in range(2):
        network(torch.randn(8, architecture.in_channels, architecture.size, architecture.size))
    return network.eval()


def images_for(architecture: Architecture) -> np.ndarray[Any, np.dtype[np.uint8]]:
    shape = (5, architecture.in_channels, architecture.size, architecture.size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_module_has_the_parameters_and_logits_of_the_network(name: str) -> None:
    architecture = NETWORKS[name]
    network = trained(architecture)
    source = plain_module(architecture, preprocessing_of(architecture))
    check_plain_module(source, network, images_for(architecture))
    module = module_of(architecture)
    plain = module["Network"]()
    assert list(plain.state_dict()) == list(network.state_dict())
    assert module["CLASSES"] == preprocessing_of(architecture).classes
    assert sum(tensor.numel() for tensor in plain.parameters()) == sum(p.numel() for p in network.parameters())


def module_of(architecture: Architecture) -> dict[str, Any]:
    module: dict[str, Any] = {}
    exec(compile(plain_module(architecture, preprocessing_of(architecture)), "model.py", "exec"), module)
    return module


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 16, 16),  # as of torchvision's ToTensor: divided by 255 already
        torch.zeros(1, 3, 224, 224, dtype=torch.uint8),
        torch.zeros(1, 1, 16, 16, dtype=torch.uint8),
        torch.zeros(1, 16, 16, 3, dtype=torch.uint8),
        torch.zeros(3, 16, 16, dtype=torch.uint8),
    ],
    ids=lambda images: f"{images.dtype} {tuple(images.shape)}",
)
def test_images_of_another_type_or_shape_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be torch\.uint8 \(N, 3, 16, 16\), from 0 to 255") as caught:
        module_of(SMALL)["normalised"](images)
    assert f"images are {images.dtype} {tuple(images.shape)}" in str(caught.value)


def test_images_of_any_device_are_normalised_there() -> None:
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8, device="meta")
    assert module_of(SMALL)["normalised"](images).device == images.device


def test_the_weights_load_from_a_path_or_its_text(tmp_path: Path) -> None:
    network, load = trained(SMALL), module_of(SMALL)["load"]
    (tmp_path / "model.pt").write_bytes(to_pt(network))
    (tmp_path / "weights.safetensors").write_bytes(to_safetensors(network))
    for place in (tmp_path / "model.pt", tmp_path / "weights.safetensors"):
        for path in (place, str(place)):
            loaded = load(path)
            assert not loaded.training
            assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_the_source_is_readable() -> None:
    source = plain_module(SMALL, preprocessing_of(SMALL))
    assert "self.layer2 = nn.Sequential(Block(4, 6, 2), *(Block(6, 6, 1) for _ in range(1)))" in source
    assert "Gate" not in source
    assert source.isascii()
    assert max(len(line) for line in source.splitlines() if not line.startswith("CLASSES")) <= 120
    assert not [line for line in source.splitlines() if line != line.rstrip()]


def test_a_module_of_another_network_fails_the_check() -> None:
    source = plain_module(SMALL, preprocessing_of(SMALL))
    other = source.replace("out.mean(dim=(2, 3))", "out.amax(dim=(2, 3))")
    assert other != source
    with pytest.raises(BudgetnasError, match=r"model\.py differs from the network"):
        check_plain_module(other, trained(SMALL), images_for(SMALL))


def test_the_module_runs_where_only_torch_is_installed(tmp_path: Path) -> None:
    architecture = NETWORKS["gates"]
    network, images = trained(architecture), images_for(architecture)
    (tmp_path / "model.py").write_text(plain_module(architecture, preprocessing_of(architecture)))
    (tmp_path / "model.pt").write_bytes(to_pt(network))
    torch.save(torch.from_numpy(images), tmp_path / "images.pt")
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('budgetnas', 'numpy', 'safetensors', 'torchvision', 'PIL'), None))\n"
        "sys.path.insert(0, '.')\n"
        "import torch, model\n"
        "logits = model.load('model.pt')(model.normalised(torch.load('images.pt')))\n"
        "torch.save(logits.detach(), 'logits.pt')\n"
    )
    command = [sys.executable, "-I", "-W", "ignore", "-c", program]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    mean, std = 0.4, 0.2
    with torch.inference_mode():
        expected = network((torch.from_numpy(images) / 255 - mean) / std)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected)
