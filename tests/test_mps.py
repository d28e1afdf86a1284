"""Training on an Apple GPU, as far as it can be checked without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_gpu_choice import APPLE
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training import RECIPE

from budgetnas.architecture import Architecture, named
from budgetnas.errors import InputError
from budgetnas.space.recipe import Augmentation, Normalisation, Recipe
from budgetnas.training import RuntimeConfig, Task, runtime_rules
from budgetnas.training.device import DeviceImages
from budgetnas.training.engine import Trainer
from budgetnas.training.gpu import MPS, UNTESTED, GpuFacts

NETWORK = Architecture((1, 1), (4, 8), (1, 2), stem_width=4, size=8, in_channels=3, classes=5)
CONSTANTS = Normalisation(mean=(0.5,) * 3, std=(0.2,) * 3)
SHORT = RECIPE.model_copy(update={"batch": 5})
EVERYTHING = Recipe(
    optimizer="adam",
    learning_rate=0.01,
    epochs=2,
    t_max=2,
    batch=5,
    label_smoothing=0.1,
    ema_decay=0.9,
    schedule="step",
    augmentation=Augmentation(
        crop_padding=1,
        flip=True,
        rotation=5,
        padding="reflect",
        cutout=2,
        trivial_augment=True,
        erasing=0.5,
        mixup=0.2,
        cutmix=1.0,
    ),
)


def test_an_apple_gpu_trains_in_plain_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GpuFacts, "of_this_process", lambda: APPLE)
    rules = runtime_rules("auto")
    assert (rules.device, rules.notes, rules.graphs, rules.fastest_precision) == ("mps", (UNTESTED,), False, "float32")
    assert not rules.computes_in("bf16")
    config = rules.runtime_for(named("v2"), images=10**9)
    assert config == RuntimeConfig("mps", "float32", rules.cpu.threads, layout="contiguous")
    assert rules.alternatives(named("v2")) == (config,)
    with pytest.raises(InputError, match="--precision 'bf16': is not for mps, which trains in float32"):
        runtime_rules("mps", "bf16")


@pytest.mark.parametrize("recipe", [SHORT, EVERYTHING], ids=["short", "everything"])
def test_steps_on_an_apple_gpu_have_tensors_of_its_kinds_only(recipe: Recipe) -> None:
    """With tensors that have a device, a shape and a type, but no values: an Apple GPU has no float64."""
    kinds: set[tuple[str, torch.dtype]] = set()

    class Kinds(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            kinds.update((leaf.device.type, leaf.dtype) for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor))
            return made

    config = RuntimeConfig(MPS, "float32", threads=1, layout="contiguous")
    with FakeTensorMode(allow_non_fake_inputs=True), Kinds():
        pixels = torch.zeros(13, 3, 8, 8, dtype=torch.uint8, device=MPS)
        images = DeviceImages(pixels, torch.zeros(13, dtype=torch.int64, device=MPS))
        trainer = Trainer(Task(NETWORK, recipe, 0, images, images, CONSTANTS), config)
        assert list(trainer.steps(torch.arange(13))) == [1, 2, 3]
        trainer.evaluator.run(lambda: None)
    assert {parameter.device.type for parameter in trainer.outcome.parameters()} == {MPS}
    there = {dtype for device, dtype in kinds if device == MPS}
    assert torch.float32 in there
    assert there <= {torch.float32, torch.uint8, torch.int64, torch.int32, torch.bool}
