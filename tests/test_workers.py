from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from forked import Forked
from optuna.trial import TrialState
from PIL import Image
from quiet import Quiet
from small import environment, run, start, study_file

from budgetnas.errors import InputError
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import DataPlace, load_study_data, study_specification, validation_images
from budgetnas.searching.callbacks import TrialEnd, TrialStart
from budgetnas.searching.loop import SearchTask, _install_sampler, search
from budgetnas.searching.plan import Plan
from budgetnas.searching.study import OpenStudy, open_study
from budgetnas.searching.trial import suggest_candidate
from budgetnas.searching.workers.cluster import check_reach
from budgetnas.searching.workers.pools import MAX_CRASHES, gpu_devices
from budgetnas.searching.workers.processes import ProcessPool
from budgetnas.searching.workers.worker import WorkerRequest
from budgetnas.storage import Records, State
from budgetnas.storage.leases import slots_in_use, take_slot
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import RuntimeConfig

pytestmark = pytest.mark.slow

CPU = RuntimeConfig("cpu", "float32", threads=1)
LONG = {"trials": "2", "epochs": "5000"}
MODULE = "budgetnas.searching.workers.worker_process"


@contextmanager
def opened(url: str, study: str = "s") -> Iterator[OpenStudy]:
    parsed = parse_storage(url)
    with closing(open_records(parsed)) as records:
        one = open_study(parsed, records, study, study_specification(records, study))
        with closing(one):
            yield one


def states(url: str) -> tuple[list[State], list[TrialState], int]:
    """How the study's runs and trials stand, the rejected ones left out, and how many slots are held."""
    with opened(url) as study:
        runs = [run.state for run in study.records.runs(study="s")]
        trials = [trial.state for trial in study.optuna_study.get_trials(deepcopy=False)]
        return runs, [state for state in trials if state is not TrialState.FAIL], slots_in_use(study.records, "s")


def until(true: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.2)


def workers_of(process: Forked) -> list[psutil.Process]:
    return [one for one in psutil.Process(process.pid).children() if MODULE in one.cmdline()]


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def at_work(url: str, trials: int, beyond: int = 0) -> bool:
    """Whether so many trials are trained and have more epochs than that."""
    try:
        with closing(open_records(parse_storage(url), must_exist=True)) as records:
            runs = records.runs(study="s")
            return [run.state is State.RUNNING and run.epochs_done > beyond for run in runs].count(True) >= trials
    except InputError:
        return False  # nobody has created it yet


Started = tuple[Forked, list[psutil.Process]]


@pytest.fixture
def start_two(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts a search by two workers; returns it and them when both train. None of them outlives its test."""
    started: list[Started] = []

    def begin(url: str, beyond: int = 0, **changes: str) -> Started:
        path = study_file(tmp_path, **(LONG | changes))
        process = start(tmp_path, "search", path, "--study", "s", "--storage", url, "--workers", "2")
        started.append((process, []))
        until(lambda: process.poll() is not None or at_work(url, 2, beyond))
        assert process.poll() is None, process.communicate()
        started[-1] = process, workers_of(process)
        return started[-1]

    yield begin
    for process, workers in started:
        for one in workers if workers or process.poll() is not None else workers_of(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
        process.communicate()


def freeze(worker: psutil.Process, database: str | None) -> None:
    """Freeze a worker at a moment at which it does not hold the database's lock, as it would hold up all others."""
    while True:
        worker.suspend()
        try:
            with closing(sqlite3.connect(database or "", timeout=1.0, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            return
        except sqlite3.OperationalError:
            worker.resume()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a study of one run."""
    folder = tmp_path_factory.mktemp("made")
    result = run(folder, "search", study_file(folder, trials="1"), "--study", "s")
    assert result.returncode == 0, result.stderr
    return folder / "budgetnas.db"


@pytest.fixture
def one_run(made: Path, sqlite: str) -> str:
    """URL of a storage of its own with that study."""
    shutil.copy(made, parse_storage(sqlite).database or "")
    return sqlite


def test_two_workers_share_a_search_and_another_joins(storage_url: str, tmp_path: Path) -> None:
    path = study_file(tmp_path, trials="6", epochs="10")
    where = ("--study", "s", "--storage", storage_url)
    searched = run(tmp_path, "search", path, *where, "--workers", "2", "--json")
    assert searched.returncode == 0, searched.stderr
    assert len(json.loads(searched.stdout)["ranking"]) == 6
    with opened(storage_url) as study:
        runs = study.records.runs(study="s")
        assert [one.state for one in runs] == [State.COMPLETE] * 6
        assert len({one.environment for one in runs}) == 1, "all are trained in the runtime that was timed once"
        assert len({one.holder for run in runs for one in study.records.attempts(run.id)}) == 2
        assert not slots_in_use(study.records, "s")
    lines = [line for line in searched.stderr.splitlines() if ": epoch " not in line]  # a slow machine shows these too
    for one in runs:
        described = f"trial {one.trial}: {one.architecture.describe()}, {one.params:,}"
        assert sum(line.startswith(described) for line in lines) == 1
        assert sum(line.startswith(f"trial {one.trial}: ") for line in lines) == 2, "it started and ended"
    assert "by 2 workers on cpu (threads: 1 each)" in searched.stderr
    assert "trained 6/6, rejected" in searched.stderr
    assert "Traceback" not in searched.stderr

    done = run(tmp_path, "worker", *where, "--json")
    assert (done.returncode, len(json.loads(done.stdout)["ranking"])) == (0, 6), done.stderr
    more = run(tmp_path, "worker", *where, "--trials", "7", "--sampler", "random")
    assert more.returncode == 0, more.stderr
    assert "trained 7/7" in more.stderr


def test_a_worker_refuses_what_it_cannot_join(tmp_path: Path, one_run: str) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "images" / "train" / label).mkdir(parents=True)
        for index in range(700):
            Image.new("L", (8, 8), index % 256).save(tmp_path / "images" / "train" / label / f"{index}.png")
    for arguments, told in (
        (("--study", "t"), ["--study 't'", "not in this storage", "its studies: s"]),
        (("--study", "s", "--data", "folder:images"), ["--data", "study 's' was created with another specification"]),
        (("--study", "s", "--trials", "0"), ["--trials 0", "at least 1"]),
        (("--study", "s", "--sampler", "tpee"), ["--sampler 'tpee'", "did you mean tpe"]),
        (("--study", "s", "--storage", "other.db"), ["--storage", "no such database"]),
        ((), ["--study", "is missing"]),
    ):
        result = run(tmp_path, "worker", *arguments)
        lines = [line for line in result.stderr.splitlines() if not line.startswith("note:")]
        assert (result.returncode, len(lines), result.stdout) == (2, 1, ""), result.stderr
        assert all(text in lines[0] for text in told), lines[0]
    assert not (tmp_path / "other.db").exists()
    assert len(states(one_run)[0]) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_worker_requeues_its_trial(tmp_path: Path, sqlite: str, number: signal.Signals, code: int) -> None:
    path = study_file(tmp_path, **LONG)
    stopped = start(tmp_path, "search", path, "--study", "s", "--timeout", "1s")
    stopped.communicate(timeout=120)
    worker = start(tmp_path, "worker", "--study", "s", "--data", "digits")
    with opened(sqlite) as study:
        before = sum(run.epochs_done for run in study.records.runs(study="s"))
        until(lambda: sum(run.epochs_done for run in study.records.runs(study="s")) > before)
    worker.send_signal(number)
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == code, err
    assert "Resume with:\n  budgetnas worker --study s --data digits" in err
    runs, trials, slots = states(sqlite)
    assert (set(runs), set(trials), slots) == ({State.INTERRUPTED}, {TrialState.WAITING}, 0)


def test_ctrl_c_makes_all_workers_requeue_their_trials_and_the_search_resumes(
    start_two: Callable[..., Started], sqlite: str
) -> None:
    process, workers = start_two(sqlite)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping the workers; each saves what it trains" in err
    assert "Resume with:\n  budgetnas search" in err
    assert "Traceback" not in err
    assert len(workers) == 2
    assert are_gone(workers)
    assert states(sqlite) == ([State.INTERRUPTED] * 2, [TrialState.WAITING] * 2, 0)
    with opened(sqlite) as study:
        for one in study.records.runs(study="s"):
            assert study.records.checkpoints(one.id)[0].epoch == one.epochs_done > 0
        done = max(one.epochs_done for one in study.records.runs(study="s"))
    again, _ = start_two(sqlite, beyond=done)
    again.send_signal(signal.SIGTERM)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 143
    assert err.count("resumes after epoch") == 2, err


def test_a_second_ctrl_c_kills_workers_that_do_not_stop(start_two: Callable[..., Started], sqlite: str) -> None:
    process, workers = start_two(sqlite)
    freeze(workers[0], parse_storage(sqlite).database)
    process.send_signal(signal.SIGINT)
    until(lambda: are_gone(workers[1:]), 30)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert are_gone(workers)
    assert states(sqlite) == ([State.INTERRUPTED] * 2, [TrialState.WAITING] * 2, 0)


def test_a_killed_worker_is_restarted_and_the_study_is_complete(
    storage_url: str, start_two: Callable[..., Started]
) -> None:
    process, workers = start_two(storage_url, trials="4", epochs="50")
    workers[0].kill()
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert re.search(r"worker \d was killed by SIGKILL; it is restarted", err), err
    runs, trials, slots = states(storage_url)
    assert (runs, trials, slots) == ([State.COMPLETE] * 4, [TrialState.COMPLETE] * 4, 0)


def test_workers_whose_search_is_killed_end_by_themselves(start_two: Callable[..., Started], sqlite: str) -> None:
    process, workers = start_two(sqlite)
    process.kill()
    process.communicate(timeout=30)
    until(lambda: are_gone(workers), 30)
    assert states(sqlite) == ([State.INTERRUPTED] * 2, [TrialState.WAITING] * 2, 0)


def test_a_time_limit_stops_the_workers(tmp_path: Path, sqlite: str) -> None:
    path = study_file(tmp_path, **LONG)
    result = run(tmp_path, "search", path, "--study", "s", "--workers", "2", "--timeout", "12s")
    assert result.returncode == 0, result.stderr
    runs, trials, slots = states(sqlite)
    assert State.RUNNING not in runs
    assert TrialState.RUNNING not in trials
    assert slots == 0


class _Nothing:
    def ended(self) -> int:
        return 0

    def is_done(self) -> bool:
        return False


def test_a_worker_that_keeps_crashing_is_not_restarted(one_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    pool = ProcessPool(("cpu",), 1)
    pool.start(WorkerRequest(storage=one_run, study="s", trials=5, runtime="{}"))  # no worker can read it
    told: list[str] = []
    try:
        while pool.is_running():
            told += pool.poll(_Nothing())
            time.sleep(0.05)
    finally:
        pool.kill()
    assert told.count("worker 1 crashed; it is restarted") == MAX_CRASHES - 1
    assert told[-1] == "worker 1 crashed, 3 times without a finished run; it is not restarted"
    assert pool.failure() == "worker 1 crashed, 3 times without a finished run"
    assert sum("TypeError" in line for line in told) == MAX_CRASHES


class _Raising(Quiet):
    """Asks for one more run when the first has ended."""

    def __init__(self, records: Records) -> None:
        super().__init__()
        self.records = records
        self.asked = False

    def on_plan(self, opened: OpenStudy, plan: Plan, data: object) -> None:
        pass

    def on_trial_start(self, start: TrialStart) -> None:
        pass

    def on_trial_end(self, end: TrialEnd) -> None:
        if not self.asked:
            self.records.set_goal("s", 4, "random")
        self.asked = True


def test_a_running_worker_follows_a_later_search_for_more_trials(one_run: str) -> None:
    with opened(one_run) as study:
        study.records.set_goal("s", 2, "random")
        data, _ = load_study_data(study.specification, "s", DataPlace())
        task = SearchTask(None, validation_images(data, CPU), CPU, "random", 0)
        assert search(study, task, Stopper(), _Raising(study.records))
        assert len(study.records.runs(study="s")) == 4


def test_workers_that_start_at_the_same_moment_draw_differently(one_run: str) -> None:
    drawn = []
    with opened(one_run) as first, opened(one_run) as second, opened(one_run) as third:
        together = (first, second, third)
        data, _ = load_study_data(first.specification, "s", DataPlace())
        task = SearchTask(5, validation_images(data, CPU), CPU, "tpe", 0)
        for study in together:
            assert take_slot(study.records, "s", 5) is not None
        for study in together:
            _install_sampler(study, task, lambda: 5)
        for study in together:
            trial = study.optuna_study.ask()
            drawn.append(suggest_candidate(trial, study.specification.candidates).key)
            study.optuna_study.tell(trial, state=TrialState.FAIL)
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    ("workers", "per_device", "gpus", "devices"),
    [
        (None, None, 2, "0"),
        (1, None, 2, "0"),
        (2, None, 2, "01"),
        (3, 2, 2, "010"),
        (None, 2, 2, "0101"),
        (4, 4, 1, "0000"),
        (None, 3, 1, "000"),
    ],
)
def test_workers_go_round_the_gpus(workers: int | None, per_device: int | None, gpus: int, devices: str) -> None:
    there = tuple(f"cuda:{index}" for index in range(gpus))
    assert gpu_devices(workers, per_device, there) == tuple(f"cuda:{one}" for one in devices)


def test_more_workers_than_the_gpus_take_are_refused() -> None:
    with pytest.raises(InputError, match=r"--workers 3: is more than 2 workers: 2 GPUs with 1 each; .* --per-device 2"):
        gpu_devices(3, None, ("cuda:0", "cuda:1"))
    with pytest.raises(InputError, match=r"--workers 5: is more than 4 workers: 1 GPU with 4 each"):
        gpu_devices(5, 4, ("cuda:0",))


def test_a_file_is_rejected_as_storage_for_several_machines() -> None:
    nodes = [{"NodeManagerHostname": name, "NodeManagerAddress": name, "Alive": True} for name in ("a", "b")]
    check_reach(parse_storage("postgresql://u@h/d"), nodes)
    check_reach(parse_storage("a.db"), [nodes[0], nodes[1] | {"Alive": False}])
    with pytest.raises(InputError, match=r"--storage .*is a file on this machine, but the Ray cluster has 2"):
        check_reach(parse_storage("a.db"), nodes)


def test_a_request_goes_through_json() -> None:
    request = WorkerRequest(
        storage="postgresql+psycopg://u:secret@h/d",
        study="s",
        data="folder:/a",
        data_dir=Path("/b"),
        runtime=CPU.to_json(),
    )
    assert WorkerRequest.model_validate_json(request.model_dump_json()) == request


def test_workers_on_postgresql_show_no_password_and_end_when_their_search_is_killed(
    postgres_database: str, start_two: Callable[..., Started]
) -> None:
    secret = "s3cret-of-this-test"
    url = parse_storage(postgres_database).set(password=secret)  # the server trusts whoever reaches its socket
    process, workers = start_two(url.render_as_string(hide_password=False))
    for one in workers:
        assert secret not in " ".join(one.cmdline())
        assert secret not in " ".join(f"{name}={value}" for name, value in one.environ().items())
    process.kill()
    _, err = process.communicate(timeout=30)
    assert secret not in err
    until(lambda: are_gone(workers), 30)
    assert states(postgres_database) == ([State.INTERRUPTED] * 2, [TrialState.WAITING] * 2, 0)
