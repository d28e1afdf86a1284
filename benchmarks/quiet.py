"""Shows nothing of a search."""

from __future__ import annotations

from budgetnas.metrics import Epoch
from budgetnas.search.listener import TrialEnd, TrialStart
from budgetnas.training import RuntimeConfig


class QuietListener:
    """Shows nothing."""

    def trial_started(self, start: TrialStart) -> None:
        """Show nothing."""

    def step(self, epoch: int, done: int, total: int) -> None:
        """Show nothing."""

    def epoch(self, epoch: Epoch) -> None:
        """Show nothing."""

    def restart(self, runtime: RuntimeConfig, reason: str) -> None:
        """Show nothing."""

    def trial_ended(self, end: TrialEnd) -> None:
        """Show nothing."""

    def notice(self, text: str) -> None:
        """Show nothing."""
