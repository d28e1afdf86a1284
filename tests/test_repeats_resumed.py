"""Repeats that are interrupted or killed, and repeats through the real program."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState
from quiet import Quiet
from repeating import (
    CPU,
    NOTHING,
    STUDY,
    Events,
    asked,
    check_seeds,
    key,
    opened,
    runs_of,
    searched,
    specification,
)
from small import run, study_file

from budgetnas.data import DataRequest, load_data
from budgetnas.errors import Interrupted
from budgetnas.metrics import Epoch
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages, RunRequest, claim_repeat, record_training
from budgetnas.samplers.attributes import REPEAT_OF, described, repeat_of
from budgetnas.searching.loop import search
from budgetnas.searching.study import recover_stale_trials
from budgetnas.space.candidates import Candidate
from budgetnas.space.recipe import Recipe
from budgetnas.storage import Records, Role, Run, State
from budgetnas.storage.leases import take_slot
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import train
from budgetnas.training.device import DeviceImages, to_device
from budgetnas.training.device import statistics as constants


@pytest.fixture(scope="module")
def images() -> RunImages:
    data = load_data(DataRequest("digits"))
    cpu = torch.device("cpu")
    fit = to_device(data.train, cpu)
    few = DeviceImages(fit.images[:200], fit.labels[:200])
    return RunImages(data.identity, few, to_device(data.validation, cpu), constants(data.train))


@dataclass
class StopsInRepeats(Events):
    """Stops a search in the first repeat that it sees, in its second epoch of three."""

    def on_epoch_end(self, epoch: Epoch) -> None:
        super().on_epoch_end(epoch)
        if self.starts[-1].repeat_of is not None and epoch.epoch == 2:
            raise Interrupted


def test_an_interrupted_repeat_resumes_to_the_same_bits(
    tmp_path: Path, sqlite: str, images: RunImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGETNAS_CHECKPOINT_EVERY", "0")
    task = replace(asked(8), images=images, trainer=train)
    spec = specification(images.identity)
    with opened(sqlite, spec) as study, pytest.raises(Interrupted):
        search(study, task, Stopper(None), StopsInRepeats())
    with opened(sqlite, spec) as study:
        cut = runs_of(study)[-1]
        assert (cut.role, cut.seed, cut.state, cut.epochs_done) == (Role.REPEAT, 1, State.INTERRUPTED, 2)
        events = Events()
        assert search(study, task, Stopper(None), events)
        runs = runs_of(study)
        check_seeds(runs)
        assert len(runs) == 8
        again = next(run for run in runs if run.id == cut.id)
        assert (again.state, again.role, again.seed, again.trial) == (State.COMPLETE, Role.REPEAT, 1, cut.trial)
        assert events.starts[0].number == cut.trial
        assert any("resumes after epoch" in text for text in events.notices)
        curve = [replace(epoch, seconds=0.0) for epoch in study.records.curve(again.id)]
    with closing(open_records(parse_storage(f"sqlite:///{tmp_path / 'whole.db'}"))) as records:
        whole = uninterrupted(records, again, images)
        assert whole.weights_sha256 == again.weights_sha256
        assert [replace(epoch, seconds=0.0) for epoch in records.curve(whole.id)] == curve
    seeds_of_one = [run for run in runs if key(run) == key(again)]
    assert len({run.weights_sha256 for run in seeds_of_one}) == len(seeds_of_one) > 1


@dataclass
class StopsInSecondEpoch(Events):
    def on_epoch_end(self, epoch: Epoch) -> None:
        super().on_epoch_end(epoch)
        if epoch.epoch == 2:
            raise Interrupted


def test_a_trial_that_takes_over_the_run_of_another_has_all_of_its_epochs(
    sqlite: str, images: RunImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both had proposed the same candidate, and the process of the first was killed before the second claimed it."""
    monkeypatch.setenv("BUDGETNAS_CHECKPOINT_EVERY", "0")
    task = replace(asked(1, "tpe"), images=images, trainer=train)
    with opened(sqlite, specification(images.identity)) as study:
        with pytest.raises(Interrupted):
            search(study, task, Stopper(None), StopsInSecondEpoch())
        with study.storage.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE trials SET state = 'FAIL'")
        study.optuna_study.enqueue_trial(study.optuna_study.trials[0].params)
    with opened(sqlite, specification(images.identity)) as study:
        assert search(study, task, Stopper(None), Events())
        [only], second = runs_of(study), study.optuna_study.trials[1]
        assert (only.trial, second.state) == (1, TrialState.COMPLETE)
        curve = {epoch.epoch: epoch.eval_accuracy for epoch in study.records.curve(only.id)}
        assert second.intermediate_values == curve


def uninterrupted(records: Records, run: Run, images: RunImages) -> Run:
    recipe = Recipe.model_validate(run.recipe.model_dump())
    request = RunRequest(Candidate(run.architecture, recipe), run.seed, Role.REPLAY)
    return records.run(record_training(request, images, CPU, records, Stopper(None), Quiet()))


def test_a_killed_repeat_is_taken_over_as_the_repeat_that_it_is(sqlite: str) -> None:
    with opened(sqlite) as study:
        searched(study, 8)
        first_trial = study.optuna_study.trials[0]
        study.optuna_study.enqueue_trial(first_trial.params, user_attrs={REPEAT_OF: 0})
        trial = study.optuna_study.ask()
        first = runs_of(study)[0]
        request = RunRequest(Candidate(first.architecture, first.recipe), 0, Role.REPEAT, study="s", trial=trial.number)
        slot = take_slot(study.records, "s", 12)
        assert slot is not None
        claim, with_seed = claim_repeat(request, NOTHING, CPU, study.records, slot)
        with study.records.engine.begin() as connection:  # its process is gone
            connection.exec_driver_sql("DELETE FROM leases")
        assert "requeued" in recover_stale_trials(study)[0]
        searched(study, 9, "tpe")
        run_ = study.records.run(claim.run)
        assert (run_.state, run_.role, run_.seed, run_.trial) == (
            State.COMPLETE,
            Role.REPEAT,
            with_seed.seed,
            trial.number,
        )
        assert len(runs_of(study)) == 9


def test_a_repeat_whose_process_died_at_its_very_end_is_ended_by_its_record(sqlite: str) -> None:
    with opened(sqlite) as study:
        searched(study, 8)
        last = next(run for run in reversed(runs_of(study)) if run.role is Role.REPEAT)
        with study.storage.engine.begin() as connection:  # as if Optuna had not been told yet
            connection.exec_driver_sql(f"UPDATE trials SET state = 'RUNNING' WHERE number = {last.trial}")
            connection.exec_driver_sql("DELETE FROM trial_values")
            connection.exec_driver_sql("DELETE FROM trial_user_attributes WHERE key = 'budgetnas'")
    with opened(sqlite) as study:
        assert "the record is used" in recover_stale_trials(study)[0]
        trial, curve = study.optuna_study.trials[last.trial or 0], study.records.curve(last.id)
        assert (trial.state, trial.value) == (TrialState.COMPLETE, curve[-1].eval_accuracy)
        assert described(trial)["seed"] == last.seed
        assert repeat_of(trial) is not None


@pytest.mark.slow
def test_a_search_with_repeats_from_end_to_end(tmp_path: Path) -> None:
    path = study_file(tmp_path, STUDY)
    done = run(tmp_path, "search", path, "--study", "s")
    assert done.returncode == 0, done.stderr
    assert "trained 12/12 (8 repeats), rejected" in done.stderr
    assert "(repeat of trial 0, training seed 1): basic " in done.stderr
    assert "trained 12 (8 repeats)" in done.stdout
    assert "mean of n trainings, with the trials that repeat the first" in done.stdout
    assert "chosen from 4 candidates, so optimistic" in done.stdout
    shown = json.loads(run(tmp_path, "show", "s", "--json").stdout)
    assert sum(len(ranked["trainings"]) for ranked in shown["ranking"]) == 12
    assert len(shown["ranking"]) == 4
    assert shown["tallies"]["repeats"] == 8
    report = run(tmp_path, "report", "s", "--out", "s.html")
    assert report.returncode == 0, report.stderr
    assert "of the trained, repeats" in (tmp_path / "s.html").read_text(encoding="utf-8")
    final = run(tmp_path, "finish", "s", "--finalists", "2", "--final-seeds", "2")
    assert final.returncode == 0, final.stderr
    assert "the mean of its " in final.stderr
    assert "(mean of " in final.stdout


@pytest.mark.slow
def test_two_workers_repeat_together(tmp_path: Path, storage_url: str) -> None:
    path = study_file(tmp_path, STUDY, trials="14")
    where = ("--study", "s", "--storage", storage_url)
    done = run(tmp_path, "search", path, *where, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "trained 14/14 (10 repeats), rejected" in done.stderr
    assert done.stderr.count("(repeat of trial ") == 10
    with closing(open_records(parse_storage(storage_url), must_exist=True)) as records:
        runs = records.runs(study="s")
        assert [run.state for run in runs] == [State.COMPLETE] * 14
        check_seeds(runs)
        assert len({run.weights_sha256 for run in runs}) == 14
        assert len({attempt.holder for run_ in runs for attempt in records.attempts(run_.id)}) == 2
