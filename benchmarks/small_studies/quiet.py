"""Shows nothing of a search or a final."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.quiet import QuietListener
from budgetnas.data import Data
from budgetnas.experiments.final import FinalTraining
from budgetnas.experiments.final_results import FinalResult
from budgetnas.search.plan import Plan
from budgetnas.search.study import OpenStudy


class Quiet(QuietListener):
    """Shows nothing."""

    def planned(self, opened: OpenStudy, plan: Plan, data: Data) -> None:
        """Show nothing."""

    def preparing(self, text: str) -> None:
        """Show nothing."""

    def final_planned(self, result: FinalResult, *, resumed: bool) -> None:
        """Show nothing."""

    def final_training(self, training: FinalTraining) -> None:
        """Show nothing."""

    def at_work(self, epochs: Mapping[int, int]) -> None:
        """Say nothing."""
