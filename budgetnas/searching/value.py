"""Whether a trial is worth its remaining epochs, by the model of the budget sampler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from budgetnas.metrics import Epoch, Measure
from budgetnas.samplers.named import budget_sampler
from budgetnas.searching.study import OpenStudy

if TYPE_CHECKING:
    from budgetnas.samplers.budget_sampler import BudgetSampler

_POINTS: Final = 100


@dataclass(slots=True)
class ValueRule:
    """Prunes trials whose remaining epochs are worth less than those of a new training.

    The verdict follows from the study's recorded trials, so it is the same in any process and after any interruption.
    """

    opened: OpenStudy
    _model: BudgetSampler | None = field(init=False, default=None)

    def reason_to_prune(self, trial_id: int, epoch: Epoch, epochs: int, measure: Measure) -> str | None:
        """Return why a trial ends after `epoch` of `epochs`, or None if it continues."""
        if self._model is None:
            specification = self.opened.specification
            self._model = budget_sampler(0, specification.candidates, specification.budget, 1)
        trial, accuracy = self.opened.storage.get_trial(trial_id), measure.of(epoch)
        worth = self._model.worth(self.opened.optuna_study, trial, {epoch.epoch: accuracy}, epochs)
        if worth is None or worth.rest >= worth.other:
            return None
        return (
            f"after epoch {epoch.epoch} of {epochs}: {accuracy:.2%} {measure.where}; a further epoch is worth "
            f"{_POINTS * worth.rest:.3f} points, an epoch of another training {_POINTS * worth.other:.3f}"
        )
