"""What a search tells whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass

from budgetnas.space.search_space import Candidate
from budgetnas.storage import Broken
from budgetnas.training import Callbacks


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of all proposals so far.

    Attributes:
        proposed: All of them, seeds included.
        rejected: Over the budget.
        duplicate: Known already.
        trained: Runs that count towards ``--trials``.
        failed: Runs that failed.
        cut: Runs among the trained ones that ended at a rung.
        epochs_saved: Epochs that these were spared.
        repeats: Complete runs among the trained ones of candidates that had been trained before.
        broken: How many of the rejected broke each limit, where there are several.
    """

    proposed: int
    rejected: int
    duplicate: int
    trained: int
    failed: int
    cut: int = 0
    epochs_saved: int = 0
    repeats: int = 0
    broken: tuple[Broken, ...] = ()


@dataclass(frozen=True, slots=True)
class TrialStart:
    """A trial about to be trained.

    Attributes:
        number: Its number.
        seed_id: Name of the seed it is, or empty.
        candidate: What is trained.
        params: Parameters of its network.
        tally: What became of all proposals so far.
        repeat_of: The trial whose candidate it trains once more, or nothing.
        seed: The training seed.
    """

    number: int
    seed_id: str
    candidate: Candidate
    params: int
    tally: Tally
    repeat_of: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrialEnd:
    """A trial that ended.

    Attributes:
        number: Its number.
        accuracy: Validation accuracy after the last epoch that it trained; nothing if it failed.
        reason: Why it failed or was cut, which record served it, or empty.
        tally: What became of all proposals so far.
        cut_after: The epoch after which it was cut; nothing if it went on to the end.
    """

    number: int
    accuracy: float | None
    reason: str
    tally: Tally
    cut_after: int | None = None


class SearchListener(Callbacks):
    """Whoever shows a search's progress."""

    def trial_started(self, start: TrialStart) -> None:
        """Hear that a trial is about to be trained."""

    def trial_ended(self, end: TrialEnd) -> None:
        """Hear how a trial ended."""
