"""A short measurement of how fast this machine trains: for time estimates, and for ``--tune-setup``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from budgetnas.architecture import count
from budgetnas.training.cuda_graphs import WARM_UP_CALLS, CaptureError
from budgetnas.training.engine import Task, Trainer, applied, capture_failed, device_lost
from budgetnas.training.evaluation import read_metrics
from budgetnas.training.failures import is_device_lost, is_out_of_memory
from budgetnas.training.runtime import RuntimeConfig

_BATCH: Final = 32
_STEPS: Final = 3
_GPU_STEPS: Final = 20
FORWARD_AND_BACKWARD: Final = 3
"""A backward pass costs about two forward passes."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of training on this machine."""

    macs_per_second: float  # multiply-accumulates of training steps, forward and backward, per second

    def seconds(self, macs: float, *, trained: int, evaluated: int) -> float:
        """Return the expected time of networks with `macs` per image in a forward pass.

        Images `trained` on, and those `evaluated`, count in every epoch.
        """
        return macs * (FORWARD_AND_BACKWARD * trained + evaluated) / self.macs_per_second


def measure_pace(task: Task, runtime: RuntimeConfig) -> Pace | None:
    """Return the pace of a few training steps of `task`, or None where memory ran out (`train` halves its micro-batch).

    For an estimate of time only: no training depends on it.

    Raises:
        RestartNeeded: If no further call to the GPU can succeed in this process, or a capture failed.
    """
    try:
        seconds = _step_seconds(task, runtime, _GPU_STEPS if runtime.graphs else _STEPS)
    except RuntimeError as error:
        if isinstance(error, CaptureError):
            raise capture_failed(error, runtime) from error
        if is_device_lost(error):
            raise device_lost(error) from error
        if not is_out_of_memory(error):
            raise
        return None
    return Pace(FORWARD_AND_BACKWARD * _batch(task, runtime) * count(task.architecture).macs / seconds)


def fastest_runtime(task: Task, runtimes: Sequence[RuntimeConfig]) -> RuntimeConfig:
    """Time a few steps of `task` in each runtime, and return the fastest runtime (``--tune-setup``)."""
    return min(runtimes, key=lambda runtime: _step_seconds(task, runtime, _STEPS)) if len(runtimes) > 1 else runtimes[0]


def _step_seconds(task: Task, runtime: RuntimeConfig, steps: int) -> float:
    """Return the seconds of a step, after a warm-up."""
    batch = _batch(task, runtime)
    images = torch.arange(batch * max(steps, WARM_UP_CALLS + 1), device=task.train.device) % len(task.train)
    recipe = task.recipe.model_copy(update={"batch": batch})
    with applied(runtime):
        trainer = Trainer(replace(task, recipe=recipe, train=task.train.take(images)), runtime)
        _run(trainer, batch * (WARM_UP_CALLS + 1 if runtime.graphs else 1))
        started = time.perf_counter()
        _run(trainer, batch * steps)
        return (time.perf_counter() - started) / steps


def _batch(task: Task, runtime: RuntimeConfig) -> int:
    return min(_BATCH, task.recipe.batch) if runtime.device == "cpu" else task.recipe.batch


def _run(trainer: Trainer, images: int) -> None:
    for _ in trainer.steps(torch.arange(images)):
        pass
    read_metrics(trainer.metrics)
