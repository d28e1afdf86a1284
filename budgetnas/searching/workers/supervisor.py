"""Run several workers as a single search: show their progress, stop them together, leave no process behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final, Protocol

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from budgetnas.errors import EXIT_INTERRUPTED, Interrupted, SearchFailedError
from budgetnas.runs.interrupts import Stopper
from budgetnas.samplers.attributes import repeat_of
from budgetnas.searching.callbacks import SearchCallbacks, TrialEnd, TrialStart
from budgetnas.searching.study import OpenStudy, recover_stale_trials
from budgetnas.searching.trial import tally
from budgetnas.searching.workers.pools import StudyProgress, WorkerPool
from budgetnas.searching.workers.worker import WorkerRequest
from budgetnas.space.candidates import Candidate
from budgetnas.storage import Records, Role, Run, State
from budgetnas.storage.leases import trained
from budgetnas.training import Callbacks

_REFRESH_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.1
_STOP_SECONDS: Final = 60.0
"""Time for stopped workers to write a checkpoint and requeue their trials, before they are killed."""
_ENDED: Final = frozenset({State.COMPLETE, State.PRUNED, State.FAILED})


def search_together(
    opened: OpenStudy,
    pool: WorkerPool,
    request: WorkerRequest,
    stopper: Stopper,
    callbacks: SearchCallbacks,
) -> bool:
    """Let a pool of workers train until the study has its trials.

    Returns:
        Whether the study has its trials; False if every candidate of the space is already known.

    Raises:
        SearchFailedError: If no worker is left.
        Interrupted: If a stop was requested; the running trials are requeued.
    """
    assert request.trials is not None, "a search has a number of trials"
    study = _WatchedStudy(opened, request.trials, callbacks)
    try:
        run_pool(pool, request, study, stopper, callbacks)
    finally:
        with contextlib.suppress(SQLAlchemyError, StorageInternalError):
            for text in recover_stale_trials(opened):
                callbacks.on_message(text)
    if study.is_done():
        return True
    reason = pool.failure()
    if reason is not None:
        raise SearchFailedError(f"no worker is left: {reason}")
    return False


def run_pool(
    pool: WorkerPool, request: WorkerRequest, watched: Watched, stopper: Stopper, callbacks: Callbacks
) -> None:
    """Start the workers and report their progress until none is left; they never outlive this call."""
    try:
        pool.start(request)
        _follow(pool, watched, callbacks, stopper.check)
    except Interrupted:
        _stop(pool, watched, callbacks)
        raise
    except KeyboardInterrupt:  # a second Ctrl-C, while the first waited for the database
        raise Interrupted(EXIT_INTERRUPTED) from None
    finally:
        pool.kill()


class Watched(StudyProgress, Protocol):
    """What workers train, as far as a supervisor follows it."""

    def refresh(self) -> None:
        """Read what has changed, and call the hooks for it."""


def _follow(pool: WorkerPool, study: Watched, callbacks: Callbacks, check: Callable[[], None]) -> None:
    """Report progress until no worker is left."""
    refreshed = 0.0
    while True:
        check()
        running = pool.is_running()
        for text in pool.poll(study):
            callbacks.on_message(text)
        if not running or time.monotonic() - refreshed >= _REFRESH_SECONDS:
            with contextlib.suppress(SQLAlchemyError):  # the database is away; the next refresh asks again
                study.refresh()
            refreshed = time.monotonic()
        if not running and not pool.is_running():
            return
        time.sleep(_POLL_SECONDS)


def _stop(pool: WorkerPool, study: Watched, callbacks: Callbacks) -> None:
    """Have all workers requeue their trials and exit; at a second Ctrl-C or after a minute they are killed."""
    deadline = time.monotonic() + _STOP_SECONDS

    def check() -> None:
        if time.monotonic() > deadline:
            callbacks.on_message(f"a worker did not stop within {_STOP_SECONDS:.0f} s and is killed")
            raise Interrupted

    try:
        callbacks.on_message("stopping the workers; each saves what it trains")
        pool.stop()
        _follow(pool, study, callbacks, check)
    except KeyboardInterrupt:
        raise Interrupted(EXIT_INTERRUPTED) from None
    except Interrupted:
        return


class WatchedQueue:
    """The queue of a storage; its workers report what they train in messages."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def ended(self) -> int:
        """Return the number of runs that have ended."""
        return self._records.runs_ended()

    def is_done(self) -> bool:
        """Return False: a study can be queued at any time."""
        return False

    def refresh(self) -> None:
        """Do nothing."""


class _WatchedStudy:
    """Polls the storage of a study and calls the hooks for the trials of all workers, on this machine or others.

    A refresh that finds nothing new needs a single query, for the runs that have not ended.
    """

    def __init__(self, opened: OpenStudy, trials: int, callbacks: SearchCallbacks) -> None:
        self._opened, self._trials, self._callbacks = opened, trials, callbacks
        runs = opened.records.search_runs_beyond(opened.name, 0, ())
        self._newest = max((run.id for run in runs), default=0)
        self._open = {run.id: State.INTERRUPTED for run in runs if run.state not in _ENDED}
        self._ended = len(runs) - len(self._open)

    def ended(self) -> int:
        """Return the number of runs that had ended at the last refresh."""
        return self._ended

    def is_done(self) -> bool:
        """Return whether the study has all of its trials."""
        return trained(self._opened.records, self._opened.name) >= self._trials

    def refresh(self) -> None:
        """Read the runs, and call the hooks for those that started or ended since the last refresh."""
        runs = self._opened.records.search_runs_beyond(self._opened.name, self._newest, self._open)
        for run in runs:
            before = self._open.get(run.id)
            if before is not State.RUNNING and run.state is not State.INTERRUPTED:
                self._callbacks.on_trial_start(self._start(run))
            if run.state in _ENDED:
                self._open.pop(run.id, None)
                self._ended += 1
                self._callbacks.on_trial_end(self._end(run))
            else:
                self._open[run.id] = run.state
            self._newest = max(self._newest, run.id)
        self._callbacks.on_workers({run.trial or 0: run.epochs_done for run in runs if run.state is State.RUNNING})

    def _start(self, run: Run) -> TrialStart:
        candidate = Candidate(run.architecture, run.recipe)
        proposals = tally(self._opened)
        return TrialStart(run.trial or 0, run.label, candidate, run.params, proposals, self._repeat_of(run), run.seed)

    def _repeat_of(self, run: Run) -> int | None:
        if run.role is not Role.REPEAT or run.trial is None:
            return None
        return repeat_of(self._opened.storage.get_trial(self._opened.trial_id(run.trial)))

    def _end(self, run: Run) -> TrialEnd:
        trial, proposals = run.trial or 0, tally(self._opened)
        if run.state is State.FAILED:
            return TrialEnd(trial, None, run.reason, proposals)
        last = self._opened.records.curve(run.id)[-1]
        value = self._opened.specification.measure.of(last)
        if run.state is State.PRUNED:
            return TrialEnd(trial, value, run.reason, proposals, last.epoch)
        return TrialEnd(trial, value, "", proposals)
