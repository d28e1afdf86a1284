"""The hooks of a search: what a caller overrides to follow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from budgetnas.space.candidates import Candidate
from budgetnas.training import Callbacks, RuntimeConfig

if TYPE_CHECKING:
    from budgetnas.data import Data
    from budgetnas.searching.plan import Plan
    from budgetnas.searching.study import OpenStudy


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of a study's proposals by outcome.

    Attributes:
        proposed: All proposals, initial trials included.
        rejected: Proposals over the budget.
        duplicate: Proposals that the study already had.
        trained: Runs that count towards ``--trials``.
        failed: Runs that failed.
        pruned: Trained runs that a pruner ended early.
        repeats: Complete runs that train a candidate again.
    """

    proposed: int
    rejected: int
    duplicate: int
    trained: int
    failed: int
    pruned: int = 0
    repeats: int = 0


@dataclass(frozen=True, slots=True)
class TrialStart:
    """A trial whose training begins.

    Attributes:
        number: Number of the trial.
        initial_trial: Its name if it is an initial trial, else empty.
        candidate: What is trained.
        params: Parameters of its network.
        tally: Proposals so far.
        repeat_of: Number of the trial whose candidate is trained again, or None.
        seed: Training seed.
    """

    number: int
    initial_trial: str
    candidate: Candidate
    params: int
    tally: Tally
    repeat_of: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrialEnd:
    """A trial that ended.

    Attributes:
        number: Number of the trial.
        accuracy: Validation accuracy after its last epoch, by the study's objective; None if it failed.
        reason: Why it failed or was pruned, or which record was used; may be empty.
        tally: Proposals so far.
        pruned_after: Epoch after which it was pruned; None if it was not.
    """

    number: int
    accuracy: float | None
    reason: str
    tally: Tally
    pruned_after: int | None = None


class SearchCallbacks(Callbacks):
    """Hooks of a search, each of which does nothing until a subclass overrides it."""

    def on_plan(self, opened: OpenStudy, plan: Plan, data: Data) -> None:
        """Called before the first trial."""

    def on_trial_start(self, start: TrialStart) -> None:
        """Called before a trial is trained."""

    def on_trial_end(self, end: TrialEnd) -> None:
        """Called after a trial was trained, failed or got its result from a record."""

    def on_workers(self, epochs: Mapping[int, int]) -> None:
        """Called every second of a search by several workers, with the finished epochs of each running trial."""


class MessageCallbacks(SearchCallbacks):
    """Passes messages on; the search that started this worker reads everything else from the storage.

    Args:
        write: Called with each message.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def on_message(self, text: str) -> None:
        """Pass the message on."""
        self._write(text)

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        """Pass on why a training starts over."""
        self._write(f"a training starts over: {reason}")
