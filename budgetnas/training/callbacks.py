"""The hooks of a training: what a caller overrides to follow it, or to end it."""

from __future__ import annotations

from budgetnas.metrics import Epoch
from budgetnas.training.runtime import RuntimeConfig


class Callbacks:
    """Hooks of a training, each of which does nothing until a subclass overrides it.

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

    def on_progress(self, text: str) -> None:
        """Called before a step that takes seconds, e.g. loading the data."""
