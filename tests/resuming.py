"""Interrupted trainings and where their states are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from training import CPU, EXTRAS, OPTIMIZERS, STRONG, Listener, task, trained

from budgetnas.architecture import Architecture
from budgetnas.errors import Interrupted
from budgetnas.metrics import Epoch
from budgetnas.training import RuntimeConfig, Task, TrainingState, train
from budgetnas.training.device import DeviceImages
from budgetnas.training.engine import Trainer

EPOCHS = 4
CHANGED_IMAGES = {"augmentation": {"crop_padding": 1, "rotation": 10, "cutout": 3}}
CHANGES: dict[str, dict[str, Any]] = OPTIMIZERS | EXTRAS | {"changed images": CHANGED_IMAGES, "strong": STRONG}
EVERYTHING = EXTRAS["everything"] | CHANGED_IMAGES
SETUPS = {
    "one thread": CPU,
    "contiguous, pieces of a batch": replace(CPU, layout="contiguous", micro_batch=16),
    "two threads": replace(CPU, threads=2),
    "two threads, contiguous": replace(CPU, threads=2, layout="contiguous"),
    "pieces of a batch": replace(CPU, micro_batch=16),
    "bfloat16": replace(CPU, precision="bf16"),
    "fp16, pieces of a batch": replace(CPU, precision="fp16", micro_batch=16),
}
WITH_SHORTCUTS = Architecture((1, 1), (4, 8), (1, 2), stem_width=4, in_channels=1, size=8)


@dataclass
class Drawer:
    """Keeps every state as bytes and notes the calls."""

    states: list[bytes] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def begin(self) -> Iterator[TrainingState]:
        return (TrainingState.from_bytes(stored) for stored in reversed(self.states[:]))

    def rejected(self, state: TrainingState, reason: str) -> None:
        self.calls.append(f"refused {state.epoch}: {reason}")

    def resumed(self, state: TrainingState) -> None:
        self.calls.append(f"resumed after {state.epoch}")

    def epoch_ended(self, state: TrainingState) -> None:
        self.calls.append(f"ended {state.epoch}")
        self.states.append(state.to_bytes())

    def interrupted(self, state: TrainingState) -> None:
        self.calls.append(f"interrupted after {state.epoch}")
        self.states.append(state.to_bytes())

    def forget(self) -> None:
        self.calls.append("forget")
        self.states.clear()


class OnlyWhenInterrupted(Drawer):
    """Keeps a state when it has to."""

    def epoch_ended(self, state: TrainingState) -> None:
        self.calls.append(f"ended {state.epoch}")


@dataclass
class Stopping(Listener):
    """Interrupts before a step has been made, or at the end of an epoch."""

    at_step: tuple[int, int] = (0, 0)
    at_epoch: int = 0

    def on_step(self, epoch: int, done: int, total: int) -> None:
        if (epoch, done) == self.at_step:
            raise Interrupted
        super().on_step(epoch, done, total)

    def on_epoch_end(self, epoch: Epoch) -> None:
        if epoch.epoch == self.at_epoch:
            raise Interrupted
        super().on_epoch_end(epoch)


def small(**recipe: object) -> Task:
    """A training on few images: a last batch is smaller than the others."""
    example = task(architecture=WITH_SHORTCUTS, **{"epochs": EPOCHS, "t_max": EPOCHS + 1, "batch": 30} | recipe)
    some, few = (
        DeviceImages(images.images[:count], images.labels[:count])
        for images, count in ((example.train, 70), (example.evaluation, 30))
    )
    return replace(example, train=some, evaluation=few)


def resumed(example: Task, runtime: RuntimeConfig, checkpointer: Drawer) -> tuple[nn.Module, Listener]:
    listener = Listener()
    return train(example, runtime, listener, checkpointer), listener


def same(network: nn.Module, other: nn.Module) -> None:
    assert network.training == other.training
    for (key, tensor), (name, its) in zip(network.state_dict().items(), other.state_dict().items(), strict=True):
        assert key == name
        assert torch.equal(tensor, its), key
        assert tensor.stride() == its.stride(), key


def state_after(epochs: int, example: Task, runtime: RuntimeConfig = CPU) -> TrainingState:
    trainer = Trainer(example, runtime)
    for number in range(1, epochs + 1):
        trainer.epoch(number, Listener())
    return trainer.state(epochs)


def after_every_epoch(example: Task, runtime: RuntimeConfig) -> None:
    network, listener = trained(example, runtime)
    drawer = Drawer()
    watched, followed = resumed(example, runtime, drawer)
    same(watched, network)
    assert followed.epochs == listener.epochs, "to keep states changes nothing"
    assert drawer.calls == [f"ended {number}" for number in range(1, example.recipe.epochs)]
    for done, stored in enumerate(drawer.states, start=1):
        again, rest = resumed(example, runtime, Drawer([stored]))
        assert rest.epochs == listener.epochs[done:]
        same(again, network)
