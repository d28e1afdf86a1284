"""The hooks of a training: what a caller overrides to follow it, to end it, or to checkpoint it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from budgetnas.metrics import Epoch
from budgetnas.training.runtime import RuntimeConfig
from budgetnas.training.state import TrainingState


class Callbacks:
    """Hooks of a training, which are no-ops until a subclass overrides them.

    Any hook may raise to end the training; the exception passes through unchanged.
    """

    def on_step(self, epoch: int, done: int, total: int) -> None:
        """Called after `done` of `total` steps of `epoch`, and before every batch of the evaluation."""

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Called with the figures of every epoch."""

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        """Called when the training starts over in another runtime; all epochs so far are void."""

    def on_message(self, text: str) -> None:
        """Called with a sentence that the user should see."""

    def on_elsewhere(self, run: int, *, waiting: bool) -> None:
        """Called when another process is training a run that this process needs; a message unless overridden.

        Args:
            run: Number of its record.
            waiting: Whether this process waits for it now, or has other runs to train first.
        """
        then = "waiting for it" if waiting else "others come first"
        self.on_message(f"another process is training run {run}, which this process needs too; {then}")

    def on_progress(self, text: str) -> None:
        """Called before a step that takes seconds, e.g. loading the data."""


class Checkpointer:
    """Stores states of a training and returns them on resuming. The base class stores none.

    Exceptions of its methods pass through the training unchanged.
    """

    def begin(self) -> Iterable[TrainingState]:
        """Return the states to resume from, newest first; read in turn until a state fits."""
        return ()

    def rejected(self, state: TrainingState, reason: str) -> None:
        """Called when a state does not fit; the next state is tried, then the training starts at its first epoch."""

    def resumed(self, state: TrainingState) -> None:
        """Called when the training resumes after the state's epoch; later epochs are trained again."""

    def epoch_ended(self, state: TrainingState) -> None:
        """Called after every epoch but the last, with the state to checkpoint."""

    def interrupted(self, state: TrainingState) -> None:
        """Called before `Interrupted` leaves the training, with the state after the last finished epoch.

        Not called before the first epoch has ended. The state may be that from which the training resumed.
        """

    def forget(self) -> None:
        """Called when the training starts over in another runtime; all stored states are void."""


NO_CHECKPOINTS: Final[Checkpointer] = Checkpointer()
"""No states are copied for it."""
