"""Several workers as one search: one view of them, one way to stop them, and none is left behind."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final, Protocol

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from budgetnas.errors import EXIT_INTERRUPTED, Interrupted, SearchFailedError
from budgetnas.runs.interrupts import Stopper
from budgetnas.search.study import OpenStudy, recover_stale_trials
from budgetnas.search.view import SearchView
from budgetnas.search.workers.watch import Watch
from budgetnas.search.workers.worker import WorkerRequest
from budgetnas.storage.leases import trained
from budgetnas.training import RuntimeConfig

_LOOK_SECONDS: Final = 1.0
_TEND_SECONDS: Final = 0.1
_STOP_SECONDS: Final = 60.0
"""Time in which workers that were told to stop write a checkpoint and put their trials back, before they are killed."""


class WorkerPool(Protocol):
    """Workers, wherever they are.

    Attributes:
        workers: How many.
        shares: How many times as fast as one they are taken to be.
        threads: Threads of each on a CPU; nothing: it is not for the search to say.
        timed: Whether steps timed in this process tell anything about them.
    """

    workers: int
    shares: int
    threads: int | None
    timed: bool

    def describe(self, runtime: RuntimeConfig) -> str:
        """Return who trains, and where, in words."""

    def begin(self, request: WorkerRequest) -> None:
        """Start all."""

    def tend(self, study: Progress) -> tuple[str, ...]:
        """See to them: return what they said, and start again what crashed."""

    def at_work(self) -> bool:
        """Return whether any is left."""

    def stop(self) -> None:
        """Ask all to put their trials back and to end."""

    def kill(self) -> None:
        """End at once whatever is left, and wait for it."""

    def outcome(self) -> str | None:
        """Return why the last of them ended; nothing if one of them ended well."""


class Progress(Protocol):
    """What a pool asks of its study."""

    def ended(self) -> int:
        """Return how many runs have ended."""

    def is_done(self) -> bool:
        """Return whether it has all of its runs."""


class _Study:
    def __init__(self, opened: OpenStudy, trials: int, watch: Watch) -> None:
        self._opened, self._trials, self._watch = opened, trials, watch

    def ended(self) -> int:
        return self._watch.ended

    def is_done(self) -> bool:
        return trained(self._opened.records, self._opened.name) >= self._trials


def search_together(
    opened: OpenStudy,
    pool: WorkerPool,
    request: WorkerRequest,
    stopper: Stopper,
    view: SearchView,
) -> bool:
    """Have a pool train until the study has its runs.

    Args:
        opened: The study.
        pool: Who trains.
        request: What each worker is told.
        stopper: Notes requests to stop.
        view: Whoever shows progress.

    Returns:
        Whether it has them; not so where every candidate of the space is known before.

    Raises:
        SearchFailedError: If no worker is left.
        Interrupted: If a stop was requested; the trials that ran are queued again.
    """
    assert request.trials is not None, "a search says how many"
    watch = Watch(opened, view)
    study = _Study(opened, request.trials, watch)
    try:
        pool.begin(request)
        _follow(pool, study, watch, view, stopper.check)
    except Interrupted:
        _wind_up(pool, study, watch, view)
        raise
    except KeyboardInterrupt:  # a second Ctrl-C, while the first one waited for the database
        raise Interrupted(EXIT_INTERRUPTED) from None
    finally:
        pool.kill()
        with contextlib.suppress(SQLAlchemyError, StorageInternalError):
            for text in recover_stale_trials(opened):
                view.on_message(text)
    if study.is_done():
        return True
    reason = pool.outcome()
    if reason is not None:
        raise SearchFailedError(f"no worker is left: {reason}")
    return False


def _follow(pool: WorkerPool, study: Progress, watch: Watch, view: SearchView, check: Callable[[], None]) -> None:
    """Show what happens until no worker is left."""
    looked_at = 0.0
    while True:
        check()
        left = pool.at_work()
        for text in pool.tend(study):
            view.on_message(text)
        if not left or time.monotonic() - looked_at >= _LOOK_SECONDS:
            with contextlib.suppress(SQLAlchemyError):  # the database is away; the next look asks again
                watch.look()
            looked_at = time.monotonic()
        if not left and not pool.at_work():
            return
        time.sleep(_TEND_SECONDS)


def _wind_up(pool: WorkerPool, study: Progress, watch: Watch, view: SearchView) -> None:
    """Have all workers put their trials back.

    Raises:
        Interrupted: At a second Ctrl-C, and when they take too long; they are killed then.
    """
    deadline = time.monotonic() + _STOP_SECONDS

    def check() -> None:
        if time.monotonic() > deadline:
            view.on_message(f"a worker did not stop within {_STOP_SECONDS:.0f} s and is killed")
            raise Interrupted

    try:
        view.on_message("stopping the workers; each puts its trial back")
        pool.stop()
        _follow(pool, study, watch, view, check)
    except KeyboardInterrupt:
        raise Interrupted(EXIT_INTERRUPTED) from None
    except Interrupted:
        return
