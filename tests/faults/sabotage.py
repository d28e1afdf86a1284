"""What a process does to itself before it enters the command line, so that something goes wrong at a known moment.

All of it is put around the training or the storage of the real program, in one process of a test; what the program
then does about it is its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from budgetnas.metrics import Epoch
from budgetnas.training.cuda_graphs import CaptureError
from budgetnas.training.engine import Callbacks, Trainer

Act = Callable[[Trainer], None]


@dataclass(frozen=True)
class AtEpoch:
    """Do something at the start of an epoch.

    Attributes:
        epoch: Its number.
        act: What to do.
        learning_rate: Only in the training of the candidate with this learning rate; nothing: of any.
    """

    epoch: int
    act: Act
    learning_rate: float | None = None

    def __call__(self) -> None:
        real = Trainer.epoch

        def epoch(trainer: Trainer, number: int, callbacks: Callbacks) -> Epoch:
            if number == self.epoch and self.learning_rate in (None, trainer.task.recipe.learning_rate):
                self.act(trainer)
            return real(trainer, number, callbacks)

        Trainer.epoch = epoch  # type: ignore[method-assign]


def slowly() -> None:
    """Take long over each epoch, so that a test can act in mid-training however fast the machine is.

    All of the time passes between the epoch's last step and the moment it is recorded: a process that is stopped then
    and goes on later writes at once.
    """
    real = Trainer.epoch

    def epoch(trainer: Trainer, number: int, callbacks: Callbacks) -> Epoch:
        done = real(trainer, number, callbacks)
        time.sleep(0.2)
        return done

    Trainer.epoch = epoch  # type: ignore[method-assign]


def fail(_: Trainer) -> None:
    """Raise what nothing in the program expects."""
    raise ZeroDivisionError("a mistake in the middle of a training")


def die(_: object) -> None:
    """End this process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang(_: Trainer) -> None:
    """Take very long."""
    time.sleep(600)


def lose_gpu(_: Trainer) -> None:
    """Raise what PyTorch raises after an error within a kernel."""
    raise torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")


def fail_capture(_: Trainer) -> None:
    """Raise what a failed capture raises."""
    raise CaptureError("CUDA error: operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")


def overflow(trainer: Trainer) -> None:
    """Make the logits so great before they are evaluated that the sum of their losses is beyond float32."""
    evaluate = trainer.evaluator.run

    def run(tick: Callable[[], None]) -> None:
        for parameter in list(trainer.network.parameters())[-2:]:
            parameter.data.mul_(1e38)
        evaluate(tick=tick)

    trainer.evaluator.run = run  # type: ignore[method-assign]


@dataclass(frozen=True)
class BeforeComplete:
    """Do something when Optuna is about to hear that a trial is complete: our record says so already."""

    act: Callable[[object], None]

    def __call__(self) -> None:
        real = RDBStorage.set_trial_state_values

        def told(storage: RDBStorage, trial_id: int, state: TrialState, values: Any = None) -> bool:
            if state is TrialState.COMPLETE:
                self.act(storage)
            return real(storage, trial_id, state, values)

        RDBStorage.set_trial_state_values = told  # type: ignore[method-assign]
