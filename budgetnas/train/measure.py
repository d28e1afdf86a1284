"""A short measurement of how fast this machine trains, for an estimate before a search."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import torch

from budgetnas.architecture import count
from budgetnas.train.engine import Task, Trainer, is_out_of_memory, threads
from budgetnas.train.setup import Setup

_BATCH: Final = 32
_STEPS: Final = 3
_SHORT_STEP_SECONDS: Final = 0.25
FORWARD_AND_BACKWARD: Final = 3
"""A backward pass costs about two forward passes."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast trainings go here.

    Attributes:
        macs_per_second: Multiply-accumulates of training steps, forward and backward.
    """

    macs_per_second: float

    def seconds(self, macs: float, *, trained: int, evaluated: int) -> float:
        """Return the expected time of networks that need `macs` for an image.

        Args:
            macs: Multiply-accumulates of a forward pass, per image.
            trained: Images trained on, counted in every epoch.
            evaluated: Images evaluated, likewise.
        """
        return macs * (FORWARD_AND_BACKWARD * trained + evaluated) / self.macs_per_second


def measure_pace(task: Task, setup: Setup) -> tuple[Setup, Pace | None]:
    """Return the pace of a few steps of `task` with small batches, and the setup that it was reached with.

    No pace where memory ran out: the training itself then halves its micro-batch.

    On a CPU a step of a small network is over before several threads have met, and on a busy machine one of them
    is always late; where one thread alone is faster, the setup returned has one.
    """
    try:
        pace, seconds = _pace(task, setup, _STEPS)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return setup, None
    if setup.device != "cpu" or setup.threads == 1:
        return setup, pace
    alone = replace(setup, threads=1)
    other, _ = _pace(task, alone, _STEPS if seconds < _SHORT_STEP_SECONDS else 1)
    return (alone, other) if other.macs_per_second > pace.macs_per_second else (setup, pace)


def _pace(task: Task, setup: Setup, steps: int) -> tuple[Pace, float]:
    """Return the pace of so many steps and the seconds of one, after one to warm up."""
    batch = min(_BATCH, task.recipe.batch) if setup.device == "cpu" else task.recipe.batch
    trainer = Trainer(replace(task, recipe=task.recipe.model_copy(update={"batch": batch})), setup)
    order = torch.arange(batch) % len(task.fit)
    with threads(setup.threads):
        _run(trainer.steps(order))
        started = time.perf_counter()
        _run(trainer.steps(order.repeat(steps)))
        seconds = (time.perf_counter() - started) / steps
    return Pace(FORWARD_AND_BACKWARD * batch * count(task.architecture).macs / seconds), seconds


def _run(steps: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for loss, _ in steps:
        float(loss)
