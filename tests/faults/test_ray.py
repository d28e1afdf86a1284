"""A search on a Ray cluster that loses a node: two real nodes on this machine, and a real PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState
from small import environment, run, run_fresh, start, study_file
from test_workers import at_work, states, until

from budgetnas.report.standing import standings
from budgetnas.storage import State
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage

pytestmark = pytest.mark.slow


@contextmanager
def two_nodes() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a cluster; yield its address and its process."""
    cluster = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("ray_cluster.py"))],
        env=environment(RAY_enable_open_telemetry="0"),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert cluster.stdin is not None and cluster.stdout is not None
    try:
        line = cluster.stdout.readline()
        assert line, "the cluster did not start"
        yield line.split()[0], cluster
    finally:
        started = psutil.Process(cluster.pid).children(recursive=True)
        cluster.stdin.close()
        try:
            cluster.wait(60)
        except subprocess.TimeoutExpired:
            cluster.kill()
            cluster.wait()
        cluster.stdout.close()
        for one in started:
            if one.is_running():
                one.kill()


def test_a_study_is_complete_although_a_node_is_lost(postgres_database: str, tmp_path: Path) -> None:
    path = study_file(tmp_path, trials="4", epochs="150")
    with two_nodes() as (address, cluster):
        assert cluster.stdin is not None and cluster.stdout is not None
        search = start(tmp_path, "search", path, "--study", "s", "--storage", postgres_database, "--ray", address)
        until(lambda: search.poll() is not None or at_work(postgres_database, 2))
        assert search.poll() is None, search.communicate()
        cluster.stdin.write("remove\n")
        cluster.stdin.flush()
        assert cluster.stdout.readline() == "removed\n"
        _, err = search.communicate(timeout=240)
        assert search.returncode == 0, err
    runs, trials, slots = states(postgres_database)
    assert (runs, trials, slots) == ([State.COMPLETE] * 4, [TrialState.COMPLETE] * 4, 0)
    assert "by 2 Ray tasks on cpu" in err
    with closing(open_records(parse_storage(postgres_database))) as records:
        attempts = [len(records.attempts(one.id)) for one in records.runs(study="s")]
    assert sum(attempts) > 4, "a trial of the lost node was taken up by another worker"


def test_ctrl_c_requeues_the_trials_of_all_tasks(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'budgetnas.db'}"
    path = study_file(tmp_path, trials="2", epochs="5000")
    search = start(tmp_path, "search", path, "--study", "s", "--ray", "auto", "--workers", "2", RAY_TMPDIR="/tmp")
    until(lambda: search.poll() is not None or at_work(storage, 2))
    assert search.poll() is None, search.communicate()
    started = psutil.Process(search.pid).children(recursive=True)
    search.send_signal(signal.SIGINT)
    _, err = search.communicate(timeout=90)
    assert search.returncode == 130, err
    assert states(storage) == ([State.INTERRUPTED] * 2, [TrialState.WAITING] * 2, 0)
    assert "Traceback" not in err
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started), 30)


def test_tasks_of_a_cluster_train_the_queue(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'budgetnas.db'}"
    for study in ("a", "b"):
        path = study_file(tmp_path, trials="2", seeds="[]")
        assert run(tmp_path, "search", path, "--study", study, "--queue").returncode == 0
    arguments = ("worker", "--all", "--until-idle", "--ray", "auto", "--workers", "2")
    worked = run(tmp_path, *arguments, RAY_TMPDIR="/tmp", BUDGETNAS_TURN="0")
    assert worked.returncode == 0, worked.stderr
    assert "study 'a' is done" in worked.stderr
    with closing(open_records(parse_storage(storage))) as records:
        assert {name: stand.state for name, stand in standings(records).items()} == {"a": "done", "b": "done"}
        assert [len(records.runs(study=study)) for study in ("a", "b")] == [2, 2]


def test_a_missing_cluster_is_reported_in_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, "search", "--budget", "6k", "--data", "digits", "--ray", "127.0.0.1:1")
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "--ray '127.0.0.1:1': cannot be reached" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_error_has_a_hint(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('none')\n")
    path = str(tmp_path)
    result = run_fresh(
        tmp_path, "search", "--budget", "6k", "--data", "digits", "--ray", "auto", PYTHONPATH=_with(path)
    )
    assert result.returncode == 2
    assert "--ray 'auto': needs the ray package; pip install 'budgetnas[ray]'" in result.stderr


def _with(path: str) -> str:
    return f"{path}:{environment().get('PYTHONPATH', '')}"


@pytest.fixture(autouse=True)
def no_cluster_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
