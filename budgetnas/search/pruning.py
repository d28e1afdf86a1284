"""Which trials end early: verdicts on what trials had after equal epochs.

ASHA is the stopping variant of asynchronous successive halving: a trial that reaches a rung goes on at once or ends
there for good, and is never taken up again. The original promotes trials that wait at a rung (Li, Jamieson,
Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht, Talwalkar, "A System for Massively Parallel Hyperparameter Tuning",
MLSys 2020); that needs the checkpoints of all that wait, and those kept here are of unfinished runs alone.

The median rule is that of Golovin, Solnik, Moitra, Kochanski, Karro, Sculley, "Google Vizier: A Service for Black-Box
Optimization", KDD 2017, section 3.2.2, on the accuracies after one epoch rather than on their running averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, assert_never

from budgetnas.metrics import Epoch
from budgetnas.space.specification import Fidelity
from budgetnas.storage import State

MEDIAN_NEEDS: Final = 5
"""Complete trials that a median is taken of at the least."""
_REACHED: Final = (State.COMPLETE, State.PRUNED, State.RUNNING)
_COMPLETE: Final = (State.COMPLETE,)


@dataclass(frozen=True, slots=True)
class Cut:
    """The verdict that a trial ends.

    Attributes:
        needed: The accuracy with which it would have gone on.
        rule: What that is, in words.
    """

    needed: float
    rule: str

    def reason(self, epoch: Epoch, epochs: int) -> str:
        """Return in one line why a trial ends after `epoch` of `epochs`."""
        had = f"after epoch {epoch.epoch} of {epochs}: {epoch.eval_accuracy:.2%} on validation"
        return f"{had}, {self.needed:.2%} needed ({self.rule})"


def compared(fidelity: Fidelity) -> tuple[State, ...]:
    """Return how the trainings stand that a trial is compared with.

    For ASHA all that reached the rung, those that ended there included. For the median the complete ones: of those
    that reach an epoch the worse half ended at the epochs before it, and their median would rise with every epoch.
    """
    return _COMPLETE if fidelity.pruner == "median" else _REACHED


def verdict(fidelity: Fidelity, accuracy: float, others: Sequence[float]) -> Cut | None:
    """Return why a trial ends at a rung, or nothing if it goes on.

    Args:
        fidelity: The rule.
        accuracy: Validation accuracy of the trial after the rung's epoch.
        others: That of the trials it is compared with, after the same epoch.
    """
    match fidelity.pruner:
        case "asha":
            return _halving(accuracy, others, fidelity.eta)
        case "median":
            return _median(accuracy, others)
        case "none":
            return None
        case unknown:
            assert_never(unknown)


def _halving(accuracy: float, others: Sequence[float], eta: int) -> Cut | None:
    """Go on among the best 1/eta, rounded down, of all at the rung; where that is none, go on too."""
    reached = sorted((accuracy, *others), reverse=True)
    going_on = len(reached) // eta
    if not going_on or accuracy >= reached[going_on - 1]:
        return None
    return Cut(reached[going_on - 1], f"the best {going_on} of {len(reached)} go on")


def _median(accuracy: float, others: Sequence[float]) -> Cut | None:
    if len(others) < MEDIAN_NEEDS or accuracy >= (middle := median(others)):
        return None
    return Cut(middle, f"the median of {len(others)} complete trials")
