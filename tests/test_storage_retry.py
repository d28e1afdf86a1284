from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Engine, create_engine, event, func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from budgetnas.architecture import named
from budgetnas.errors import InputError
from budgetnas.metrics import Epoch
from budgetnas.searching.rdb import SharedStorage
from budgetnas.searching.study import optuna_storage
from budgetnas.space.recipe import Recipe
from budgetnas.space.specification import ChoiceProtocol
from budgetnas.storage import Records, Rejection, Role, RunKey, State, tables
from budgetnas.storage.engine import exclusive, open_engine
from budgetnas.storage.finals import Finalist, FinalPlan, TestResult
from budgetnas.storage.leases import take_slot
from budgetnas.storage.opening import create_tables
from budgetnas.storage.retry import LockLostError, current_call, is_transient, retried
from budgetnas.storage.urls import parse_storage

V2 = named("v2")
RECIPE = Recipe(optimizer="sgd", learning_rate=0.1, epochs=1, t_max=1)
KEY = RunKey(V2.digest, RECIPE.digest, "data", 0, Role.SEARCH)
EPOCH = Epoch(1, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0)
RESULT = TestResult(1, 0.5, 0.25, (5, 0))
PLAN = FinalPlan(protocol=ChoiceProtocol(), finalists=(Finalist(run=1, score=0.5, accuracy=0.5),))


@pytest.fixture
def records(postgres_database: str) -> Iterator[Records]:
    engine = open_engine(parse_storage(postgres_database))
    with exclusive(engine):
        create_tables(engine)
    yield Records(engine)
    engine.dispose()


@pytest.fixture
def storage(postgres_database: str) -> Iterator[SharedStorage]:
    storage = optuna_storage(parse_storage(postgres_database))
    assert isinstance(storage, SharedStorage)
    yield storage
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def lost_answers(engine: Engine, *lost: int) -> Iterator[None]:
    """Break the connection right after the server has committed, at these commits, counted from 0."""
    commit, commits = engine.dialect.do_commit, iter(range(100))

    def commit_and_break(connection: Any) -> None:
        commit(connection)
        if next(commits) in lost:
            break_off(connection)

    engine.dialect.do_commit = commit_and_break  # type: ignore[method-assign]
    try:
        yield
    finally:
        del engine.dialect.do_commit
    assert next(commits) > max(lost), "no answer was lost"


def break_off(connection: Any) -> None:
    """Close a connection below SQLAlchemy, and raise what the driver raises for a closed connection."""
    connection.dbapi_connection.close()
    connection.dbapi_connection.execute("SELECT 1")


def rows_of(records: Records, table: Any) -> int:
    with records.engine.connect() as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)


def begin(records: Records) -> int:
    return records.start_run(
        key=KEY, architecture=V2, recipe=RECIPE, data="", environment="", study="s", trial=0, label=""
    )


def test_a_run_is_begun_once(records: Records) -> None:
    with lost_answers(records.engine, 0):
        run = begin(records)
    assert [record.id for record in records.runs()] == [run]


def test_an_epoch_and_its_test_evaluation_are_recorded_once(records: Records) -> None:
    run = begin(records)
    with lost_answers(records.engine, 0, 1):
        records.add_epoch(run, EPOCH, test_reason="a replay")
    assert records.curve(run) == (EPOCH,)
    assert records.test_readings(run) == 1


def test_a_later_test_evaluation_of_the_same_epoch_is_recorded_again(records: Records) -> None:
    run = begin(records)
    records.add_epoch(run, EPOCH, test_reason="a replay")
    records.restart_run(run, "")
    with lost_answers(records.engine, 0):
        records.add_epoch(run, EPOCH, test_reason="a replay")
    assert records.test_readings(run) == 2


def test_proposals_are_rejected_once(records: Records) -> None:
    rejection = Rejection(V2, "sampler", 1, 2)
    records.reject("s", [rejection])
    with lost_answers(records.engine, 0):
        records.reject("s", [rejection, rejection])
    assert records.rejection_counts("s") == (3, 0)


def test_a_specification_is_saved_once(records: Records) -> None:
    with lost_answers(records.engine, 0):
        records.save_specification("s", "{}", "0")
    assert records.study_names() == ("s",)


def test_a_slot_is_taken_once(records: Records) -> None:
    with lost_answers(records.engine, 1):  # the first commit is the lock's
        assert take_slot(records, "s", 2) is not None
    assert rows_of(records, tables.leases) == 1


def test_a_repeated_interruption_leaves_the_successor_alone(records: Records) -> None:
    left = begin(records)
    successor: list[int] = []

    @retried
    def interrupt() -> None:
        if current_call().repeated and not successor:
            successor.append(0)  # another process takes the trial before the answer is asked for again
            other = threading.Thread(target=lambda: successor.append(begin(records)))
            other.start()
            other.join()
        records.interrupt_runs_of("s", 0)

    with lost_answers(records.engine, 0):
        interrupt()
    assert records.run(left).state is State.INTERRUPTED
    assert records.run(successor[-1]).state is State.RUNNING


def test_a_final_starts_once_and_reads_the_test_split_once(records: Records) -> None:
    run = begin(records)
    with lost_answers(records.engine, 1):
        final = records.start_final("s", PLAN, 0.0)
    assert len(records.finals("s")) == 1
    with lost_answers(records.engine, 0):
        assert records.record_reading(final, {run: RESULT}, 10, "a final")
    assert not records.record_reading(final, {run: RESULT}, 10, "a final"), "this is another reading"
    assert records.test_results(final.id) == {run: RESULT}
    assert records.test_readings(run) == 1


def new_trial(storage: SharedStorage) -> int:
    return storage.create_new_trial(storage.create_new_study([StudyDirection.MAXIMIZE]))


def test_a_trial_ends_once(storage: SharedStorage) -> None:
    trial = new_trial(storage)
    with lost_answers(storage.engine, 0):
        assert storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.5])
    assert (storage.get_trial(trial).state, storage.get_trial(trial).values) == (TrialState.COMPLETE, [0.5])
    for state, values in ((TrialState.COMPLETE, [0.5]), (TrialState.FAIL, None)):
        with pytest.raises(UpdateFinishedTrialError):
            storage.set_trial_state_values(trial, state, values)


def test_a_trial_that_another_process_took_is_not_queued_again(
    storage: SharedStorage, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, other = new_trial(storage), optuna_storage(parse_storage(postgres_database))
    commit = storage.engine.dialect.do_commit
    commits = iter(range(100))

    def commit_and_lose_it(connection: Any) -> None:
        commit(connection)
        if next(commits) == 1:  # the first ends the read before
            assert other.set_trial_state_values(trial, TrialState.RUNNING)
            break_off(connection)

    monkeypatch.setattr(storage.engine.dialect, "do_commit", commit_and_lose_it)
    assert not storage.set_trial_state_values(trial, TrialState.WAITING)
    assert storage.get_trial(trial).state is TrialState.RUNNING
    other.remove_session()
    other.engine.dispose()


def test_values_of_a_trial_are_set_once(storage: SharedStorage) -> None:
    trial = new_trial(storage)
    with lost_answers(storage.engine, 0, 2):
        storage.set_trial_intermediate_value(trial, 1, 0.5)
        storage.set_trial_user_attr(trial, "a", 1)
    assert storage.get_trial(trial).intermediate_values == {1: 0.5}
    assert storage.get_trial(trial).user_attrs == {"a": 1}


def test_optuna_raises_the_database_s_error(storage: SharedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGETNAS_PATIENCE", "0")
    trial = new_trial(storage)
    with pytest.raises(OperationalError, match="closed"), lost_answers(storage.engine, 0):
        storage.set_trial_user_attr(trial, "a", 1)


def kill(url: str, engine_of_another: Engine) -> None:
    """End all connections of an engine to the database, as a restart of the server would."""
    with engine_of_another.connect() as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))


def test_work_under_a_lost_lock_is_repeated(records: Records, postgres_database: str) -> None:
    other = create_engine(postgres_database, poolclass=NullPool)
    tries = []

    def under_the_lock() -> int:
        with exclusive(records.engine):
            tries.append(current_call().repeated)
            if len(tries) == 1:
                kill(postgres_database, other)
        return len(tries)

    with pytest.raises(OperationalError) as lost:
        under_the_lock()
    assert is_transient(lost.value)
    tries.clear()
    assert retried(under_the_lock)() == 2
    assert tries == [False, True]
    with exclusive(records.engine):
        pass


def test_a_lock_that_is_lost_at_the_end_is_noticed(records: Records) -> None:
    taken: list[Any] = []
    event.listen(records.engine, "checkout", lambda connection, *_: taken.append(connection))
    with pytest.raises(LockLostError), exclusive(records.engine):
        (holder,) = taken
        holder.execute("SELECT pg_advisory_unlock_all()")
        holder.commit()


def test_waiting_for_the_lock_continues_after_an_outage(records: Records, postgres_database: str) -> None:
    first = open_engine(parse_storage(postgres_database))
    other = create_engine(postgres_database, poolclass=NullPool)
    entered = threading.Event()

    @retried
    def enter() -> None:
        with exclusive(records.engine):
            entered.set()

    waiting = threading.Thread(target=enter)
    with exclusive(first):
        waiting.start()
        with other.connect() as connection:
            while not connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                time.sleep(0.05)
            others = "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE NOT granted"
            connection.execute(text(others))
        time.sleep(0.5)
        assert not entered.is_set()
    waiting.join(30)
    assert entered.is_set()
    first.dispose()


def failure(run: Callable[[], object]) -> DBAPIError:
    with pytest.raises(DBAPIError) as caught:
        run()
    return caught.value


def connecting(url: str) -> DBAPIError:
    return failure(create_engine(url, poolclass=NullPool).connect)


def test_errors_of_connecting(postgres_server: Any) -> None:
    url = parse_storage(postgres_server.url)
    for changed in (url.set(database="nowhere"), url.set(username="nobody")):
        assert not is_transient(connecting(changed.render_as_string(hide_password=False)))
    assert is_transient(connecting("postgresql+psycopg://me:secret@127.0.0.1:1/nas"))
    assert is_transient(connecting("postgresql+psycopg://me:secret@no-such-host.invalid/nas"))
    failed = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: FATAL:  '
    for words, passes in (
        ("the database system is starting up", True),
        ("the database system is shutting down", True),
        ("das Datenbanksystem startet", True),
        ('password authentication failed for user "me"', False),
        ('no pg_hba.conf entry for host "10.0.0.2", user "me", database "nas", no encryption', False),
    ):
        error = OperationalError("", {}, psycopg.OperationalError(f"{failed}{words}"))
        assert is_transient(error) is passes, words


@pytest.mark.parametrize(
    ("state", "passes"),
    [
        ("40001", True),
        ("40P01", True),
        ("53300", True),
        ("57P03", True),
        ("08006", True),
        ("53100", False),
        ("25006", False),
        ("23505", False),
        ("55P03", False),
        ("28P01", False),
    ],
)
def test_errors_of_the_server(records: Records, state: str, passes: bool) -> None:
    def fail() -> None:
        with records.engine.connect() as connection:
            connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = '{state}'; END $$")

    assert is_transient(failure(fail)) is passes


def test_a_locked_sqlite_file_passes_and_a_read_only_one_does_not(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("CREATE TABLE things (name TEXT)")
    holder.execute("BEGIN EXCLUSIVE")
    for query, passes in (("timeout=0", True), ("mode=ro&uri=true", False)):
        engine = create_engine(f"sqlite:///file:{file}?{query}&uri=true", poolclass=NullPool)

        def write(engine: Engine = engine) -> None:
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO things VALUES ('thing')"))

        assert is_transient(failure(write)) is passes, query
        holder.rollback()
    holder.close()


def test_errors_caused_by_an_outage_are_not_transient_themselves() -> None:
    try:
        try:
            raise OperationalError("", {}, psycopg.OperationalError("Connection refused"))
        except SQLAlchemyError:
            raise InputError("--storage", None, "cannot be opened") from None
    except InputError as error:
        assert not is_transient(error)


def test_all_threads_log_an_outage_once_and_wait_for_it_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BUDGETNAS_PATIENCE", "1s")
    engine = create_engine("postgresql+psycopg://me:secret@127.0.0.1:1/nas", poolclass=NullPool)
    ask, failed = retried(engine.connect), []

    def try_it() -> None:
        failed.append(failure(ask))

    threads = [threading.Thread(target=try_it) for _ in range(4)]
    with caplog.at_level(logging.WARNING, "budgetnas"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(failed) == 4
        began = time.monotonic()
        try_it()
        assert time.monotonic() - began < 0.5, "nobody waits again in the same outage"
        retried(lambda: None)()
    assert len(caplog.messages) == 2, caplog.messages
    assert caplog.messages[0].startswith("the database cannot be reached (connection failed: connection to server at ")
    assert caplog.messages[0].endswith("); waiting for up to 1 s")
    assert caplog.messages[1].startswith("the database is back after ")
    assert "secret" not in caplog.text


def test_only_the_outermost_call_repeats(records: Records) -> None:
    seen: list[tuple[float, str]] = []

    @retried
    def inner() -> None:
        seen.append((current_call().asked_at, current_call().token))
        if len(seen) < 3:
            raise OperationalError("", {}, psycopg.OperationalError("Connection refused"))

    outer_runs: list[int] = []

    @retried
    def outer() -> None:
        outer_runs.append(0)
        inner()

    outer()
    assert len(outer_runs) == 3
    assert len(set(seen)) == 1, "time and name stay what they were"


@pytest.mark.parametrize("written", ["soon", "-1", "5 days"])
def test_a_retry_time_that_is_invalid_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("BUDGETNAS_PATIENCE", written)
    with pytest.raises(InputError, match=r"BUDGETNAS_PATIENCE.*must be a time"):
        open_engine(parse_storage(str(tmp_path / "a.db")))
