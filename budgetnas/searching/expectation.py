"""What a trial is expected to reach, in comparison with all candidates of its study, for the pruner ``model``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from budgetnas.samplers.named import budget_sampler
from budgetnas.searching.study import OpenStudy

if TYPE_CHECKING:
    from budgetnas.samplers.budget_sampler import BudgetSampler


@dataclass(slots=True)
class Expectation:
    """Expected accuracies by the rule that names the winner; they follow from the recorded trials alone."""

    opened: OpenStudy
    _sampler: BudgetSampler | None = field(init=False, default=None)

    def compare(self, trial_id: int, epoch: int, accuracy: float) -> tuple[float, tuple[float, ...]] | None:
        """Return the expected accuracies of a running trial's candidate and of all others after their last epoch.

        `trial_id` is the storage's identifier. `accuracy`, after the finished `epoch`, is by the study's objective.

        Returns:
            The accuracies; None while too few trials are complete.
        """
        if self._sampler is None:
            specification = self.opened.specification
            self._sampler = budget_sampler(0, specification.candidates, specification.budget, 1)
        trial = self.opened.storage.get_trial(trial_id)
        return self._sampler.expected(self.opened.optuna_study, trial, {epoch: accuracy})
