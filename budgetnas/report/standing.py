"""Where the studies of a storage stand: queued, running (where, since when, how far), done."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from budgetnas.space.specification import read_specification
from budgetnas.storage import SEARCHED, Records
from budgetnas.storage.leases import Work, trained, work_in_progress
from budgetnas.storage.values import QueueEntry, QueueState


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that trains for a study now."""

    host: str  # name of its machine
    pid: int
    trial: int | None  # number of its trial, or None in a final
    epoch: int  # epochs of the training that are recorded
    epochs: int | None  # epochs of the training, or None before it has begun
    since: float | None  # when this process began the training, seconds since 1970 UTC

    def describe(self) -> str:
        """Return its machine, its training, how far that is, and for how long the process has trained it."""
        what = "a final" if self.trial is None else f"trial {self.trial}"
        if self.epochs is None or self.since is None:
            return f"{self.host}: {what}"
        minutes, seconds = divmod(int(max(0.0, time.time() - self.since)), 60)
        return f"{self.host}: {what}, epoch {self.epoch}/{self.epochs}, {minutes}:{seconds:02} min"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a study stands."""

    # ``running``, ``queued``, ``done``, ``cancelled``, ``failed`` or ``stopped`` (not done, and nobody trains it).
    state: str
    reason: str  # why it failed, or empty
    trials: int | None  # number of trials that its last search asked for, or None if no search did
    queued_at: float | None  # seconds since 1970 UTC; None if it is not queued
    workers: tuple[Worker, ...]  # the processes at work

    def describe(self) -> str:
        """Return the state and the processes at work, in a few words."""
        if self.workers:
            return f"{self.state}; {'; '.join(worker.describe() for worker in self.workers)}"
        return f"{self.state}: {self.reason}" if self.reason else self.state

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def standings(records: Records) -> dict[str, Standing]:
    """Return where each study of a storage stands."""
    entries, works = records.queue_entries(), work_in_progress(records)
    return {
        study: _standing(records, study, entries.get(study), [work for work in works if work.study == study])
        for study in records.study_names()
    }


def standing_of(records: Records, study: str) -> Standing:
    """Return where a study stands."""
    works = [work for work in work_in_progress(records) if work.study == study]
    return _standing(records, study, records.queue_entries().get(study), works)


def _standing(records: Records, study: str, entry: QueueEntry | None, works: list[Work]) -> Standing:
    goal, workers = records.goal(study), tuple(_worker(records, work) for work in works)
    queued = entry is not None and entry.state is QueueState.QUEUED
    ended = entry.state.value if entry is not None else "stopped"
    if workers:
        state = "running"
    elif goal is not None and trained(records, study) >= goal.trials and _has_its_final(records, study):
        state = "done"
    elif queued or ended in (QueueState.CANCELLED, QueueState.FAILED):
        state = ended
    else:
        state = "stopped"
    return Standing(
        state=state,
        reason=entry.reason if entry is not None and state == QueueState.FAILED else "",
        trials=None if goal is None else goal.trials,
        queued_at=entry.at if entry is not None and queued else None,
        workers=workers,
    )


def _has_its_final(records: Records, study: str) -> bool:
    """Return whether a study has a final that was evaluated on the test split, or needs none."""
    stored = records.specification(study)
    return stored is None or read_specification(stored).choice is None or records.finals_read(study) > 0


def _worker(records: Records, work: Work) -> Worker:
    host, pid = work.holder.host.partition(" ")[0], work.holder.pid
    if work.run is None:
        return Worker(host, pid, work.trial, 0, None, None)
    run, attempts = records.run(work.run), records.attempts(work.run)
    trial = run.trial if run.role in SEARCHED else None
    since = attempts[-1].started_at if attempts else run.started_at
    return Worker(host, pid, trial, run.epochs_done, run.epochs_asked, since)
