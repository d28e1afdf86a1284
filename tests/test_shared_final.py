"""A final whose runs several processes train."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from small import run, start, study_file

from budgetnas.experiments.final_results import FinalResult, final_result
from budgetnas.storage import Role, Run, State
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage

OPTIONS = ("--finalists", "2", "--final-seeds", "2", "--final-epochs", "60")


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    result = run(tmp_path, "search", study_file(tmp_path, study='"s"'))
    assert result.returncode == 0, result.stderr
    return tmp_path


def final_runs(folder: Path) -> tuple[list[Run], FinalResult | None]:
    with closing(open_records(parse_storage(f"sqlite:///{folder / 'budgetnas.db'}"), must_exist=True)) as records:
        return list(records.runs(study="s", role=Role.FINAL)), final_result(records, "s")


def processes(folder: Path) -> list[int]:
    """The process of every attempt at a run of the final."""
    with closing(sqlite3.connect(folder / "budgetnas.db")) as connection:
        query = "select a.pid from attempts a join runs r on r.id = a.run where r.role = 'final'"
        return [pid for (pid,) in connection.execute(query)]


def wait_until(happens: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.02)


def check(folder: Path) -> None:
    """Every run was trained once, and the test split was read once."""
    runs, result = final_runs(folder)
    assert {run.state for run in runs} == {State.COMPLETE}
    assert max(Counter((run.candidate.key, run.seed) for run in runs).values()) == 1
    assert result is not None and result.readings == 1 and result.winner is not None
    assert all(len(entrant.validation) == 2 for entrant in result.entrants)
    assert all(len(entrant.test) == 2 for entrant in result.entrants if entrant.is_winner or entrant.is_reference)


@pytest.mark.slow
def test_two_calls_of_finish_share_its_runs(searched: Path) -> None:
    first = start(searched, "finish", "s", *OPTIONS)
    wait_until(lambda: any(run.state is State.RUNNING for run in final_runs(searched)[0]))
    second = run(searched, "finish", "s", *OPTIONS)
    out, err = first.communicate(timeout=120)
    assert first.wait() == 0, err
    assert second.returncode == 0, second.stderr
    assert "another process is training run" in second.stderr
    check(searched)
    assert len(set(processes(searched))) == 2
    table = [text[text.index("entrant") :] if "entrant" in text else text for text in (out, second.stdout)]
    assert table[0] == table[1]


@pytest.mark.slow
def test_workers_train_a_final_and_their_parent_reads_the_test_split(searched: Path) -> None:
    result = run(searched, "finish", "s", *OPTIONS, "--workers", "2")
    assert result.returncode == 0, result.stderr
    assert "2 workers train its runs" in result.stderr and "trained for 60 epochs" in result.stderr
    assert "another process" not in result.stderr
    check(searched)
    assert len(set(processes(searched))) == 2
    again = run(searched, "finish", "s", "--workers", "2")
    assert again.stdout == result.stdout


@pytest.mark.slow
def test_a_search_with_workers_ends_with_a_final_that_they_train(tmp_path: Path) -> None:
    result = run(tmp_path, "search", study_file(tmp_path, study='"s"'), *OPTIONS, "--workers", "2")
    assert result.returncode == 0, result.stderr
    check(tmp_path)
    assert len(set(processes(tmp_path))) == 2


@pytest.mark.slow
def test_the_workers_of_a_queue_share_a_final(tmp_path: Path) -> None:
    result = run(tmp_path, "search", study_file(tmp_path, study='"s"'), *OPTIONS, "--queue")
    assert result.returncode == 0, result.stderr
    result = run(tmp_path, "worker", "--all", "--until-idle", "--workers", "2")
    assert result.returncode == 0, result.stderr
    check(tmp_path)
    assert len(set(processes(tmp_path))) == 2


@pytest.mark.slow
def test_a_final_whose_workers_are_stopped_or_killed_resumes(searched: Path) -> None:
    def running() -> bool:
        return sum(run.state is State.RUNNING for run in final_runs(searched)[0]) == 2

    stopped = start(searched, "finish", "s", *OPTIONS, "--workers", "2")
    wait_until(running)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=120)
    assert stopped.wait() == 130, err
    assert State.RUNNING not in {run.state for run in final_runs(searched)[0]}
    killed = start(searched, "finish", "s", "--workers", "2")
    wait_until(running)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=120)
    result = run(searched, "finish", "s", "--workers", "2")
    assert result.returncode == 0, result.stderr
    check(searched)
