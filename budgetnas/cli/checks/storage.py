"""The storage: where it lies, what kind it is, whose tables it has."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.engine import URL

from budgetnas.cli.checks.check import Check
from budgetnas.errors import InputError
from budgetnas.storage import Records, tables
from budgetnas.storage.opening import is_writable, open_to_read
from budgetnas.storage.records import require_tables
from budgetnas.storage.urls import check_place, masked, sqlite_file

MOST_CLOCK_SECONDS: Final = 5.0
_NETWORK: Final = re.compile(
    r"nfs\d?|cifs|smb\w*|afs|ceph|9p|lustre|beegfs|gpfs|glusterfs|fuse\.(sshfs|gluster|ceph)\w*"
)


def storage(url: URL, opened: list[Records]) -> Iterator[Check]:
    """Look at a storage; add its records to `opened` if a search was run with it.

    Args:
        url: Its URL.
        opened: Empty.
    """
    if url.get_backend_name() == "sqlite":
        yield from _sqlite_place(url)
        if not sqlite_file(url).is_file():
            return
    engine = open_to_read(url)
    try:
        yield from _database(engine)
        ours, usable = our_schema(engine)
        yield ours
        yield optuna_schema(engine)
        if usable:
            opened.append(Records(engine))
    finally:
        if not opened:
            engine.dispose()


def _sqlite_place(url: URL) -> Iterator[Check]:
    file = sqlite_file(url)
    check_place(url)
    if is_writable(url):
        yield Check("storage", "ok", f"{file}" if file.exists() else f"{file} is made by the first search")
    elif file.exists():
        told = f"{file}, or its folder, cannot be written: show, studies, report and export work, a search does not"
        yield Check("storage", "warning", told, "copy it to where it can be written, or change the rights")
    else:
        yield Check("storage", "problem", f"folder {file.parent} cannot be written", "name a file in another folder")
    yield file_system_check(file_system_of(file.parent))


def file_system_of(folder: Path) -> str:
    """Return the kind of file system that a folder lies on, as the operating system names it."""
    place = folder.resolve()
    mounts = [one for one in psutil.disk_partitions(all=True) if place.is_relative_to(one.mountpoint)]
    # Of two on the same folder the later one is seen.
    return max(enumerate(mounts), key=lambda one: (len(one[1].mountpoint), one[0]))[1].fstype if mounts else ""


def file_system_check(kind: str) -> Check:
    """Return whether SQLite is safe for several processes on a file system of that kind."""
    if _NETWORK.fullmatch(kind):
        told = f"{kind} is a network's: SQLite's locks and log do not hold between machines"
        way_out = "search from one machine only, or use PostgreSQL: --storage postgresql+psycopg://USER@HOST/DATABASE"
        return Check("file system", "warning", told, way_out)
    return Check("file system", "ok", f"{kind or 'unknown'}, of this machine")


def _database(engine: Engine) -> Iterator[Check]:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            yield _journal(connection)
            return
        version = connection.scalar(text("SHOW server_version"))
        yield Check("storage", "ok", f"{masked(engine.url)}: PostgreSQL {version}")
        before = time.time()
        there = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)
        yield clock_check(there - (before + time.time()) / 2)


def _journal(connection: Connection) -> Check:
    import sqlite3

    mode = str(connection.scalar(text("PRAGMA journal_mode")))
    told = f"SQLite {sqlite3.sqlite_version}, journal {mode}"
    if not is_writable(connection.engine.url):
        return Check("database", "ok", f"SQLite {sqlite3.sqlite_version}, opened to be read only")
    return Check("database", "ok", told if mode == "wal" else f"{told}; the next search turns on the write-ahead log")


def clock_check(seconds: float) -> Check:
    """Return whether the database's clock is near enough to this machine's; `seconds` is how far it is ahead."""
    if abs(seconds) <= MOST_CLOCK_SECONDS:
        return Check("clock", "ok", f"the database's is {abs(seconds):.1f} s from this machine's")
    told = f"the database's is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
    way_out = "set both by a time server (NTP): what is dead or alive is judged by them"
    return Check("clock", "warning", told, way_out)


def our_schema(engine: Engine) -> tuple[Check, bool]:
    """Return whether our tables are those of this version, and whether there are any that can be read."""
    if not inspect(engine).has_table(tables.schema.name):
        return Check("tables", "ok", "none of budgetnas yet: the first search makes them"), False
    try:
        require_tables(engine)
    except InputError as error:
        return Check("tables", "problem", error.rule, error.hint), False
    return Check("tables", "ok", f"version {tables.SCHEMA_VERSION}, this program's"), True


def optuna_schema(engine: Engine) -> Check:
    """Return whether Optuna's tables are those of the Optuna that is installed."""
    from optuna import __version__ as installed
    from optuna.storages import RDBStorage

    name = "optuna's tables"
    if not inspect(engine).has_table("alembic_version"):
        return Check(name, "ok", "none yet: the first search makes them")
    with engine.connect() as connection:
        there = connection.scalar(text("SELECT version_num FROM alembic_version"))
    sample = RDBStorage("sqlite://")  # in memory: a place to ask which version Optuna would make
    try:
        wanted, known = sample.get_head_version(), sample.get_all_versions()
    finally:
        sample.remove_session()
        sample.engine.dispose()
    if there == wanted:
        return Check(name, "ok", f"version {there}, that of optuna {installed}")
    told = f"version {there}, but optuna {installed} has {wanted}"
    if there in known:
        return Check(name, "problem", told, "make a copy, then: optuna storage upgrade --storage URL")
    return Check(name, "problem", told, "they are a newer Optuna's, or nobody's: pip install --upgrade optuna")
