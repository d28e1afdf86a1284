"""How many trainings a search can have: as many as asked for, or as fit into its time limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from budgetnas.searching.study import OpenStudy
from budgetnas.storage import SEARCHED, State
from budgetnas.storage.leases import slots_in_use, trained

_ENDED: Final = (State.COMPLETE, State.PRUNED)


@dataclass(slots=True)
class Pace:
    """Seconds that a process takes for a training, including everything between two trainings.

    Before its first training it is the median duration of the study's earlier runs.
    """

    clock: Callable[[], float]  # returns seconds from any start
    earlier: float | None = None  # median duration of earlier runs, or None if there are none
    _started: float = field(init=False)
    _trained: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._started = self.clock()

    @classmethod
    def of(cls, opened: OpenStudy, clock: Callable[[], float]) -> Pace:
        """Return the pace of a process that begins to train for a study."""
        runs = [run for role in SEARCHED for run in opened.records.runs(study=opened.name, role=role)]
        seconds = [run.seconds for run in runs if run.state in _ENDED and run.seconds is not None]
        return cls(clock, earlier=median(seconds) if seconds else None)

    def add_training(self) -> None:
        """Count a training that has ended."""
        self._trained += 1

    def seconds(self) -> float | None:
        """Return the mean seconds for a training, or None if there has been none."""
        if not self._trained:
            return self.earlier
        return (self.clock() - self._started) / self._trained


def expected_trainings(opened: OpenStudy, trials: int, pace: Pace, seconds_left: float | None) -> int:
    """Return the number of trainings that a study will have in total.

    Call it with a slot taken: all processes that train for the study are assumed to be as fast as this process.
    `seconds_left` is None without a time limit.
    """
    seconds = pace.seconds()
    if seconds_left is None or seconds is None or seconds <= 0:
        return trials
    processes = max(1, slots_in_use(opened.records, opened.name))
    more = max(1, int(processes * seconds_left / seconds))
    return min(trials, trained(opened.records, opened.name) + more)
