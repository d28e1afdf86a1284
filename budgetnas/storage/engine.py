"""Database engines that several processes can share, and the storage's lock.

SQLite uses a write-ahead log and begins every transaction as IMMEDIATE. With SQLite's default (DEFERRED), two processes
could both read a queued trial as free before either writes, and train it twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random

from budgetnas.errors import BudgetnasError, InputError
from budgetnas.storage.retry import LockLostError, is_busy, is_transient, reason_of, retry_seconds
from budgetnas.storage.same_file import SameFile
from budgetnas.storage.urls import masked, sqlite_file

LOCK_TIMEOUT_SECONDS: Final = 60.0
_ADVISORY_KEY: Final = 0x62756467  # "budg"
_LOCK_NOT_AVAILABLE: Final = "55P03"
_KEEPALIVES: Final = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_SESSION: Final = {"timezone": "UTC"} | {f"tcp_{name}": value for name, value in _KEEPALIVES.items() if "_" in name}

_logger = logging.getLogger("budgetnas.storage")
R = TypeVar("R")


def engine_arguments(url: URL) -> dict[str, Any]:
    """Return the keyword arguments of `create_engine` for this storage.

    For PostgreSQL, both ends send TCP keepalives and drop a dead connection after about a minute. So the client notices
    a lost server, and the server releases the lock of a lost client.
    """
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": LOCK_TIMEOUT_SECONDS, "isolation_level": None}}
    options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    limits = {"connect_timeout": 10, "tcp_user_timeout": 60_000}
    return {"pool_pre_ping": True, "connect_args": _KEEPALIVES | limits | {"options": options}}


def share(engine: Engine) -> Engine:
    """Make an engine of `engine_arguments` safe for several processes; return it."""
    if engine.dialect.name == "sqlite":
        file = SameFile(sqlite_file(engine.url))
        event.listen(engine, "do_connect", file.check)
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "connect", file.note)
        event.listen(engine, "begin", file.check)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        event.listen(engine, "begin", file.begun)
        event.listen(engine, "commit", file.count)
        engine.dispose()
    return engine


def open_engine(url: URL) -> Engine:
    """Return a connected engine, without retries: at the start of a program, an unreachable database is an error.

    Raises:
        InputError: If the database cannot be opened.
    """
    seconds = retry_seconds()
    try:
        if url.get_backend_name() == "sqlite":
            _wait_until_unlocked(url, seconds)
        engine = share(create_engine(url, **engine_arguments(url)))
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except ImportError:
        hint = "pip install 'budgetnas[postgresql]'"
        raise InputError("--storage", masked(url), "needs the psycopg package", hint) from None
    except DatabaseError as error:
        raise cannot_open(url, error) from None
    return engine


def _wait_until_unlocked(url: URL, seconds: float) -> None:
    """Wait until no other program has the file of a SQLite database locked, and log that.

    Raises:
        InputError: If it is locked for longer than `seconds`.
    """
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": 1.0, "isolation_level": None})
    file = sqlite_file(url)

    def lock() -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql("ROLLBACK")

    def note(state: RetryCallState) -> None:
        if state.attempt_number == 1:
            _logger.warning("another program has locked %s; waiting for up to %.0f s", file, seconds)

    try:
        if file.is_file():
            waiting = Retrying(
                retry=retry_if_exception(is_transient),
                wait=wait_random(0.1, 0.3),
                stop=stop_after_delay(seconds),
                before_sleep=note,
                reraise=True,
            )
            waiting(lock)
    except OperationalError as error:
        if not is_transient(error):
            raise
        rule = f"another program has locked it for over {seconds:.0f} s"
        raise InputError("--storage", masked(url), rule, "close that program, or use another file") from None


def cannot_open(url: URL, error: Exception) -> InputError:
    """Return the error for a database that cannot be opened."""
    return InputError(
        "--storage", masked(url), f"cannot be opened ({reason_of(error)})", "check the path, its rights or the server"
    )


def storage_failed(error: BaseException) -> str:
    """Return a line that says why the database can no longer be used."""
    return f"the storage cannot be used any more: {reason_of(error)}"


@contextmanager
def exclusive(engine: Engine) -> Iterator[None]:
    """Take the storage's lock for the block: only one process at a time creates tables, claims runs or takes slots.

    PostgreSQL releases the lock when its connection breaks, so another process may take it while this block still runs.
    The end of the block detects this and raises `LockLostError`. So take the lock only within
    `budgetnas.storage.retry.retried`, which then repeats the whole block, including its reads.

    Raises:
        BudgetnasError: If another process keeps the lock for longer than a minute.
        LockLostError: If the lock was lost during the block.
        OperationalError: If the connection broke.
    """
    if engine.dialect.name == "sqlite":
        with _file_lock(engine.url):
            yield
    else:
        with engine.connect() as connection:
            _lock(connection)
            try:
                yield
            except BaseException:
                connection.invalidate()  # releases the lock, and cannot raise an error that hides this one
                raise
            _unlock(connection)


@contextmanager
def _file_lock(url: URL) -> Iterator[None]:
    path = f"{sqlite_file(url)}.lock"
    try:
        with FileLock(path, timeout=LOCK_TIMEOUT_SECONDS):
            yield
    except Timeout:
        waited = f"{LOCK_TIMEOUT_SECONDS:.0f} s"
        raise BudgetnasError(f"another process has locked {path} for over {waited}") from None
    except OSError as error:
        rule = f"its lock file {path} cannot be written ({error.strerror})"
        raise InputError("--storage", masked(url), rule, "check the rights of that file and of its folder") from None


def _lock(connection: Connection) -> None:
    try:
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS:.0f}s'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_KEY})
        connection.commit()
    except OperationalError as error:
        if is_transient(error):
            raise
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            waited = f"{LOCK_TIMEOUT_SECONDS:.0f} s"
            raise BudgetnasError(f"another process has locked the storage for over {waited}") from None
        raise BudgetnasError(f"the storage's lock failed: {reason_of(error)}") from None


def _unlock(connection: Connection) -> None:
    unlocked = connection.scalar(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_KEY})
    connection.commit()
    if not unlocked:
        raise LockLostError("the storage's lock was lost while in use")


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        _while_busy(cursor.execute)(f"PRAGMA {pragma}")
    cursor.close()


def _while_busy(execute: Callable[[str], R]) -> Callable[[str], R]:
    """Return `execute`, repeated while SQLite is busy.

    SQLite's own timeout is not enough: when two processes switch a new file to a write-ahead log at the same moment,
    waiting would be a deadlock, so SQLite fails at once in one of them.
    """
    return Retrying(
        retry=retry_if_exception(is_busy),
        wait=wait_random(0.005, 0.05),
        stop=stop_after_delay(LOCK_TIMEOUT_SECONDS),
        reraise=True,
    ).wraps(execute)
