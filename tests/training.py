"""A training small enough for a test: some digits, a tiny network, two epochs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from budgetnas.architecture import Architecture
from budgetnas.data import DataRequest, load_data
from budgetnas.metrics import Epoch
from budgetnas.space.recipe import Augmentation, Recipe
from budgetnas.training import Callbacks, RuntimeConfig, Task, train
from budgetnas.training.device import DeviceImages, statistics, to_device
from budgetnas.training.engine import Trainer

CPU = RuntimeConfig("cpu", "float32", threads=1)
SMALL = Architecture((1, 1), (8, 16), (1, 2), stem_width=8, in_channels=1, size=8)
RECIPE = Recipe(optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, epochs=2, t_max=2, batch=64)
PLAIN = Augmentation(crop_padding=0, flip=False)


@dataclass
class Listener(Callbacks):
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    restarts: list[RuntimeConfig] = field(default_factory=list)

    def on_step(self, epoch: int, done: int, total: int) -> None:
        self.steps.append((epoch, done, total))

    def on_epoch_end(self, epoch: Epoch) -> None:
        self.epochs.append(replace(epoch, seconds=0.0))

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        self.restarts.append(runtime)


@lru_cache
def digits() -> Task:
    data = load_data(DataRequest("digits"))
    cpu = torch.device("cpu")
    fit, evaluation = to_device(data.train, cpu), to_device(data.validation, cpu)
    fit = DeviceImages(fit.images[:500], fit.labels[:500])
    return Task(SMALL, RECIPE, 0, fit, evaluation, statistics(data.train))


def task(seed: int = 0, architecture: Architecture = SMALL, **recipe: object) -> Task:
    changed = Recipe.model_validate(RECIPE.model_dump() | recipe)
    return replace(digits(), seed=seed, recipe=changed, architecture=architecture)


def first(images: DeviceImages, count: int) -> DeviceImages:
    return DeviceImages(images.images[:count], images.labels[:count])


def trained(example: Task, runtime: RuntimeConfig = CPU) -> tuple[nn.Module, Listener]:
    listener = Listener()
    return train(example, runtime, listener), listener


OPTIMIZERS = {
    "momentum": dict(optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, momentum=0.9),
    "nesterov": dict(optimizer="sgd", learning_rate=0.05, weight_decay=1e-3, momentum=0.8, nesterov=True),
    "plain sgd": dict(optimizer="sgd", learning_rate=0.1, momentum=0.0),
    "adam": dict(optimizer="adam", learning_rate=0.01),
    "adam with decay": dict(optimizer="adam", learning_rate=0.01, weight_decay=1e-4),
    "weights alone decay": dict(
        optimizer="sgd", learning_rate=0.1, weight_decay=0.05, momentum=0.9, decay_norm_and_bias=False
    ),
    "adamw": dict(optimizer="adam", learning_rate=0.01, weight_decay=0.5, decoupled_decay=True),
    "adamw, weights alone": dict(
        optimizer="adam", learning_rate=0.01, weight_decay=0.5, decoupled_decay=True, decay_norm_and_bias=False
    ),
    "adam, weights alone": dict(optimizer="adam", learning_rate=0.01, weight_decay=0.05, decay_norm_and_bias=False),
}
EXTRAS: dict[str, dict[str, Any]] = {
    "smoothing": dict(label_smoothing=0.2),
    "warm-up": dict(warmup_epochs=2),
    "average": dict(ema_decay=0.7),
    "class weights": dict(class_weights="balanced"),
    "everything": dict(
        label_smoothing=0.1,
        warmup_epochs=1,
        ema_decay=0.95,
        nesterov=True,
        decay_norm_and_bias=False,
        weight_decay=0.01,
        class_weights="balanced",
    ),
}
STRONG: dict[str, Any] = EXTRAS["everything"] | dict(
    schedule="step",
    augmentation=dict(
        crop_padding=1,
        padding="reflect",
        trivial_augment=True,
        erasing=0.3,
        mixup=0.2,
        cutmix=1.0,
    ),
)


def freeze_statistics(trainer: Trainer) -> None:
    """Let batch normalisation use its stored statistics, so that a piece of a batch is as good as the whole."""
    for module in trainer.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = lambda mode=True, self=module: self  # type: ignore[method-assign]
            module.training = False


def run_steps(trainer: Trainer, images: int) -> None:
    """Make the steps of the first images, in the recipe's batches."""
    for _ in trainer.steps(torch.arange(images)):
        pass


def changed_by_steps(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return copies of weights, optimiser state and average: all that a skipped step must leave alone."""
    weights = {f"network.{name}" for name, _ in trainer.network.named_parameters()}
    tensors = trainer.state(1).tensors
    return {name: tensors[name] for name in tensors if name in weights or name.startswith(("optimizer.", "average."))}
