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
from budgetnas.training.evaluation import RunningMetrics
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


class Kinds(TorchDispatchMode):
    """Notes the type of every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[int, torch.dtype]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor))
        self._seen.update((tensor.untyped_storage().data_ptr(), tensor.dtype) for tensor in tensors)
        return made

    def of_others(self, tensors: list[torch.Tensor]) -> set[torch.dtype]:
        """The types of all but these tensors."""
        places = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        return {dtype for place, dtype in self._seen if place not in places}


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
def test_steps_and_evaluations_need_float64_for_their_sums_only(recipe: Recipe) -> None:
    """An Apple GPU has no float64. What is drawn on the CPU before the steps may have it."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (13, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images = DeviceImages(pixels, torch.arange(13) % 5)
    config = RuntimeConfig("cpu", "float32", threads=1, layout="contiguous")
    trainer = Trainer(Task(NETWORK, recipe, 0, images, images, CONSTANTS), config)
    sums = [total for metrics in (trainer.metrics, trainer.evaluator.metrics) for total in vars(metrics).values()]
    steps = trainer.steps(torch.arange(13))
    next(steps)  # it draws the epoch
    with Kinds() as kinds:
        assert list(steps) == [2, 3]
        trainer.evaluator.run(lambda: None)
    memory = [*trainer.outcome.state_dict().values(), *tree_leaves(dict(trainer.optimizer.state))]
    kept = {tensor.dtype for tensor in memory if isinstance(tensor, torch.Tensor)}
    assert (kinds.of_others(sums) | kept) <= {torch.float32, torch.uint8, torch.int64, torch.int32, torch.bool}


def test_sums_on_an_apple_gpu_are_float32() -> None:
    with FakeTensorMode():  # tensors with a device, but without values
        assert {total.dtype for total in vars(RunningMetrics(torch.device(MPS))).values()} == {torch.float32}
    assert {total.dtype for total in vars(RunningMetrics(torch.device("cpu"))).values()} == {torch.float64}
