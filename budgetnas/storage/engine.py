"""Database engines set up so that several processes can share a study, and the lock for what must happen once.

SQLite: write-ahead log, and every transaction begun as IMMEDIATE. As it is opened by default, two processes can
both read a queued trial as free before either writes, and run it twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, OperationalError

from budgetnas.errors import BudgetnasError, InputError
from budgetnas.storage.urls import masked, sqlite_file

LOCK_TIMEOUT_SECONDS: Final = 60.0
_ADVISORY_KEY: Final = 0x62756467  # "budg"


def engine_arguments(url: URL) -> dict[str, Any]:
    """Return the keyword arguments of `create_engine` for this storage."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": LOCK_TIMEOUT_SECONDS, "isolation_level": None}}
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10, "options": "-c timezone=UTC"}}


def share(engine: Engine) -> Engine:
    """Make an engine of `engine_arguments` safe for several processes; return it."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin_immediate)
        engine.dispose()
    return engine


def open_engine(url: URL) -> Engine:
    """Return a connected engine.

    Raises:
        InputError: If the database cannot be opened.
    """
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
    cause = str(getattr(error, "orig", None) or error).strip().splitlines()
    reason = cause[0] if cause else type(error).__name__
    return InputError(
        "--storage", masked(url), f"cannot be opened ({reason})", "check the path, its rights or the server"
    )


def storage_failed(error: BaseException) -> str:
    """Return in one line why the database could not be used: its own words, without statement and values."""
    cause = error.__cause__ if error.__cause__ is not None and not hasattr(error, "orig") else error
    told = str(getattr(cause, "orig", None) or cause).strip().splitlines()
    return f"the storage cannot be used any more: {told[0] if told else type(error).__name__}"


@contextmanager
def exclusive(engine: Engine) -> Iterator[None]:
    """Hold the storage's one lock: creating, seeding and taking slots happen under it, one process at a time.

    Raises:
        BudgetnasError: If another process holds it for longer than a minute.
    """
    if engine.dialect.name == "sqlite":
        with _file_lock(engine.url):
            yield
    else:
        with engine.connect() as connection:
            _advisory(connection, "pg_advisory_lock")
            try:
                yield
            finally:
                _advisory(connection, "pg_advisory_unlock")


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


def _advisory(connection: Connection, function: str) -> None:
    try:
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS:.0f}s'"))
        connection.execute(text(f"SELECT {function}(:key)"), {"key": _ADVISORY_KEY})
        connection.commit()
    except OperationalError as error:
        raise BudgetnasError(f"the storage's lock failed: {error.orig}") from None


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
