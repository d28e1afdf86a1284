"""A worker of the queue: trains whatever is queued in a storage, in turns, so that no study waits for another's end."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from budgetnas.errors import (
    EXIT_FAILED,
    BudgetnasError,
    Cancelled,
    Interrupted,
    LeaseLost,
    SearchFailedError,
)
from budgetnas.experiments.final import FinalCallbacks, FinalTraining, finish, help_finish
from budgetnas.experiments.final_plan import FinishRequest, is_final_due, runs_left
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import LOST, RunImages
from budgetnas.runs.reopen import DataPlace, load_study_data, study_specification, validation_images
from budgetnas.searching.callbacks import MessageCallbacks, TrialEnd
from budgetnas.searching.loop import SearchTask, Turn, reporting_outcome, sampler_of, search
from budgetnas.searching.study import OpenStudy, open_study, recover_stale_trials
from budgetnas.searching.workers.finals import run_final_worker
from budgetnas.searching.workers.worker import WorkerRequest, WorkerResult, chosen_runtime, run_worker
from budgetnas.storage import Records
from budgetnas.storage.leases import (
    holding,
    release_all_of_this_process,
    slots_in_use,
    take_final,
    trained,
    work_in_progress,
)
from budgetnas.storage.opening import open_records
from budgetnas.storage.retry import is_transient
from budgetnas.storage.urls import parse_storage
from budgetnas.storage.values import QueueEntry, QueueState
from budgetnas.training import Runtime

_POLL_SECONDS: Final = 1.0
_AWAY_SECONDS: Final = 5.0
"""Seconds between two tries to reach a database that is away."""
_SKIP_SECONDS: Final = 60.0
"""Seconds until a study is tried again whose data were not here."""
_STARTS: Final = 4
"""A turn takes at least this many times the time that its study took to open."""


def run_request(request: WorkerRequest, stopper: Stopper, callbacks: MessageCallbacks) -> WorkerResult:
    """Run the worker of a study or of the queue, as a process or a task that a pool has started."""
    if request.study is None:
        return run_queue_worker(request, stopper, callbacks)
    return (run_worker if request.final is None else run_final_worker)(request, stopper, callbacks)


def run_queue_worker(request: WorkerRequest, stopper: Stopper, callbacks: MessageCallbacks) -> WorkerResult:
    """Train the studies that are queued in a storage, until stopped or, if requested, until nothing is left.

    Raises:
        InputError: If the storage cannot be opened, or the device is missing.
    """
    url = parse_storage(request.storage)
    records = open_records(url)
    worker = _QueueWorker(request, url, records, chosen_runtime(request, callbacks), stopper, callbacks)
    try:
        with reporting_outcome(callbacks) as outcome, stopper.listening():
            worker.work()
            outcome.finished = True
    finally:
        worker.close()
    return WorkerResult(records, outcome)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A study that is ready to train."""

    entry: QueueEntry
    study: OpenStudy
    images: RunImages
    seconds: float  # time that opening it took


@dataclass(frozen=True, slots=True)
class _Skipped:
    """A queued study that this machine cannot train now."""

    queued_at: float  # when the study was queued
    reason: str
    until: float  # when it is tried again, on the clock of ``time.monotonic``


class _TurnOver(Exception):
    """The turn ends between two trainings of a final."""


@dataclass(slots=True)
class _QueueWorker:
    request: WorkerRequest
    url: URL
    records: Records
    runtime: Runtime
    stopper: Stopper
    callbacks: MessageCallbacks
    _opened: _Opened | None = field(default=None, init=False)
    _skipped: dict[str, _Skipped] = field(default_factory=dict, init=False)
    _idle: bool = field(default=False, init=False)

    def work(self) -> None:
        """Take turns until nothing is left, or forever.

        Raises:
            Interrupted: If a stop was requested.
        """
        while True:
            self.stopper.check()
            try:
                entries = self._entries()
                if not entries:
                    self._report_idle()
                    if self.request.until_idle:
                        return
                if not any(self._take_turn(entry) for entry in fairest_first(self.records, entries)):
                    time.sleep(_POLL_SECONDS)
            except (SQLAlchemyError, StorageInternalError):
                self._wait_for_database()
            except BudgetnasError as error:  # e.g. another process has the storage's lock for too long
                self.callbacks.on_message(str(error))
                self._wait_for_database()
            except Interrupted as stop:
                if stop.exit_code != EXIT_FAILED:  # which is that of a storage that is lost
                    raise
                self._wait_for_database()

    def close(self) -> None:
        """Close the connections of the study that was trained last."""
        if self._opened is not None:
            self._opened.study.close_optuna()
        self._opened = None

    def _entries(self) -> list[QueueEntry]:
        now = time.monotonic()
        skipped = {(name, skip.queued_at) for name, skip in self._skipped.items() if now < skip.until}
        return [entry for entry in self.records.queued() if (entry.study, entry.at) not in skipped]

    def _report_idle(self) -> None:
        """Say once that there is nothing to do; a pool's workers leave that to the pool."""
        if not self._idle and not self.request.planned:
            nothing = "nothing that can be trained here is queued" if self._skipped else "nothing is queued"
            self.callbacks.on_message(nothing if self.request.until_idle else f"{nothing}: waiting")
        self._idle = True

    def _skip(self, entry: QueueEntry, reason: str) -> None:
        """Leave a study alone for a while; its data may come. Report each reason once."""
        before = self._skipped.get(entry.study)
        if before is None or (before.queued_at, before.reason) != (entry.at, reason):
            self.callbacks.on_message(f"study {entry.study!r} is skipped here: {reason}")
        self._skipped[entry.study] = _Skipped(entry.at, reason, time.monotonic() + _SKIP_SECONDS)

    def _take_turn(self, entry: QueueEntry) -> bool:
        """Train for a study, if it has a training that no process has begun; return whether it had."""
        goal = self.records.goal(entry.study)
        if goal is None:  # deleted since
            return False
        done, name = trained(self.records, entry.study), entry.study
        try:
            if done < goal.trials:
                working = sum(work.study == name for work in work_in_progress(self.records))
                if done + working >= goal.trials:
                    return False
                self._search(entry)
            elif is_final_due(self.records, name):
                return self._train_final(entry)
            elif not self._ends_all_trials(name):
                return False
            else:
                self.records.end_queued(entry, QueueState.DONE)
                self.callbacks.on_message(f"study {name!r} is done")
        except Cancelled as stop:
            self.callbacks.on_message(stop.reason)
        except LeaseLost:
            self.callbacks.on_message(LOST.format(f"the final of study {name!r}"))
        except SearchFailedError as error:
            self.records.end_queued(entry, QueueState.FAILED, str(error))
            self.callbacks.on_message(f"study {name!r} is not trained further: {error}")
        except (BudgetnasError, OSError) as error:  # e.g. the images are not here, or stored weights are damaged
            if is_transient(error):
                raise
            self._skip(entry, str(error))
        return True

    def _search(self, entry: QueueEntry) -> None:
        opened = self._open(entry)
        study, seconds = opened.study, max(self.records.settings.turn_seconds, _STARTS * opened.seconds)
        turn = Turn(time.monotonic() + seconds, after=self.records.last_run_before(entry.at))
        sampler = sampler_of(study, None)
        task = SearchTask(None, opened.images, self.runtime, sampler, entry.seed, turn=turn)
        search(study, task, self.stopper, _TurnCallbacks(self.callbacks, entry.study))

    def _ends_all_trials(self, study: str) -> bool:
        """Give trials of dead processes the results that they had recorded; return whether no process has a trial."""
        opened = open_study(self.url, self.records, study, study_specification(self.records, study))
        try:
            for text in recover_stale_trials(opened):
                self.callbacks.on_message(f"study {study!r}: {text}")
        finally:
            opened.close_optuna()
        return not slots_in_use(self.records, study)

    def _train_final(self, entry: QueueEntry) -> bool:
        """Train runs of a final that no process trains, or read the test split; return whether there was work."""
        left = runs_left(self.records, entry.study)
        if left.missing and left.missing == left.in_training:
            return False
        lease = take_final(self.records, entry.study)
        if lease is None and not left.missing:
            return False
        self.close()  # the final loads its images itself
        self._idle = False
        turn = Turn(time.monotonic() + self.records.settings.turn_seconds)
        callbacks = _FinalTurnCallbacks(self.callbacks, entry.study, turn.is_over)
        words = FinishRequest(entry.study, _place(self.request, entry)), self.records, self.runtime, self.stopper
        with contextlib.suppress(_TurnOver):
            if lease is None:  # another process has begun the final, and reads the test split
                help_finish(*words, callbacks)
            else:
                with holding(self.records, lease):
                    finish(*words, callbacks)
        return True

    def _open(self, entry: QueueEntry) -> _Opened:
        """Return the study with its images on the device, which it keeps from one turn to the next."""
        if self._opened is not None and self._opened.entry == entry:
            return self._opened
        self.close()
        started = time.monotonic()
        specification = study_specification(self.records, entry.study)
        data, _ = load_study_data(specification, entry.study, _place(self.request, entry))
        images = validation_images(data, self.runtime)
        opened = open_study(self.url, self.records, entry.study, specification)
        self._opened = _Opened(entry, opened, images, time.monotonic() - started)
        self._skipped.pop(entry.study, None)
        self._idle = False
        self.callbacks.on_message(f"study {entry.study!r}: trained here")
        return self._opened

    def _wait_for_database(self) -> None:
        """Wait until the database answers: a service outlives an outage of any length.

        Raises:
            SQLAlchemyError: If it is gone for good.
        """
        self.close()
        self.callbacks.on_message("waiting until the database answers")
        while True:
            self.stopper.check()
            try:
                release_all_of_this_process(self.records)
                return
            except SQLAlchemyError as error:
                if not is_transient(error):
                    raise
                time.sleep(_AWAY_SECONDS)


def fairest_first(records: Records, entries: list[QueueEntry]) -> list[QueueEntry]:
    """Return the studies by their recent work, the least first; a process at work counts as a turn."""
    if not entries:
        return []
    done, working = records.recent_seconds(), Counter(work.study for work in work_in_progress(records))
    turn = records.settings.turn_seconds

    def share(entry: QueueEntry) -> tuple[float, float]:
        return done.get(entry.study, 0.0) + turn * working[entry.study], random.random()

    return sorted(entries, key=share)


def _place(request: WorkerRequest, entry: QueueEntry) -> DataPlace:
    """Return where a study's data are: where the search found them, unless this machine has its own archives."""
    return DataPlace(entry.data, request.data_dir or entry.data_dir)


class _TurnCallbacks(MessageCallbacks):
    """Reports each trial that ends in a line, with its study."""

    def __init__(self, callbacks: MessageCallbacks, study: str) -> None:
        super().__init__(lambda text: callbacks.on_message(f"study {study!r}: {text}"))

    def on_trial_end(self, end: TrialEnd) -> None:
        """Report the trial."""
        result = f"failed: {end.reason}" if end.accuracy is None else f"{end.accuracy:.2%} on validation"
        self.on_message(f"trial {end.number}: {result}; {end.tally.trained} trained")


class _FinalTurnCallbacks(FinalCallbacks):
    """Ends the turn before a training that is not its first, and rather than to wait for another process."""

    def __init__(self, callbacks: MessageCallbacks, study: str, is_over: Callable[[], bool]) -> None:
        self._callbacks, self._study, self._is_over = callbacks, study, is_over
        self._begun = False
        self._next = ""  # what is trained next, until its first step shows that no other process has begun it

    def on_message(self, text: str) -> None:
        """Pass the message on."""
        self._callbacks.on_message(f"study {self._study!r}: {text}")

    def on_final_run(self, training: FinalTraining) -> None:
        """Remember the training.

        Raises:
            _TurnOver: If the turn is over.
        """
        if self._begun and self._is_over():
            raise _TurnOver
        self._next = f"final, {training.done + 1} of {training.total}: {training.name}, seed {training.seed}"

    def on_step(self, epoch: int, done: int, total: int) -> None:
        """Report a training that begins."""
        if self._next:
            self.on_message(self._next)
            self._begun, self._next = True, ""

    def on_elsewhere(self, run: int, *, waiting: bool) -> None:
        """Leave the run to the process that trains it.

        Raises:
            _TurnOver: If there is no other run to train.
        """
        if waiting:
            raise _TurnOver
