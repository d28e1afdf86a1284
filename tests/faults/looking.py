"""Looking at a study from outside, and what must hold of one that has ended, whatever happened to its processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from quiet import Quiet
from sqlalchemy import Row, func, select

from budgetnas.data import load_data
from budgetnas.experiments.final_results import FIRST_TEST_SEED
from budgetnas.metrics import Epoch
from budgetnas.runs.checkpoints import run_folder
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunRequest, record_training
from budgetnas.runs.reopen import (
    DataPlace,
    all_training_images,
    data_request,
    study_specification,
    validation_images,
)
from budgetnas.samplers.attributes import described
from budgetnas.searching.options import SearchOptions, read_study_file, specify
from budgetnas.searching.study import OpenStudy, open_study, optuna_storage
from budgetnas.space.candidates import Candidate
from budgetnas.storage import SEARCHED, Records, Role, Run, State, tables
from budgetnas.storage.engine import exclusive
from budgetnas.storage.leases import working_on
from budgetnas.storage.opening import open_records
from budgetnas.storage.settings import Settings
from budgetnas.storage.store import Fence
from budgetnas.storage.urls import parse_storage
from budgetnas.training import RuntimeConfig, runtime_rules

NAME = "t"
_ENDED = {TrialState.COMPLETE: State.COMPLETE, TrialState.PRUNED: State.PRUNED}
"""How a trial ended that counts, and its run."""


@dataclass(frozen=True)
class Looker:
    """A study, seen from outside.

    Attributes:
        records: Our records.
        optuna_study: Optuna's.
    """

    records: Records
    optuna_study: optuna.Study

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(self.records.runs(study=NAME))

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.optuna_study.get_trials(deepcopy=False)

    def rows(self, table: Any) -> list[Row[Any]]:
        """All rows of one of our tables, in a stable order."""
        with self.records.engine.connect() as connection:
            return list(connection.execute(select(table).order_by(*table.primary_key.columns)))

    def number_of(self, table: Any) -> int:
        with self.records.engine.connect() as connection:
            return int(connection.scalar(select(func.count()).select_from(table)) or 0)

    def epochs_of(self, trial: int) -> int:
        """Epochs recorded of a trial's training."""
        run = self.records.run_of_trial(NAME, trial)
        return 0 if run is None else len(self.records.curve(run.id))


@contextmanager
def looking(url: str) -> Iterator[Looker]:
    """Look at a study that is there."""
    parsed = parse_storage(url)
    with closing(open_records(parsed, must_exist=True)) as records:
        storage = optuna_storage(parsed, Fence())
        try:
            yield Looker(records, optuna.load_study(study_name=NAME, storage=storage))
        finally:
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def created(url: str, study_file: str) -> Iterator[OpenStudy]:
    """Create the study as a search would, without searching."""
    request = SearchOptions(study=NAME, storage=url).over(read_study_file(study_file))
    specification = specify(request, load_data(request.data_request()))
    parsed = parse_storage(url)
    with closing(open_study(parsed, open_records(parsed), NAME, specification)) as opened:
        yield opened


def check_ended(url: str, *, trained: int) -> None:
    """Check that a study is as if nothing had happened: each trial ended once, trained once, in both records alike."""
    with looking(url) as study:
        trials, runs = study.trials, study.runs
        assert [trial.number for trial in trials] == list(range(len(trials)))
        assert {trial.state for trial in trials} <= {*_ENDED, TrialState.FAIL}
        for trial in trials:
            assert trial.state is TrialState.COMPLETE or described(trial).get("reason"), (
                f"trial {trial.number}: {trial.state}, {described(trial)}"
            )
        with exclusive(study.records.engine):  # a process killed after the last result leaves its lease
            assert working_on(study.records, NAME) == 0, study.rows(tables.leases)
        assert study.rows(tables.leases) == []
        assert {run.state for run in runs} <= {*_ENDED.values(), State.FAILED}
        assert max(Counter(run.trial for run in runs if run.role in SEARCHED).values()) == 1, "a trial has one run"
        assert twice(runs) == []
        ended = {run.trial: run for run in runs if run.role in SEARCHED and run.state is not State.FAILED}
        assert len(ended) == trained
        finished = {trial.number for trial in trials if trial.state in _ENDED}
        assert ended.keys() <= finished
        for number in finished - ended.keys():  # another trial of the same candidate was trained: its record is used
            others = [trials[other] for other in ended if other is not None]
            assert any(
                (trials[number].params, trials[number].intermediate_values) == (other.params, other.intermediate_values)
                for other in others
            ), f"trial {number} has no run, and no other trial has its figures"
        for number, run in ended.items():
            assert number is not None
            assert _ENDED[trials[number].state] is run.state
            curve = study.records.curve(run.id)
            assert [epoch.epoch for epoch in curve] == list(range(1, run.epochs_done + 1))
            told = {epoch.epoch: epoch.eval_accuracy for epoch in curve}
            assert trials[number].intermediate_values == told, f"trial {number}, run {run.id} {run.state}"
            if run.state is State.COMPLETE:
                assert run.epochs_done == run.recipe.epochs
                assert trials[number].value == curve[-1].eval_accuracy
                assert run.weights_sha256


def twice(runs: Sequence[Run]) -> list[str]:
    """Return the runs that have the key of another, each in words."""

    def key(run: Run) -> tuple[str, str, int, str]:
        return run.architecture.digest, run.recipe.digest, run.seed, run.role

    times = Counter(map(key, runs))
    again = sorted((run for run in runs if times[key(run)] > 1), key=lambda run: (key(run), run.id))
    return [f"run {run.id} of trial {run.trial} {run.state}: {run.recipe.describe()} {run.reason}" for run in again]


def check_no_checkpoints(url: str, folder: Path) -> None:
    """Check that no file of a checkpoint is left."""
    with looking(url) as study:
        study.records.settings = Settings(checkpoint_dir=folder / "checkpoints")
        assert study.rows(tables.checkpoints) == []
        left = [run.id for run in study.runs if run_folder(study.records, run.id).exists()]
        assert left == []


Result = tuple[tuple[Epoch, ...], str | None]
"""A curve without its times, and the SHA-256 of the weights."""


def results(url: str) -> dict[int, Result]:
    """Return what each run of a study gave that was not lost."""
    with looking(url) as study:
        return {run.id: _result(study.records, run) for run in _trained(study)}


def results_alone(url: str, folder: Path) -> dict[int, Result]:
    """Return what each of these runs gives if it is trained alone, without a break, from its record."""
    fresh = parse_storage(f"sqlite:///{folder / 'alone.db'}")
    with looking(url) as study, closing(open_records(fresh)) as records:
        specification = study_specification(study.records, NAME)
        data = load_data(data_request(specification.data, NAME, DataPlace()))
        rules = runtime_rules("cpu", "float32")
        images, all_images = validation_images(data, rules), all_training_images(data, rules)
        given = {}
        for run in _trained(study):
            request = RunRequest(Candidate(run.architecture, run.recipe), run.seed, run.role)
            of_run = all_images if run.role is Role.FINAL and run.seed >= FIRST_TEST_SEED else images
            runtime = RuntimeConfig.from_json(run.environment)
            again = record_training(request, of_run, runtime, records, Stopper(), Quiet())
            given[run.id] = _result(records, records.run(again), pruned_after=run.epochs_done)
        return given


def _trained(study: Looker) -> list[Run]:
    return [run for run in study.runs if run.state in _ENDED.values()]


def _result(records: Records, run: Run, pruned_after: int | None = None) -> Result:
    """Return what a run gave up to an epoch; only whole trainings have weights to compare."""
    epochs = pruned_after or run.epochs_done
    curve = tuple(replace(epoch, seconds=0.0) for epoch in records.curve(run.id)[:epochs])
    return curve, run.weights_sha256 if epochs == run.recipe.epochs else None
