"""Opening a storage, to read or to write.

Opening to read creates no files, blocks no writer, and works on read-only media.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from budgetnas.errors import BudgetnasError, InputError
from budgetnas.storage import tables
from budgetnas.storage.engine import LOCK_TIMEOUT_SECONDS, cannot_open, exclusive, open_engine
from budgetnas.storage.records import Records
from budgetnas.storage.urls import masked, sqlite_file


def open_records(url: URL, *, must_exist: bool = False) -> Records:
    """Return the records of a storage, with its tables created where they are missing.

    Args:
        url: The storage.
        must_exist: Raise if no search was run with the storage, and then create nothing in it.

    Raises:
        InputError: If it cannot be opened or written, or has tables of another version.
    """
    if must_exist and url.get_backend_name() == "sqlite":
        _require_file(sqlite_file(url))
    require_writable(url)
    engine = open_engine(url)
    with _closed_if_unusable(url, engine):
        if must_exist:
            require_tables(engine)
        with exclusive(engine):
            create_tables(engine)
    return Records(engine)


def open_records_read_only(url: URL) -> Records:
    """Return the records of a storage, read-only: works on read-only media and creates nothing.

    Raises:
        InputError: If it cannot be opened, no search was run with it, or it has tables of another version.
    """
    engine = open_engine_read_only(url)
    with _closed_if_unusable(url, engine):
        require_tables(engine)
    return Records(engine)


@contextmanager
def _closed_if_unusable(url: URL, engine: Engine) -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        engine.dispose()
        raise cannot_open(url, error) from None
    except BudgetnasError:
        engine.dispose()
        raise


def open_engine_read_only(url: URL) -> Engine:
    """Return a connected engine that cannot write.

    Raises:
        InputError: If the database does not exist or cannot be opened.
    """
    if url.get_backend_name() != "sqlite":
        return open_engine(url).execution_options(postgresql_readonly=True)
    file = sqlite_file(url)
    _require_file(file)
    address = _address(url, file)
    engine = create_engine(url, creator=lambda: _connect(address))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT count(*) FROM sqlite_master"))
    except DatabaseError as error:
        raise cannot_open(url, error) from None
    return engine


def create_tables(engine: Engine) -> None:
    """Create our tables where they are missing; call it under the storage's lock.

    Raises:
        InputError: If they exist in another version.
    """
    tables.schema.create(engine, checkfirst=True)
    version = _version(engine)
    tables.metadata.create_all(engine)
    if version is None:
        row = {"version": tables.SCHEMA_VERSION, "storage": uuid.uuid4().hex}
        with engine.begin() as connection:
            connection.execute(insert(tables.schema).values(row))


def require_tables(engine: Engine) -> None:
    """Raise `InputError` unless our tables exist in this version; create nothing."""
    if not inspect(engine).has_table(tables.schema.name) or _version(engine) is None:
        raise InputError(
            "--storage", masked(engine.url), "has no study of budgetnas", "name the storage that a search was run with"
        )


def is_writable(url: URL) -> bool:
    """Return whether the file of a SQLite storage, or the folder for it, can be written."""
    file = sqlite_file(url)
    return os.access(file.parent, os.W_OK | os.X_OK) and (not file.exists() or os.access(file, os.W_OK))


def require_writable(url: URL) -> None:
    """Raise `InputError` if a storage is on a read-only medium."""
    if url.get_backend_name() != "sqlite" or is_writable(url):
        return
    if sqlite_file(url).exists():
        rule = "it, or its folder, cannot be written"
        hint = "copy it to a writable folder; show, studies, report and export read it where it is"
    else:
        rule, hint = "its folder cannot be written", "name a file in another folder"
    raise InputError("--storage", masked(url), rule, hint)


def _version(engine: Engine) -> int | None:
    with engine.connect() as connection:
        version = connection.scalar(select(tables.schema.c.version))
    if version not in (None, tables.SCHEMA_VERSION):
        raise InputError(
            "--storage",
            masked(engine.url),
            f"its tables have version {version}, this program's have {tables.SCHEMA_VERSION}",
            "use the version of budgetnas that created it, or another storage",
        )
    return version


def _require_file(file: Path) -> None:
    if not file.exists():
        hint = "run a search first, or name the storage it was run with"
        raise InputError("--storage", str(file), "there is no such database", hint)


def _address(url: URL, file: Path) -> str:
    if is_writable(url):
        return f"{file.as_uri()}?mode=rw"
    log = file.with_name(f"{file.name}-wal")
    if not (log.exists() and log.stat().st_size):
        # Without a write-ahead log nobody is writing. Any other mode would make SQLite create files next to this one.
        return f"{file.as_uri()}?mode=ro&immutable=1"
    if not file.with_name(f"{file.name}-shm").exists():
        raise InputError(
            "--storage",
            masked(url),
            f"it has a write-ahead log ({log.name}) that was not closed, and it cannot be written",
            "copy both files to a writable folder, and name the copy",
        )
    return f"{file.as_uri()}?mode=ro"


def _connect(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, uri=True, timeout=LOCK_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA query_only=ON")
    return connection
