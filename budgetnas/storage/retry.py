"""Retries: database work is repeated after transient errors, such as a server restart.

If the connection breaks during COMMIT, the client cannot know whether the transaction was committed. So repeated work
must write the same rows again: it takes times and names from `current_call`, which are the same for all repetitions.
"""

from __future__ import annotations

import functools
import logging
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

from budgetnas.errors import BudgetnasError
from budgetnas.storage.settings import seconds_of

RETRY_SECONDS: Final = 120.0
RETRY_VARIABLE: Final = "BUDGETNAS_PATIENCE"
_WAITS: Final = wait_exponential(multiplier=0.1, max=2) + wait_random(0, 0.2)
_CONFLICTS: Final = ("40001", "40P01")  # serialization failure, deadlock: not reported, because the next try succeeds
_PASSING: Final = ("08", "53300", "57P01", "57P02", "57P03", *_CONFLICTS)
_REFUSALS: Final = ("password", "authentication", "does not exist", "pg_hba.conf", "permission", "certificate")
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_logger = logging.getLogger("budgetnas.storage")
P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)


class LockLostError(BudgetnasError):
    """The storage's lock was lost while in use, so the work under it must be repeated."""


@dataclass(frozen=True, slots=True)
class Call:
    """A retried call."""

    # Time of the first try, seconds since 1970 UTC: the time that its rows get.
    asked_at: float = field(default_factory=time.time)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)  # random name for the rows that it creates
    repeated: bool = False  # whether an earlier try failed; its work may still have been committed


_call: ContextVar[Call | None] = ContextVar("_call", default=None)


def current_call() -> Call:
    """Return the retried call that is running, or a new call."""
    return _call.get() or Call()


def retry_seconds() -> float:
    """Return for how long work is repeated during an outage.

    Raises:
        InputError: If the environment has an invalid time.
    """
    return seconds_of(RETRY_VARIABLE, RETRY_SECONDS)


def is_transient(error: BaseException) -> bool:
    """Return whether a database error may be transient.

    A restarting server, a broken connection, a deadlock or a locked SQLite file may be transient; a full disk, a wrong
    password or a missing database is not. When connecting fails, PostgreSQL gives no error code, only a message in the
    server's language. Such an error counts as transient unless its message is a known refusal.
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
    """Return whether SQLite reports that another connection has locked the file or a table."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY


def database_error(error: BaseException) -> SQLAlchemyError | None:
    """Return the database error behind another error, or None."""
    for cause in _chain(error):
        if isinstance(cause, SQLAlchemyError) and not isinstance(cause, PendingRollbackError):
            return cause
    return None


def reason_of(error: BaseException) -> str:
    """Return the first line of the database's own message, without statement, values and password."""
    cause = database_error(error) or error
    lines = str(getattr(cause, "orig", None) or cause).strip().splitlines()
    return lines[0].strip() if lines else type(cause).__name__


def retried(function: Callable[P, R]) -> Callable[P, R]:
    """Return `function`, repeated while the database cannot be reached, for `retry_seconds` from the outage's start.

    Of nested retried calls, only the outermost is repeated: after a lost lock is taken again, the data under it must
    also be read again.
    """

    @functools.wraps(function)
    def repeated(*arguments: P.args, **named: P.kwargs) -> R:
        if _call.get() is not None:
            return function(*arguments, **named)
        calls = _calls()
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=_WAITS,
            stop=lambda state: _outage.has_lasted(state, retry_seconds()),
            before_sleep=_outage.note,
            reraise=True,
        )

        def attempt() -> R:
            before = _call.set(next(calls))
            try:
                return function(*arguments, **named)
            finally:
                _call.reset(before)

        try:
            result = retrying(attempt)
        except KeyboardInterrupt:
            _outage.abandon()
            raise
        _outage.end()
        return result

    return repeated


def retried_methods(decorated: C) -> C:
    """Return the class with retries around the public methods that it defines itself."""
    for name, value in list(vars(decorated).items()):
        if callable(value) and not name.startswith("_"):
            setattr(decorated, name, retried(value))
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
    """The current outage of this process, logged once for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None
        self._abandoned = False

    def note(self, state: RetryCallState) -> None:
        """Start the outage, unless it has started, and log it."""
        error = state.outcome.exception() if state.outcome is not None else None
        if error is None or isinstance(error, LockLostError) or _sqlstate(error) in _CONFLICTS:
            return
        with self._lock:
            if self._since is not None:
                return
            self._since = time.monotonic()
        waiting = "the database cannot be reached (%s); waiting for up to %.0f s"
        _logger.warning(waiting, reason_of(error), retry_seconds())

    def end(self) -> None:
        """End the outage, because the database answered."""
        if self._since is None:
            return
        with self._lock:
            since, self._since, self._abandoned = self._since, None, False
        if since is not None:
            _logger.warning("the database is back after %.0f s", time.monotonic() - since)

    def abandon(self) -> None:
        """Stop waiting, after a second request to stop."""
        self._abandoned = self._since is not None

    def has_lasted(self, state: RetryCallState, seconds: float) -> bool:
        """Return whether the call, or the outage that it is part of, has lasted `seconds`."""
        since = self._since
        lasted = 0.0 if since is None else time.monotonic() - since
        return self._abandoned or max(lasted, state.seconds_since_start or 0.0) >= seconds


_outage = _Outage()


def _sqlstate(error: BaseException) -> Any:
    return getattr(getattr(database_error(error), "orig", None), "sqlstate", None)
