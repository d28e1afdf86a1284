"""Shows nothing of a search or a final."""

from __future__ import annotations

from collections.abc import Mapping

from budgetnas.data import Data
from budgetnas.epoch import Epoch
from budgetnas.final import FinalTraining
from budgetnas.report.final import FinalResult
from budgetnas.search.listener import TrialEnd, TrialStart
from budgetnas.search.plan import Plan
from budgetnas.search.study import OpenStudy
from budgetnas.train import Setup


class Quiet:
    """Shows nothing."""

    def planned(self, opened: OpenStudy, plan: Plan, data: Data) -> None:
        """Show nothing."""

    def preparing(self, text: str) -> None:
        """Show nothing."""

    def notice(self, text: str) -> None:
        """Show nothing."""

    def trial_started(self, start: TrialStart) -> None:
        """Show nothing."""

    def trial_ended(self, end: TrialEnd) -> None:
        """Show nothing."""

    def final_planned(self, result: FinalResult, *, resumed: bool) -> None:
        """Show nothing."""

    def final_training(self, training: FinalTraining) -> None:
        """Show nothing."""

    def step(self, epoch: int, done: int, total: int) -> None:
        """Show nothing."""

    def epoch(self, epoch: Epoch) -> None:
        """Show nothing."""

    def restart(self, setup: Setup, reason: str) -> None:
        """Show nothing."""

    def at_work(self, epochs: Mapping[int, int]) -> None:
        """Say nothing."""
