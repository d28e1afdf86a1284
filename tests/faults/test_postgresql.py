"""What a search does while its PostgreSQL is away: real processes, a real server that is really stopped."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import PostgresServer
from forked import Forked
from optuna.trial import TrialState
from small import run, start, study_file
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from budgetnas.errors import InputError
from budgetnas.searching.study import optuna_storage
from budgetnas.storage import State
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage

pytestmark = pytest.mark.slow

AWAY_SECONDS = 20.0
SECRET = "geheim"


@pytest.fixture
def storage(postgres_server: PostgresServer, postgres_database: str) -> Iterator[str]:
    """URL of a fresh database, with a password; whatever the test does to the server, it runs again after."""
    yield make_url(postgres_database).set(password=SECRET).render_as_string(hide_password=False)
    postgres_server.start()


def wait_for(epochs: int, storage: str, processes: list[Forked]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for process in processes:
            assert process.poll() is None, process.communicate()
        try:
            with closing(open_records(parse_storage(storage), must_exist=True)) as records:
                if sum(one.epochs_done for one in records.runs()) >= epochs:
                    return
        except InputError:
            pass  # the tables are not there yet
        time.sleep(0.2)
    raise AssertionError("too few epochs were recorded")


def check_complete(storage: str, trials: int, epochs: int) -> None:
    """Check that each trial was trained once, and each of its epochs recorded once."""
    url = parse_storage(storage)
    with closing(open_records(url)) as records:
        runs = [one for one in records.runs(study="t") if one.state is not State.INTERRUPTED]
        assert [one.state for one in runs] == [State.COMPLETE] * trials
        assert len({one.trial for one in runs}) == trials
        assert len({(one.architecture.digest, one.recipe.digest) for one in runs}) == trials
        for one in runs:
            assert [epoch.epoch for epoch in records.curve(one.id)] == list(range(1, epochs + 1))
        with records.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM leases")) == 0
            columns = "study, trial, origin, architecture, at"
            doubled = f"SELECT {columns} FROM rejections GROUP BY {columns} HAVING count(*) > 1"
            assert connection.execute(text(doubled)).all() == []
    optuna = optuna_storage(url)
    study = optuna.get_study_id_from_name("t")
    states = [trial.state for trial in optuna.get_all_trials(study)]
    optuna.remove_session()
    optuna.engine.dispose()
    assert states.count(TrialState.COMPLETE) == trials
    assert set(states) <= {TrialState.COMPLETE, TrialState.WAITING}


@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_a_search_survives_a_postgresql_outage(
    tmp_path: Path, postgres_server: PostgresServer, storage: str, mode: str
) -> None:
    path = study_file(tmp_path, epochs="60", trials="6")
    arguments = ("search", path, "--study", "t", "--storage", storage)
    processes = [start(tmp_path, *arguments) for _ in range(2)]
    wait_for(30, storage, processes)
    postgres_server.stop(mode)
    time.sleep(AWAY_SECONDS)
    assert [process.poll() for process in processes] == [None, None]
    postgres_server.start()
    for process in processes:
        _, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
        assert err.count("note: the database cannot be reached (") == 1, err
        assert err.count("); waiting for up to 120 s") == 1
        told = re.search(r"note: the database is back after (\d+) s", err)
        assert told is not None, err
        assert AWAY_SECONDS - 2 <= int(told[1]) <= AWAY_SECONDS + 10
        assert re.search(r"failed \d", err) is None, err
        assert "Traceback" not in err
        assert SECRET not in err
    check_complete(storage, 6, 60)


def test_a_search_ends_after_a_long_outage_and_resumes_when_the_server_is_back(
    tmp_path: Path, postgres_server: PostgresServer, storage: str
) -> None:
    path = study_file(tmp_path, epochs="60", trials="2")
    arguments = ("search", path, "--study", "t", "--storage", storage)
    process = start(tmp_path, *arguments, BUDGETNAS_PATIENCE="5s")
    wait_for(5, storage, [process])
    postgres_server.stop("immediate")
    stopped = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - stopped < 20, "it waits once, not once for each thing it has left to write"
    assert process.returncode == 1, err
    assert err.count("cannot be used any more") == 1, err
    assert "waiting for up to 5 s" in err
    assert "Resume with:" in err
    for unwanted in ("Traceback", "invalid data", SECRET):
        assert unwanted not in out + err
    refused = run(tmp_path, *arguments)
    assert refused.returncode == 2, "at its start a program does not wait"
    assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    assert SECRET not in refused.stderr
    postgres_server.start()
    resumed = run(tmp_path, *arguments)
    assert resumed.returncode == 0, resumed.stderr
    check_complete(storage, 2, 60)


def test_ctrl_c_twice_ends_the_waiting(tmp_path: Path, postgres_server: PostgresServer, storage: str) -> None:
    process = start(tmp_path, "search", study_file(tmp_path, epochs="4000"), "--study", "t", "--storage", storage)
    wait_for(1, storage, [process])
    postgres_server.stop("fast")
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=15)
    assert process.returncode == 1, err
    assert err.count("cannot be used any more") == 1, err
    assert "Traceback" not in err


def test_writers_in_different_time_zones_agree(tmp_path: Path, storage: str) -> None:
    """Neither what a process has for local time nor what the database has may make another one look dead."""
    engine = create_engine(storage)
    with engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {engine.url.database} SET timezone TO 'Asia/Kolkata'"))
    engine.dispose()
    path = study_file(tmp_path, epochs="20", trials="4")
    began = time.time()
    arguments = ("search", path, "--study", "t", "--storage", storage)
    processes = [start(tmp_path, *arguments, TZ=zone) for zone in ("Asia/Tokyo", "America/Los_Angeles")]
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert "lost its process" not in err
    ended = time.time()
    check_complete(storage, 4, 20)
    with closing(open_records(parse_storage(storage))) as records:
        runs = records.runs(study="t")
        with records.engine.connect() as connection:
            created = connection.scalar(text("SELECT created_at FROM specifications"))
    assert {one.state for one in runs} == {State.COMPLETE}, "no live trial was taken for dead and begun again"
    for one in runs:
        assert one.ended_at is not None
        assert began <= created <= one.started_at <= one.ended_at <= ended
