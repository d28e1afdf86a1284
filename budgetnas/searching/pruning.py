"""Which trials end early, by their accuracy after equal numbers of epochs.

ASHA is the stopping variant of asynchronous successive halving: a trial that reaches a rung either continues at once
or ends there for good. The original promotes trials that wait at a rung (Li, Jamieson,
Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht, Talwalkar, "A System for Massively Parallel Hyperparameter Tuning",
MLSys 2020); that needs checkpoints of all waiting trials, and here only unfinished runs have checkpoints.

The median rule is that of Golovin, Solnik, Moitra, Kochanski, Karro, Sculley, "Google Vizier: A Service for Black-Box
Optimization", KDD 2017, section 3.2.2, on the accuracies after one epoch rather than on their running averages.

The pruner ``model`` is ``asha`` by the accuracies that candidates are expected to reach, not those at a rung.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final, assert_never

from budgetnas.metrics import ACCURACY, Epoch, Measure
from budgetnas.space.specification import Fidelity
from budgetnas.storage import State

MEDIAN_NEEDS: Final = 5
"""Smallest number of complete trials for a median."""
_REACHED: Final = (State.COMPLETE, State.PRUNED, State.RUNNING)
_COMPLETE: Final = (State.COMPLETE,)


@dataclass(frozen=True, slots=True)
class PruningDecision:
    """The decision that a trial ends."""

    needed: float  # accuracy with which it would have continued
    rule: str  # where that accuracy comes from, in words
    expected: float | None = None  # accuracy expected after its last epoch, if that is compared

    def reason(self, epoch: Epoch, epochs: int, measure: Measure = ACCURACY) -> str:
        """Return why a trial ends after `epoch` of `epochs`, judged by `measure`."""
        had = f"after epoch {epoch.epoch} of {epochs}: {measure.of(epoch):.2%} {measure.where}"
        expected = "" if self.expected is None else f", so {self.expected:.2%} expected"
        return f"{had}{expected}, {self.needed:.2%} needed ({self.rule})"


def compared(fidelity: Fidelity) -> tuple[State, ...]:
    """Return the states of the runs that a trial is compared with.

    ASHA compares with every run that reached the rung, pruned runs included. The median rule compares with complete
    runs only: the runs that reach a late epoch are those that survived, so their median would rise with every epoch.
    """
    return _COMPLETE if fidelity.pruner == "median" else _REACHED


def verdict(fidelity: Fidelity, accuracy: float, others: Sequence[float]) -> PruningDecision | None:
    """Return why a trial ends at a rung, or None if it continues.

    Args:
        fidelity: The pruner and its parameters.
        accuracy: Validation accuracy of the trial after the rung's epoch, by the study's objective; with ``model`` the
            accuracy that is expected after its last epoch.
        others: Accuracies of the compared trials after the same epoch; with ``model`` the expected ones of all others.
    """
    match fidelity.pruner:
        case "asha":
            return _halving(accuracy, others, fidelity.eta)
        case "model":
            decision = _halving(accuracy, others, fidelity.eta)
            return None if decision is None else replace(decision, expected=accuracy)
        case "median":
            return _median(accuracy, others)
        case "none":
            return None
        case unknown:
            assert_never(unknown)


def _halving(accuracy: float, others: Sequence[float], eta: int) -> PruningDecision | None:
    """Continue if among the best 1/eta (rounded down) at the rung, or while fewer than eta trials reached it."""
    reached = sorted((accuracy, *others), reverse=True)
    kept = len(reached) // eta
    if not kept or accuracy >= reached[kept - 1]:
        return None
    return PruningDecision(reached[kept - 1], f"the best {kept} of {len(reached)} continue")


def _median(accuracy: float, others: Sequence[float]) -> PruningDecision | None:
    if len(others) < MEDIAN_NEEDS or accuracy >= (middle := median(others)):
        return None
    return PruningDecision(middle, f"the median of {len(others)} complete trials")
