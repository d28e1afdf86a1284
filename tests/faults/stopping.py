"""Stopping a process as a terminal's Ctrl-Z does, at a moment when it holds no lock of the database."""

from __future__ import annotations

import signal
import time

from filelock import FileLock, Timeout
from processes import Command
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError

from budgetnas.storage.urls import parse_storage, sqlite_file

_TRIES = 200
_OTHERS_AT_WORK = """
SELECT (SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle')
     + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')
"""


def stop(command: Command, url: str) -> None:
    """Send SIGSTOP; where that hits the process within a transaction, let it go on and try again.

    A process that stands still within a transaction holds up everybody until it goes on, whatever the database: a
    database cannot know that it will not. Nothing else may be at work in the storage.
    """
    for _ in range(_TRIES):
        command.send(signal.SIGSTOP)
        time.sleep(0.1)  # until what it had begun in a server is done
        if _is_free(url):
            return
        command.send(signal.SIGCONT)
        time.sleep(0.05)
    raise AssertionError("the process holds a lock whenever it is stopped")


def _is_free(url: str) -> bool:
    if not url.startswith("sqlite"):
        engine = create_engine(url)
        with engine.connect() as connection:
            free = connection.scalar(text(_OTHERS_AT_WORK)) == 0
        engine.dispose()
        return free
    try:
        with FileLock(f"{sqlite_file(parse_storage(url))}.lock", timeout=0):
            return _can_write(create_engine(url, connect_args={"timeout": 0, "isolation_level": None}))
    except Timeout:
        return False


def _can_write(engine: Engine) -> bool:
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql("ROLLBACK")
        return True
    except OperationalError:
        return False
    finally:
        engine.dispose()
