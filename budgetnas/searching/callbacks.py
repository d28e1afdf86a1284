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
    """Counts of a study's proposals by outcome."""

    proposed: int  # all proposals, initial trials included
    rejected: int  # proposals over the budget
    duplicate: int  # proposals that the study already had
    trained: int  # runs that count towards ``--trials``
    failed: int  # runs that failed
    pruned: int = 0  # trained runs that a pruner ended early
    repeats: int = 0  # complete runs that train a candidate again


@dataclass(frozen=True, slots=True)
class TrialStart:
    """A trial whose training begins."""

    number: int
    initial_trial: str  # its name if it is an initial trial, else empty
    candidate: Candidate
    params: int  # parameters of its network
    tally: Tally  # proposals so far
    repeat_of: int | None = None  # number of the trial whose candidate is trained again, or None
    seed: int = 0  # training seed


@dataclass(frozen=True, slots=True)
class TrialEnd:
    """A trial that ended."""

    number: int
    accuracy: float | None  # validation accuracy after its last epoch, by the study's objective; None if it failed
    reason: str  # why it failed or was pruned, or which record was used; may be empty
    tally: Tally  # proposals so far
    pruned_after: int | None = None  # epoch after which it was pruned; None if it was not


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
    """Passes messages on; the search that started this worker reads everything else from the storage."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def on_message(self, text: str) -> None:
        """Pass the message on."""
        self._write(text)

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        """Pass on why a training starts over."""
        self._write(f"a training starts over: {reason}")
