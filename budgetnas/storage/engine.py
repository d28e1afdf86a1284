"""Database engines set up so that several processes can share a study, and the lock for what must happen once.

SQLite: write-ahead log, and every transaction begun as IMMEDIATE. As it is opened by default, two processes can
both read a queued trial as free before either writes, and run it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, OperationalError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from budgetnas.errors import BudgetnasError, InputError
from budgetnas.storage.retry import LockLostError, is_busy, is_passing, patience_seconds, reason_of
from budgetnas.storage.urls import masked, sqlite_file

LOCK_TIMEOUT_SECONDS: Final = 60.0
_ADVISORY_KEY: Final = 0x62756467  # "budg"
_LOCK_NOT_AVAILABLE: Final = "55P03"
_SILENCE: Final = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_SESSION: Final = {"timezone": "UTC"} | {f"tcp_{name}": value for name, value in _SILENCE.items() if "_" in name}
R = TypeVar("R")


def engine_arguments(url: URL) -> dict[str, Any]:
    """Return the keyword arguments of `create_engine` for this storage.

    Both ends of a connection to PostgreSQL ask after a minute of silence whether the other is still there: ours, so
    that a machine that was switched off is noticed; the server's, so that it takes back the lock from one that was.
    """
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": LOCK_TIMEOUT_SECONDS, "isolation_level": None}}
    options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    limits = {"connect_timeout": 10, "tcp_user_timeout": 60_000}
    return {"pool_pre_ping": True, "connect_args": _SILENCE | limits | {"options": options}}


def share(engine: Engine) -> Engine:
    """Make an engine of `engine_arguments` safe for several processes; return it."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin_immediate)
        engine.dispose()
    return engine


def open_engine(url: URL) -> Engine:
    """Return a connected engine.

    It waits for nothing: at its start a program that cannot reach its database says so. Patience begins after that.

    Raises:
        InputError: If the database cannot be opened.
    """
    patience_seconds()
    try:
        engine = share(create_engine(url, **engine_arguments(url)))
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except ImportError:
        raise InputError(
            "--storage", masked(url), "needs the psycopg package", "pip install 'budgetnas[postgresql]'"
        ) from None
    except DatabaseError as error:
        raise cannot_open(url, error) from None
    return engine


def cannot_open(url: URL, error: Exception) -> InputError:
    """Return the error that says why a database does not open."""
    return InputError(
        "--storage", masked(url), f"cannot be opened ({reason_of(error)})", "check the path, its rights or the server"
    )


def storage_failed(error: BaseException) -> str:
    """Return in one line why the database could not be used: its own words, without statement and values."""
    return f"the storage cannot be used any more: {reason_of(error)}"


@contextmanager
def exclusive(engine: Engine) -> Iterator[None]:
    """Hold the storage's one lock: creating, seeding and taking slots happen under it, one process at a time.

    PostgreSQL gives the lock back as soon as the connection that holds it breaks, and another process may take it while
    this one goes on. That is noticed at the end and passes, so that a patient caller does all of it again, reading
    included; hold the lock within `budgetnas.storage.retry.patient` only.

    Raises:
        BudgetnasError: If another process holds it for longer than a minute.
        LockLostError: If it was lost on the way.
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
                connection.invalidate()  # gives the lock back, and cannot hide the error by one of its own
                raise
            _unlock(connection)


@contextmanager
def _file_lock(url: URL) -> Iterator[None]:
    path = f"{sqlite_file(url)}.lock"
    try:
        with FileLock(path, timeout=LOCK_TIMEOUT_SECONDS):
            yield
    except Timeout:
        raise BudgetnasError(f"{path} is held by another process for over {LOCK_TIMEOUT_SECONDS:.0f} s") from None
    except OSError as error:
        raise InputError("--storage", masked(url), f"its folder cannot be written ({error.strerror})") from None


def _lock(connection: Connection) -> None:
    try:
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS:.0f}s'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_KEY})
        connection.commit()
    except OperationalError as error:
        if is_passing(error):
            raise
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            waited = f"for over {LOCK_TIMEOUT_SECONDS:.0f} s"
            raise BudgetnasError(f"the storage's lock is held by another process {waited}") from None
        raise BudgetnasError(f"the storage's lock failed: {reason_of(error)}") from None


def _unlock(connection: Connection) -> None:
    held = connection.scalar(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_KEY})
    connection.commit()
    if not held:
        raise LockLostError("the storage's lock was lost while it was held")


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        _not_at_once_busy(cursor.execute)(f"PRAGMA {pragma}")
    cursor.close()


def _not_at_once_busy(execute: Callable[[str], R]) -> Callable[[str], R]:
    """Return `execute`, repeated while SQLite is busy.

    Where two processes give a new file its write-ahead log at the same moment, each would have to wait for the other,
    and SQLite refuses one of them without waiting for the time that was set.
    """
    return Retrying(
        retry=retry_if_exception(is_busy),
        wait=wait_random(0.005, 0.05),
        stop=stop_after_delay(LOCK_TIMEOUT_SECONDS),
        reraise=True,
    ).wraps(execute)


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
