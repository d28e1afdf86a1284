"""Checks of the storage: place, kind, tables."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.engine import URL

from budgetnas.cli.checks.check import Check
from budgetnas.errors import InputError
from budgetnas.storage import Records, tables
from budgetnas.storage.mounts import caveat_of, file_system_of
from budgetnas.storage.opening import is_writable, open_engine_read_only, require_tables
from budgetnas.storage.urls import check_place, masked, sqlite_file

MAX_CLOCK_SECONDS: Final = 5.0


def storage(url: URL, opened: list[Records]) -> Iterator[Check]:
    """Check a storage, and append its records to `opened` if a search was run with it."""
    if url.get_backend_name() == "sqlite":
        yield from _sqlite_place(url)
        if not sqlite_file(url).is_file():
            return
    engine = open_engine_read_only(url)
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
        detail = f"{file}, or its folder, cannot be written: show, studies, report and export work, a search does not"
        yield Check("storage", "warning", detail, "copy it to a writable folder, or change the rights")
    else:
        yield Check("storage", "problem", f"folder {file.parent} cannot be written", "name a file in another folder")
    yield file_system_check(file_system_of(file))


def file_system_check(kind: str) -> Check:
    """Return whether SQLite is safe on a file system of that kind."""
    caveat = caveat_of(kind)
    if caveat is not None:
        return Check("file system", "warning", caveat.detail, caveat.hint)
    return Check("file system", "ok", f"{kind or 'unknown'}, on this machine")


def _database(engine: Engine) -> Iterator[Check]:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            yield _journal(connection)
            return
        version = connection.scalar(text("SHOW server_version"))
        yield Check("storage", "ok", f"{masked(engine.url)}: PostgreSQL {version}")
        before = time.time()
        theirs = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)
        yield clock_check(theirs - (before + time.time()) / 2)


def _journal(connection: Connection) -> Check:
    import sqlite3

    mode = str(connection.scalar(text("PRAGMA journal_mode")))
    detail = f"SQLite {sqlite3.sqlite_version}, journal {mode}"
    if not is_writable(connection.engine.url):
        return Check("database", "ok", f"SQLite {sqlite3.sqlite_version}, opened read-only")
    return Check(
        "database", "ok", detail if mode == "wal" else f"{detail}; the next search turns on the write-ahead log"
    )


def clock_check(seconds: float) -> Check:
    """Return whether the clocks of database and machine agree; the database's is `seconds` ahead."""
    if abs(seconds) <= MAX_CLOCK_SECONDS:
        return Check("clock", "ok", f"the database's is {abs(seconds):.1f} s from this machine's")
    detail = f"the database's is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
    hint = "set both by a time server (NTP): the difference falsifies the times of runs"
    return Check("clock", "warning", detail, hint)


def our_schema(engine: Engine) -> tuple[Check, bool]:
    """Return the check of our tables, and whether they exist in a version that can be read."""
    if not inspect(engine).has_table(tables.schema.name):
        return Check("tables", "ok", "no tables of budgetnas yet; the first search creates them"), False
    try:
        require_tables(engine)
    except InputError as error:
        return Check("tables", "problem", error.rule, error.hint), False
    return Check("tables", "ok", f"version {tables.SCHEMA_VERSION}, this program's"), True


def optuna_schema(engine: Engine) -> Check:
    """Return whether Optuna's tables have the version of the installed Optuna."""
    from optuna import __version__ as installed
    from optuna.storages import RDBStorage

    name = "optuna's tables"
    if not inspect(engine).has_table("alembic_version"):
        return Check(name, "ok", "none yet; the first search creates them")
    with engine.connect() as connection:
        existing = connection.scalar(text("SELECT version_num FROM alembic_version"))
    sample = RDBStorage("sqlite://")  # in memory, to find out which version Optuna would create
    try:
        wanted, known = sample.get_head_version(), sample.get_all_versions()
    finally:
        sample.remove_session()
        sample.engine.dispose()
    if existing == wanted:
        return Check(name, "ok", f"version {existing}, that of optuna {installed}")
    detail = f"version {existing}, but optuna {installed} has {wanted}"
    if existing in known:
        return Check(name, "problem", detail, "make a copy, then: optuna storage upgrade --storage URL")
    return Check(name, "problem", detail, "a newer Optuna made them: pip install --upgrade optuna")
