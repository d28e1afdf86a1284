"""Patience with a database: what passes by itself is waited for, and the work is done again.

A transaction that a lost connection cut off is not in the database, or it is there and only the answer to its COMMIT
was lost. Whoever repeats cannot know which. So what is repeated must be the same the second time: it takes its times
and names from `current_call`, which stay what they were, and looks for its own traces where that is not enough.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError, SQLAlchemyError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from budgetnas.errors import BudgetnasError, InputError

PATIENCE_SECONDS: Final = 120.0
"""How long an outage is waited for."""
PATIENCE_VARIABLE: Final = "BUDGETNAS_PATIENCE"
_WAITS: Final = wait_exponential(multiplier=0.1, max=2) + wait_random(0, 0.2)
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_CONFLICTS: Final = ("40001", "40P01")  # serialization failure, deadlock: told to nobody, the next try has the answer
_PASSING: Final = ("08", "53300", "57P01", "57P02", "57P03", *_CONFLICTS)
_REFUSALS: Final = ("password", "authentication", "does not exist", "pg_hba.conf", "permission", "certificate")
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_logger = logging.getLogger("budgetnas.storage")
P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


class LockLostError(BudgetnasError):
    """The storage's lock was gone before its holder gave it back: what was done under it has to be done again."""


@dataclass(frozen=True, slots=True)
class Call:
    """A patient call, the same for all of its repetitions.

    Attributes:
        asked_at: When it was first tried, seconds since 1970 UTC: the time for a row to have.
        token: A random name for what it makes.
        repeated: Whether an earlier try failed, whose work may be in the database nevertheless.
    """

    asked_at: float = field(default_factory=time.time)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    repeated: bool = False


_call: ContextVar[Call | None] = ContextVar("_call", default=None)


def current_call() -> Call:
    """Return the patient call that is under way, or a new one."""
    return _call.get() or Call()


def patience_seconds() -> float:
    """Return how long an outage is waited for.

    Raises:
        InputError: If the environment names a time that is none.
    """
    written = os.environ.get(PATIENCE_VARIABLE)
    if not written:
        return PATIENCE_SECONDS
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", written.strip())
    if parts is None:
        raise InputError(PATIENCE_VARIABLE, written, "must be a time", "write e.g. 90s, 15m or 0 not to wait at all")
    return float(parts[1]) * _UNITS[parts[2]]


def is_passing(error: BaseException) -> bool:
    """Return whether an error of the database passes by itself.

    A server that restarts, a connection that broke, a deadlock, a locked SQLite file do; a full disk, a wrong
    password, a database that is not there do not. PostgreSQL gives no code where connecting fails, and words its
    reasons in the server's language: what is not known for a refusal passes.
    """
    if isinstance(error, BudgetnasError):
        return isinstance(error, LockLostError)
    cause = database_error(error)
    if not isinstance(cause, DBAPIError):
        return False
    if isinstance(cause.orig, sqlite3.Error):
        return is_busy(cause.orig)
    state = getattr(cause.orig, "sqlstate", None)
    if state is not None and not cause.connection_invalidated:
        return str(state).startswith(_PASSING)
    refused = any(words in str(cause.orig) for words in _REFUSALS)
    return cause.connection_invalidated or (isinstance(cause, OperationalError) and not refused)


def is_busy(error: BaseException) -> bool:
    """Return whether SQLite itself says that somebody else has the file or a table locked."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def database_error(error: BaseException) -> SQLAlchemyError | None:
    """Return the error of the database behind another, or nothing."""
    for one in _chain(error):
        if isinstance(one, SQLAlchemyError) and not isinstance(one, PendingRollbackError):
            return one
    return None


def reason_of(error: BaseException) -> str:
    """Return in one line what the database said, without statement, values and password."""
    cause = database_error(error) or error
    told = str(getattr(cause, "orig", None) or cause).strip().splitlines()
    return told[0].strip() if told else type(cause).__name__


def patient(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function`, repeated while the database is away, for `patience_seconds` from the start of an outage.

    Whatever is patient within it is not: the outermost call repeats, so that what is read under a lock is read again
    where the lock is taken again.
    """

    @functools.wraps(function)
    def repeated(*arguments: P.args, **named: P.kwargs) -> R:
        if _call.get() is not None:
            return function(*arguments, **named)
        calls = _calls()
        retrying = Retrying(
            retry=retry_if_exception(is_passing),
            wait=_WAITS,
            stop=lambda state: _outage.is_over_patience(state, patience_seconds()),
            before_sleep=_outage.note,
            reraise=True,
        )

        def once() -> R:
            before = _call.set(next(calls))
            try:
                return function(*arguments, **named)
            finally:
                _call.reset(before)

        try:
            result = retrying(once)
        except KeyboardInterrupt:
            _outage.abandon()
            raise
        _outage.end()
        return result

    return repeated


def patient_methods(*, but: tuple[str, ...] = ()) -> Callable[[C], C]:
    """Return a decorator that makes the public methods of a class patient, except those named."""

    def decorated(one: C) -> C:
        for name, value in list(vars(one).items()):
            if callable(value) and not name.startswith("_") and name not in but:
                setattr(one, name, patient(value))
        return one

    return decorated


def _calls() -> Iterator[Call]:
    first = Call()
    yield first
    while True:
        yield Call(first.asked_at, first.token, repeated=True)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


class _Outage:
    """The outage that this process is in, told once however many threads wait for its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None
        self._abandoned = False

    def note(self, state: RetryCallState) -> None:
        """Begin it, unless it has begun."""
        error = state.outcome.exception() if state.outcome is not None else None
        if error is None or isinstance(error, LockLostError) or _sqlstate(error) in _CONFLICTS:
            return
        with self._lock:
            if self._since is not None:
                return
            self._since = time.monotonic()
        waiting = "the database cannot be reached (%s); waiting for up to %.0f s"
        _logger.warning(waiting, reason_of(error), patience_seconds())

    def end(self) -> None:
        """Note that the database answers."""
        if self._since is None:
            return
        with self._lock:
            since, self._since, self._abandoned = self._since, None, False
        if since is not None:
            _logger.warning("the database is back after %.0f s", time.monotonic() - since)

    def abandon(self) -> None:
        """Wait no longer: somebody asked for the end twice."""
        self._abandoned = self._since is not None

    def is_over_patience(self, state: RetryCallState, seconds: float) -> bool:
        """Return whether the call, or the outage it came into, has lasted long enough."""
        since = self._since
        lasted = 0.0 if since is None else time.monotonic() - since
        return self._abandoned or max(lasted, state.seconds_since_start or 0.0) >= seconds


_outage = _Outage()


def _sqlstate(error: BaseException) -> Any:
    return getattr(getattr(database_error(error), "orig", None), "sqlstate", None)
