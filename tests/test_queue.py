"""The queue: studies that are created without training, and the workers that train them in turns."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import psutil
import pytest
from forked import Forked
from optuna.trial import TrialState
from PIL import Image
from reporting import add_run, plausible_curve
from small import STUDY, run, start, study_file
from sqlalchemy import create_engine, select, text

import budgetnas
from budgetnas.cli.app import main
from budgetnas.errors import InputError, SearchFailedError
from budgetnas.report.standing import Standing, standings
from budgetnas.searching.management import cancel_study, delete_study, rename_study
from budgetnas.searching.study import optuna_storage
from budgetnas.searching.workers.queue import fairest_first
from budgetnas.space.initial_trials import initial_candidate
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape
from budgetnas.storage import Records, Role, State, tables
from budgetnas.storage.leases import holding, release, renew, require_study, take_final, take_slot
from budgetnas.storage.opening import open_records, open_records_read_only
from budgetnas.storage.queue_records import WINDOW_SECONDS
from budgetnas.storage.urls import parse_storage
from budgetnas.storage.values import QueueState

LONG = {"trials": "2", "epochs": "5000"}


@contextmanager
def opened(url: str) -> Iterator[Records]:
    with closing(open_records(parse_storage(url))) as records:
        yield records


def stands(url: str) -> dict[str, Standing]:
    with opened(url) as records:
        return standings(records)


def until(true: Callable[[], object], process: Forked | None = None, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.1)


def queued(folder: Path, url: str, study: str, *arguments: str, text: str = STUDY, **changes: str) -> str:
    """Queue a study; return what the command printed."""
    path = study_file(folder, text, **changes)
    result = run(folder, "search", path, "--study", study, "--storage", url, "--queue", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def trained_here(folder: Path, url: str, *arguments: str, **extra: str) -> str:
    """Train all that is queued; return the messages."""
    result = run(folder, "worker", "--all", "--until-idle", "--storage", url, *arguments, **extra)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr


def states_of(url: str, study: str) -> tuple[list[State], list[TrialState]]:
    with opened(url) as records:
        runs = [run.state for run in records.runs(study=study)]
    storage = optuna_storage(parse_storage(url))
    trials = optuna.load_study(study_name=study, storage=storage).get_trials(deepcopy=False)
    storage.remove_session()
    storage.engine.dispose()
    return runs, [trial.state for trial in trials if trial.state is not TrialState.FAIL]


@pytest.fixture
def one_study(tmp_path: Path, storage_url: str) -> str:
    """URL of a storage with a study `s` that is queued, on each kind of database."""
    budgetnas.search(study_file(tmp_path, trials="2"), study="s", storage=storage_url, queue=True, progress=False)
    return storage_url


def test_a_queued_study_is_created_trains_nothing_and_a_worker_trains_it(tmp_path: Path, storage_url: str) -> None:
    told = queued(tmp_path, storage_url, "s", "--finalists", "1", "--final-seeds", "2", trials="3", sampler='"random"')
    assert "study s is queued: 0 of 3 trials trained" in told
    assert "budgetnas worker --all --storage" in told
    with opened(storage_url) as records:
        assert records.runs() == ()
        assert records.goal("s") is not None
    assert stands(storage_url)["s"].state == "queued"

    told = trained_here(tmp_path, storage_url)
    assert len(re.findall(r"study 's': trial \d+: \d+\.\d+% on validation; \d trained", told)) == 3
    assert "study 's' is done" in told
    assert stands(storage_url)["s"].state == "done"
    with opened(storage_url) as records:
        assert [run.role for run in records.runs(study="s") if run.role is not Role.FINAL] == [Role.SEARCH] * 3
        [final] = records.finals("s")
        assert final.read_at is not None
        assert records.queue_entries()["s"].state is QueueState.DONE
    assert trained_here(tmp_path, storage_url).strip().endswith("nothing is queued"), "a second one has nothing to do"

    assert "3 of 4 trials trained" in queued(tmp_path, storage_url, "s", trials="4", finalists="1", final_seeds="2")
    trained_here(tmp_path, storage_url)
    with opened(storage_url) as records:
        assert len([run for run in records.runs(study="s") if run.role is not Role.FINAL]) == 4
        assert [final.read_at is not None for final in records.finals("s")] == [True, True]


def test_a_trial_whose_process_died_after_its_training_has_its_result_when_the_study_is_done(
    tmp_path: Path, one_study: str
) -> None:
    trained_here(tmp_path, one_study)
    runs, _ = states_of(one_study, "s")
    storage = optuna_storage(parse_storage(one_study))
    with storage.engine.begin() as connection:  # as it stands between the record and Optuna's trial
        connection.execute(text("UPDATE trials SET state = 'RUNNING' WHERE number = 1"))
        connection.execute(text("DELETE FROM trial_values"))
    storage.engine.dispose()
    path = study_file(tmp_path, trials="2")
    budgetnas.search(path, study="s", storage=one_study, queue=True, progress=False)
    assert "study 's': trial 1 lost its process after the training; the record is used" in trained_here(
        tmp_path, one_study
    )
    assert states_of(one_study, "s") == (runs, [TrialState.COMPLETE] * 2)
    assert stands(one_study)["s"].state == "done"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["search", "--queue", "--workers", "2"], "--queue: does not go with --workers"),
        (["search", "--queue", "--timeout", "5m"], "--queue: does not go with --timeout"),
        (["search", "--queue", "--tune-setup"], "--queue: does not go with --tune-setup"),
        (["search", "--queue", "--precision", "float32"], "--queue: does not go with --precision"),
        (["worker", "--all", "--study", "s"], "--study 's': does not go with --all"),
        (["worker", "--all", "--trials", "4"], "--trials 4: does not go with --all"),
        (["worker", "--study", "s", "--until-idle"], "--until-idle: goes with --all"),
        (["worker", "--study", "s", "--workers", "2"], "--workers 2: goes with --all"),
        (["worker"], "--study: is missing"),
    ],
)
def test_options_that_a_queue_cannot_follow_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = [study_file(tmp_path)] if words[0] == "search" else []
    assert main([*words, *file]) == 2
    out, err = capsys.readouterr()
    assert (out, told in err) == ("", True), err
    assert not (tmp_path / "budgetnas.db").exists()


def test_environment_variables_that_do_not_apply_are_ignored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUDGETNAS_STUDY", "s")
    monkeypatch.setenv("BUDGETNAS_TRIALS", "7")
    assert main(["worker", "--all", "--until-idle"]) == 0
    assert "nothing is queued\n" in capsys.readouterr().err
    monkeypatch.delenv("BUDGETNAS_TRIALS")
    for name, value in (("WORKERS", "2"), ("PRECISION", "float32"), ("PER_DEVICE", "2")):
        monkeypatch.setenv(f"BUDGETNAS_{name}", value)
    assert main(["worker"]) == 2
    assert "--study 's': " in capsys.readouterr().err, "not that --workers goes with --all"
    assert main(["search", study_file(tmp_path), "--queue", "--finalists", "1"]) == 0
    out, err = capsys.readouterr()
    assert "study s is queued: 0 of 4 trials trained" in out
    assert "fresh seeds each: the best candidate; then the winner is trained" in err, "no initial network fits"
    assert main(["search", "--study", "t", "--trials", "9", "--queue"]) == 2
    told = "--budget: is missing, and there is no study 't' in sqlite:///budgetnas.db to resume"
    assert told in (err := capsys.readouterr().err)
    assert err.endswith("a study that is there: s\n"), err


@pytest.mark.slow
def test_a_study_whose_data_are_not_here_is_skipped_with_one_message(tmp_path: Path, sqlite: str) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "images" / "train" / label).mkdir(parents=True)
        for index in range(60):
            Image.new("L", (8, 8), index % 256).save(tmp_path / "images" / "train" / label / f"{index}.png")
    queued(tmp_path, sqlite, "own", data='"folder:images"', subset="40", subset_eval="10", trials="1", resolution="8")
    queued(tmp_path, sqlite, "digits", trials="1")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    told = trained_here(tmp_path, sqlite)
    assert told.count("study 'own' is skipped here: ") == 1
    assert "nothing that can be trained here is queued" in told
    assert (stands(sqlite)["own"].state, stands(sqlite)["digits"].state) == ("queued", "done")
    (tmp_path / "elsewhere").rename(tmp_path / "images")
    (tmp_path / "below").mkdir()
    trained_here(tmp_path / "below", sqlite)
    assert stands(sqlite)["own"].state == "done", "the folder is found from another folder"


@pytest.mark.slow
def test_a_study_that_only_fails_leaves_the_queue(tmp_path: Path, sqlite: str) -> None:
    bad = STUDY + "\n[recipe.sgd]\nlearning_rate = [100.0, 100.0]\nweight_decay = [1.0]\n"
    bad = bad.replace("[recipe.sgd]", '[recipe]\noptimizers = ["sgd"]\n\n[recipe.sgd]')
    queued(tmp_path, sqlite, "bad", text=bad, trials="8", seeds="[]")
    queued(tmp_path, sqlite, "good", trials="1")
    told = trained_here(tmp_path, sqlite)
    assert "study 'bad' is not trained further: 5 runs failed in a row" in told
    assert "5 runs failed in a row" in stands(sqlite)["bad"].reason
    assert (stands(sqlite)["bad"].state, stands(sqlite)["good"].state) == ("failed", "done")


@pytest.mark.slow
def test_cancelling_frees_the_worker_within_an_epoch_and_loses_nothing(tmp_path: Path, storage_url: str) -> None:
    queued(tmp_path, storage_url, "s", **LONG)
    worker = start(tmp_path, "worker", "--all", "--storage", storage_url)
    until(lambda: any(one.epoch > 3 for one in stands(storage_url)["s"].workers), worker)
    with opened(storage_url) as records:
        before = records.runs(study="s")[0].epochs_done
    queued(tmp_path, storage_url, "t", trials="1", epochs="2")
    cancelled = run(tmp_path, "cancel", "s", "--storage", storage_url)
    assert cancelled.returncode == 0, cancelled.stderr
    assert "study s is cancelled; 1 worker will requeue the training within seconds" in cancelled.stdout
    until(lambda: stands(storage_url)["t"].state == "done", worker, 60)
    assert stands(storage_url)["s"].state == "cancelled"
    runs, trials = states_of(storage_url, "s")
    assert (runs, set(trials)) == ([State.INTERRUPTED], {TrialState.WAITING})
    with opened(storage_url) as records:
        [interrupted] = records.runs(study="s")
        assert len(records.curve(interrupted.id)) == interrupted.epochs_done >= before
        assert records.checkpoints(interrupted.id)[0].epoch == interrupted.epochs_done
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 143, err
    assert "study 's' was cancelled" in err
    again = start(tmp_path, "search", "--study", "s", "--storage", storage_url)
    until(lambda: stands(storage_url)["s"].workers, again)
    again.send_signal(signal.SIGTERM)
    _, err = again.communicate(timeout=60)
    assert f"resumes after epoch {interrupted.epochs_done}" in err
    assert stands(storage_url)["s"].state == "stopped"


@pytest.mark.slow
def test_a_cancelled_search_ends_with_a_message(tmp_path: Path, sqlite: str) -> None:
    search = start(tmp_path, "search", study_file(tmp_path, **LONG), "--study", "s")
    until(
        lambda: (
            Path(parse_storage(sqlite).database or "").exists()
            and stands(sqlite).get("s")
            and stands(sqlite)["s"].workers
        ),
        search,
    )
    assert run(tmp_path, "cancel", "s").returncode == 0
    _, err = search.communicate(timeout=60)
    assert search.returncode == 1, err
    assert "study 's' was cancelled; a search or finish of it resumes it" in err
    refused = run(tmp_path, "worker", "--study", "s")
    assert refused.returncode == 2
    assert "--study 's': was cancelled; resume it with budgetnas search --study s" in refused.stderr


@pytest.mark.slow
def test_several_processes_of_a_machine_train_the_queue(tmp_path: Path, sqlite: str) -> None:
    for study in ("s", "t"):
        queued(tmp_path, sqlite, study, seeds="[]")
    told = trained_here(tmp_path, sqlite, "--workers", "2", BUDGETNAS_TURN="0")
    assert "the queue is trained by 2 workers" in told
    assert {name: stand.state for name, stand in stands(sqlite).items()} == {"s": "done", "t": "done"}
    with opened(sqlite) as records:
        runs = records.runs()
        assert [run.state for run in runs] == [State.COMPLETE] * 8
        assert len({records.attempts(run.id)[0].holder for run in runs}) == 2
    waiting = start(tmp_path, "worker", "--all", "--workers", "2")
    until(lambda: len(psutil.Process(waiting.pid).children()) == 2, waiting)
    waiting.send_signal(signal.SIGTERM)
    _, err = waiting.communicate(timeout=90)
    assert waiting.returncode == 143, err


@pytest.mark.slow
def test_sigterm_requeues_and_the_next_worker_resumes(tmp_path: Path, sqlite: str) -> None:
    queued(tmp_path, sqlite, "s", trials="1", epochs="120")
    worker = start(tmp_path, "worker", "--all")
    until(lambda: any(one.epoch > 3 for one in stands(sqlite)["s"].workers), worker)
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 143, err
    assert stands(sqlite)["s"].state == "queued"
    assert "resumes after epoch" in trained_here(tmp_path, sqlite)
    assert stands(sqlite)["s"].state == "done"


def test_the_study_with_the_least_recent_work_is_next_and_a_process_at_work_counts_as_a_turn(storage_url: str) -> None:
    candidate = initial_candidate("v2-sgd", RecipeSpace(), InputShape(in_channels=3, size=32, classes=10))
    with opened(storage_url) as records:
        for study, seconds in (("much", 50.0), ("little", 2.0), ("new", 0.0)):
            records.enqueue(study, data=None, data_dir=None, seed=0)
            curve = [replace(epoch, seconds=seconds / 2) for epoch in plausible_curve(0.9, epochs=2)]
            add_run(records, study, candidate, 0, curve if seconds else [])

        def order() -> list[str]:
            return [entry.study for entry in fairest_first(records, list(records.queued()))]

        assert order() == ["new", "little", "much"]
        lease = take_slot(records, "new", trials=100)
        assert lease is not None
        assert order() == ["little", "much", "new"], "0 s and a turn of 60 s are more than 50 s"
        assert fairest_first(records, []) == []


@pytest.mark.slow
def test_studies_shows_where_since_when_and_how_far(tmp_path: Path, sqlite: str) -> None:
    queued(tmp_path, sqlite, "s", **LONG)
    queued(tmp_path, sqlite, "t")
    worker = start(tmp_path, "worker", "--all", BUDGETNAS_TURN="600s")
    until(lambda: any(one.epoch > 1 for one in stands(sqlite)["s"].workers), worker)  # the other is trained in a second
    listed = {row["study"]: row for row in json.loads(run(tmp_path, "studies", "--json").stdout)}
    working = listed["s"]
    assert working["state"] == "running"
    [at_work] = working["workers"]
    assert at_work["pid"] == worker.pid
    assert at_work["host"]
    assert 0 < at_work["epoch"] <= at_work["epochs"]
    assert time.time() - 120 < at_work["since"] <= time.time()
    assert {"budget", "max_macs", "max_activations", "trained", "failed", "best"} < working.keys()
    assert "running; " in " ".join(run(tmp_path, "studies", COLUMNS="200").stdout.split())
    worker.kill()
    worker.communicate(timeout=30)
    assert {row.state for row in stands(sqlite).values()} <= {"queued", "done"}, "a dead process is not at work"


@pytest.mark.slow
def test_delete_removes_every_record_and_rename_moves_it(
    tmp_path: Path, storage_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    for study in ("s", "kept"):
        queued(tmp_path, storage_url, study, "--finalists", "1", "--final-seeds", "2", trials="1")
    trained_here(tmp_path, storage_url)
    where = ("--storage", storage_url)
    for words, told in (
        (("rename", "s", "kept"), "NEW 'kept': is a study of this storage"),
        (("rename", "t", "u"), "OLD 't': is not in this storage"),
        (("rename", "s", "-x"), "no such option"),
        (("delete", "s"), "STUDY 's': is kept; answer y, or add --yes"),
        (("delete", "t", "--yes"), "STUDY 't': the storage has no study of that name"),
        (("cancel", "t"), "STUDY 't': is not in this storage"),
    ):
        assert main([*words, *where]) == 2
        assert told.lower() in capsys.readouterr().err.lower()
    before = states_of(storage_url, "s")
    assert run(tmp_path, "rename", "s", "renamed", *where).returncode == 0
    assert states_of(storage_url, "renamed") == before
    assert set(stands(storage_url)) == {"renamed", "kept"}
    assert stands(storage_url)["renamed"].state == "done"
    assert run(tmp_path, "delete", "renamed", "--yes", *where).returncode == 0
    engine = create_engine(parse_storage(storage_url))
    with engine.connect() as connection:
        for table in tables.metadata.sorted_tables:
            if "study" in table.c:
                assert set(connection.scalars(select(table.c.study))) <= {"kept"}, table.name
        runs = set(connection.scalars(select(tables.runs.c.id)))
        for table in (tables.epochs, tables.weights, tables.attempts, tables.test_readings):
            assert set(connection.scalars(select(table.c.run))) <= runs, table.name
            assert connection.execute(select(table)).first() is not None
    engine.dispose()
    storage = optuna_storage(parse_storage(storage_url))
    assert optuna.get_all_study_names(storage) == ["kept"]
    storage.remove_session()
    storage.engine.dispose()
    queued(tmp_path, storage_url, "renamed", trials="1")
    trained_here(tmp_path, storage_url)


def test_a_study_at_work_is_neither_deleted_nor_renamed(one_study: str) -> None:
    with opened(one_study) as records, opened(one_study) as asker:
        slot = take_slot(records, "s", 2)
        assert slot is not None
        with holding(records, slot):
            for change in (lambda: delete_study(asker, "s", print), lambda: rename_study(asker, "s", "t")):
                with pytest.raises(
                    InputError, match="is being trained by 1 process; budgetnas cancel s stops them first"
                ):
                    change()
            assert cancel_study(asker, "s") == 1
        delete_study(asker, "s", print)
        slot = take_slot(records, "s", 2)
        assert slot is not None
        with pytest.raises(SearchFailedError, match="study 's' was deleted or renamed"):
            require_study(records, "s")


def test_delete_waits_for_the_processes_of_a_cancelled_study(one_study: str) -> None:
    with opened(one_study) as records, opened(one_study) as asker:
        slot = take_slot(records, "s", 2)
        assert slot is not None
        told: list[str] = []
        with contextlib.ExitStack() as at_work:
            at_work.enter_context(holding(records, slot))
            cancel_study(asker, "s")

            def end(text: str) -> None:
                told.append(text)
                at_work.close()

            delete_study(asker, "s", end)
        assert told == ["waiting until 1 process of study 's' stopped"]
        assert asker.study_names() == ()


def test_one_process_at_a_time_has_the_lease_on_a_final(one_study: str) -> None:
    with opened(one_study) as first, opened(one_study) as second:
        lease = take_final(first, "s")
        assert lease is not None
        with holding(first, lease):
            assert take_final(second, "s") is None
            assert standings(second)["s"].state == "running"
        assert take_final(second, "s") is not None


def test_a_lost_lease_on_a_final_neither_renews_nor_ends_that_of_another_process(one_study: str) -> None:
    with opened(one_study) as first, opened(one_study) as second:
        lost = take_final(first, "s")
        assert lost is not None
        with first.engine.begin() as connection:
            connection.execute(tables.leases.update().values(expires_at=0.0))
        taken = take_final(second, "s")
        assert taken is not None and taken.owner != lost.owner
        assert not renew(first, lost)
        release(first, lost.owner)
        assert renew(second, taken) and take_final(first, "s") is None


def test_work_counts_as_recent_for_a_while(one_study: str, tmp_path: Path) -> None:
    trained_here(tmp_path, one_study)
    assert stands(one_study)["s"].state == "done"
    budgetnas.search(study_file(tmp_path, trials="3"), study="s", storage=one_study, queue=True, progress=False)
    with opened(one_study) as records:
        seconds = sum(epoch.seconds for run in records.runs(study="s") for epoch in records.curve(run.id))
        assert records.recent_seconds() == {"s": pytest.approx(seconds)}
        with records.engine.begin() as connection:
            connection.execute(tables.runs.update().values(ended_at=time.time() - WINDOW_SECONDS - 1))
        assert records.recent_seconds() == {}


def test_a_storage_of_an_older_program_has_an_empty_queue(one_study: str) -> None:
    with opened(one_study) as records:
        tables.queue.drop(records.engine)
    with closing(open_records_read_only(parse_storage(one_study))) as records:
        assert records.queue_entries() == {}
        assert standings(records)["s"].state == "stopped"
    with closing(open_records(parse_storage(one_study), must_exist=True)) as records:
        assert records.queued() == ()


def test_python_queues_cancels_renames_and_deletes(tmp_path: Path) -> None:
    storage = str(tmp_path / "budgetnas.db")
    file = study_file(tmp_path, trials="1")
    study = budgetnas.search(file, study="s", storage=storage, queue=True, progress=False)
    assert len(study.trials) == 0
    study.cancel()
    renamed = study.rename("t")
    assert (renamed.name, stands(f"sqlite:///{storage}")["t"].state) == ("t", "cancelled")
    with pytest.raises(InputError, match=r"name 's': is not in this storage|study 's': is not in this storage"):
        study.cancel()
    renamed.delete()
    assert stands(f"sqlite:///{storage}") == {}
