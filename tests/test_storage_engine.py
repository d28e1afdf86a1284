from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, inspect, select, text, update

from budgetnas.errors import BudgetnasError, InputError
from budgetnas.storage import engine as engines
from budgetnas.storage import tables
from budgetnas.storage.engine import exclusive, open_engine
from budgetnas.storage.opening import create_tables
from budgetnas.storage.urls import parse_storage


@pytest.fixture
def engine(storage_url: str) -> Iterator[Engine]:
    opened = open_engine(parse_storage(storage_url))
    yield opened
    opened.dispose()


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_engine(parse_storage(str(tmp_path / "nas.db")))
    yield opened
    opened.dispose()


def test_sqlite_is_set_up_for_several_processes(sqlite_engine: Engine) -> None:
    with sqlite_engine.connect() as connection:
        found = {
            name: connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 60_000}


def test_a_new_file_can_be_opened_by_several_at_the_same_moment(tmp_path: Path) -> None:
    """Without a repetition SQLite sometimes fails at once in a process, without waiting."""
    together = threading.Barrier(4)

    def open_all(_: int) -> None:
        for number in range(100):
            together.wait(60)
            open_engine(parse_storage(f"sqlite:///{tmp_path / str(number)}.db")).dispose()

    with ThreadPoolExecutor(together.parties) as pool:
        list(pool.map(open_all, range(together.parties)))


def test_a_sqlite_transaction_keeps_other_writers_out_from_its_first_read(sqlite_engine: Engine) -> None:
    other = sqlite3.connect(str(sqlite_engine.url.database), timeout=0, isolation_level=None)
    with sqlite_engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_sqlite_transaction_is_undone_by_an_error(sqlite_engine: Engine) -> None:
    with sqlite_engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (name TEXT)"))
    with pytest.raises(RuntimeError, match="stop"), sqlite_engine.begin() as connection:
        connection.execute(text("INSERT INTO things VALUES ('thing')"))
        raise RuntimeError("stop")
    with sqlite_engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM things")) == 0


def test_postgresql_speaks_utc_whatever_the_server_does(postgres_database: str) -> None:
    engine = open_engine(parse_storage(postgres_database))
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW timezone")) == "UTC"
    engine.dispose()


def test_tables_are_created_once_and_left_alone_after(engine: Engine) -> None:
    create_tables(engine)
    create_tables(engine)
    assert set(tables.metadata.tables) <= set(inspect(engine).get_table_names())
    with engine.connect() as connection:
        assert list(connection.scalars(select(tables.schema.c.version))) == [tables.SCHEMA_VERSION]


@pytest.mark.parametrize("version", [0, 3, tables.SCHEMA_VERSION + 1])
def test_tables_of_another_version_are_refused_and_not_touched(engine: Engine, version: int) -> None:
    create_tables(engine)
    with engine.begin() as connection:
        connection.execute(update(tables.schema).values(version=version))
    tables.leases.drop(engine)
    with pytest.raises(InputError, match=f"--storage .*: its tables have version {version}, this program's have"):
        create_tables(engine)
    assert "leases" not in inspect(engine).get_table_names()


def test_an_interrupted_creation_is_completed(engine: Engine) -> None:
    tables.schema.create(engine)
    create_tables(engine)
    assert set(tables.metadata.tables) <= set(inspect(engine).get_table_names())
    with engine.connect() as connection:
        assert connection.scalar(select(tables.schema.c.version)) == tables.SCHEMA_VERSION


def test_waiting_too_long_for_the_lock_is_an_error(
    engine: Engine, storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "LOCK_TIMEOUT_SECONDS", 1.0)
    other = open_engine(parse_storage(storage_url))
    problems: list[BudgetnasError] = []

    def wait() -> None:
        try:
            with exclusive(other):
                pass
        except BudgetnasError as error:
            problems.append(error)

    with exclusive(engine):
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join()
    other.dispose()
    assert len(problems) == 1
    assert re.fullmatch("another process has locked .* for over 1 s", str(problems[0]))


def test_the_lock_is_released_when_its_process_fails(engine: Engine, storage_url: str) -> None:
    with pytest.raises(RuntimeError, match="stop"), exclusive(engine):
        raise RuntimeError("stop")
    other = open_engine(parse_storage(storage_url))
    with exclusive(other):
        pass
    other.dispose()


def test_the_lock_does_not_keep_a_transaction_open(postgres_database: str) -> None:
    """A transaction left open for minutes would keep PostgreSQL from cleaning up behind every other."""
    engine = open_engine(parse_storage(postgres_database))
    ended: list[str] = []
    event.listen(engine, "commit", lambda connection: ended.append("commit"))
    with exclusive(engine):
        assert ended == ["commit"]
    engine.dispose()
