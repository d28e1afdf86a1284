"""The file of a SQLite database that is in use: still there, still the same, and not older than before.

SQLite keeps writing to a file that was removed or overwritten, so a search would end well and leave nothing on disk, or
a mixture. Every transaction that writes increments ``user_version``, a number in the header of the file that SQLite
leaves to programs. A copy of an earlier time has a lower number.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

_CHANGES: Final = "budgetnas_changes"


class SameFile:
    """Notices that the file was removed, replaced, or overwritten by an older copy."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._written: tuple[int, int] | None = None  # its size and modification time, when its header was read last
        self._in_file = 0  # the count in the file without its write-ahead log, when it was read last
        self._counted = 0  # the count of the last transaction but one: the last may not have been committed
        self._lock = threading.Lock()

    def note(self, *_: object) -> None:
        """Note which file it is, once it exists."""
        with self._lock:
            if self._identity is None:
                self._identity, self._written = self._found()
                self._in_file = _count_without_log(self._path) or 0

    def check(self, *_: object) -> None:
        """Check that it is still the noted file, and no older than before.

        Raises:
            OperationalError: If it is not: the same error as for any other database that is gone for good.
        """
        if self._identity is None:
            return
        identity, written = self._found()
        if identity != self._identity:
            happened = "replaced by another file" if self._path.exists() else "removed"
            raise self._error(f"{happened} while it was in use; what was written since is lost; restore the file")
        with self._lock:
            if written != self._written:  # by a checkpoint of SQLite, or by another program
                in_file = _count_without_log(self._path)
                if in_file is None:
                    return
                if in_file < self._in_file:
                    raise self._overwritten()
                self._in_file, self._written = in_file, written

    def begun(self, connection: Connection) -> None:
        """Note how many rows the connection had changed when a transaction began."""
        connection.info[_CHANGES] = _driver(connection).total_changes

    def count(self, connection: Connection) -> None:
        """Count a transaction that wrote, just before it is committed.

        Raises:
            OperationalError: If the database is older than before.
        """
        driver = _driver(connection)
        if driver.total_changes == connection.info.get(_CHANGES):
            return
        counted = int(driver.execute("PRAGMA user_version").fetchone()[0])
        if counted < self._counted:
            raise self._overwritten()
        driver.execute(f"PRAGMA user_version = {counted + 1}")
        self._counted = counted  # no other thread is here: SQLite has a single writer

    def _found(self) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        try:
            stat = self._path.stat()
        except OSError:
            return None, None
        return (stat.st_dev, stat.st_ino), (stat.st_size, stat.st_mtime_ns)

    def _overwritten(self) -> OperationalError:
        log = f"{self._path.name}-wal and {self._path.name}-shm"
        return self._error(
            f"overwritten by an older copy while it was in use; what was written since is lost; end every program that "
            f"uses it, delete {log}, and copy it again"
        )

    def _error(self, happened: str) -> OperationalError:
        reason = f"{self._path} was {happened}"
        return OperationalError(reason, None, sqlite3.OperationalError(reason))


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _count_without_log(path: Path) -> int | None:
    """Return the count in the file itself: 0 if it is no database, None if it cannot be read now.

    In the middle of a checkpoint the header may count pages that the file does not have yet, so that it is malformed.

    SQLite reads it: if this process opened and closed the file, it would lose SQLite's locks on it.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.OperationalError:  # e.g. too many open files; the connection in use reports a lasting fault
        return None
    except sqlite3.DatabaseError as error:
        return 0 if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB else None
