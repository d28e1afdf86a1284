"""Opening a storage: to look at it, or to write.

To look at it, nothing is created, no writer is kept waiting, and a read-only medium will do.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from budgetnas.errors import BudgetnasError, InputError
from budgetnas.storage.engine import LOCK_TIMEOUT_SECONDS, cannot_open, exclusive, open_engine
from budgetnas.storage.records import Records, create_tables, require_tables
from budgetnas.storage.urls import masked, sqlite_file


def open_to_read(url: URL) -> Engine:
    """Return a connected engine that cannot write.

    Raises:
        InputError: If there is no such database, or it cannot be opened.
    """
    if url.get_backend_name() != "sqlite":
        return open_engine(url).execution_options(postgresql_readonly=True)
    file = sqlite_file(url)
    if not file.exists():
        rule = "there is no such database"
        raise InputError("--storage", str(file), rule, "run a search first, or name the storage it was run with")
    address = _address(url, file)
    engine = create_engine(url, creator=lambda: _connected(address))
    event.listen(engine, "begin", _begin)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT count(*) FROM sqlite_master"))
    except DatabaseError as error:
        raise cannot_open(url, error) from None
    return engine


def is_writable(url: URL) -> bool:
    """Return whether the file of a SQLite storage, or the folder it would be made in, can be written."""
    file = sqlite_file(url)
    return os.access(file.parent, os.W_OK | os.X_OK) and (not file.exists() or os.access(file, os.W_OK))


def require_writable(url: URL) -> None:
    """Check that a storage is not on a medium that can only be read.

    Raises:
        InputError: If it is.
    """
    if url.get_backend_name() == "sqlite" and not is_writable(url):
        there = sqlite_file(url).exists()
        hint = "copy it to where it can be written; show, studies, report and export read it where it is"
        raise InputError(
            "--storage",
            masked(url),
            "it, or its folder, cannot be written" if there else "its folder cannot be written",
            hint if there else "name a file in another folder",
        )


def look_at_records(url: URL) -> Records:
    """Return the records of a storage to read only: nothing is created in it, and it need not be writable.

    Raises:
        InputError: If it cannot be opened, no search was run with it, or it has other tables than this version's.
    """
    engine = open_to_read(url)
    try:
        require_tables(engine)
    except DatabaseError as error:
        raise cannot_open(url, error) from None
    return Records(engine)


def open_records(url: URL, *, must_exist: bool = False) -> Records:
    """Return the records of a storage, its tables created if need be.

    Args:
        url: The storage.
        must_exist: Refuse a storage that no search was run with, and create nothing in it.

    Raises:
        InputError: If it cannot be opened or written, or has other tables than this version's.
    """
    if must_exist and url.get_backend_name() == "sqlite" and not (file := sqlite_file(url)).exists():
        rule = "there is no such database"
        raise InputError("--storage", str(file), rule, "run a search first, or name the storage it was run with")
    require_writable(url)
    engine = open_engine(url)
    try:
        if must_exist:
            require_tables(engine)
        else:
            with exclusive(engine):
                create_tables(engine)
    except DatabaseError as error:
        engine.dispose()
        raise cannot_open(url, error) from None
    except BudgetnasError:
        engine.dispose()
        raise
    return Records(engine)


def _address(url: URL, file: Path) -> str:
    if is_writable(url):
        return f"{file.as_uri()}?mode=rw"
    log = file.with_name(f"{file.name}-wal")
    if not (log.exists() and log.stat().st_size):
        # Without the write-ahead log nobody is writing; SQLite would have to create its index beside the file.
        return f"{file.as_uri()}?mode=ro&immutable=1"
    if not file.with_name(f"{file.name}-shm").exists():
        raise InputError(
            "--storage",
            masked(url),
            f"it has a write-ahead log ({log.name}) that was not closed, and it cannot be written",
            "copy both files to a folder that can be written, and name the copy",
        )
    return f"{file.as_uri()}?mode=ro"


def _connected(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, uri=True, timeout=LOCK_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA query_only=ON")
    return connection


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")
