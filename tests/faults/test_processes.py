"""Signals, failing trainings and processes that stand still: what becomes of the trial, and of the others."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from candidates import drawn
from looking import NAME, Looker, check_ended, created, looking, results, results_alone
from optuna.trial import TrialState
from processes import Before, Command, wait_until
from sabotage import AtEpoch, BeforeComplete, die, fail, fail_capture, hang, lose_gpu, overflow, slowly
from small import STUDY, study_file
from stopping import stop

from budgetnas.errors import EXIT_RESTART
from budgetnas.runs.checkpoints import run_folder
from budgetnas.samplers.attributes import described
from budgetnas.searching.study import MAX_TAKEOVERS
from budgetnas.space.ranges import Params
from budgetnas.storage import State, tables
from budgetnas.storage.settings import Settings

pytestmark = pytest.mark.slow

RATES = "\n[recipe]\noptimizers = ['sgd']\n[recipe.sgd]\nlearning_rate = [{}, {}]\nweight_decay = [{}]\n"
MARKED = 0.0123
"""Learning rate by which a candidate is known to the test."""


class Place:
    """A study in a folder, and the commands that search it.

    Args:
        folder: The folder.
        url: Its storage.
        trials: Runs it shall have.
        epochs: Of each.
        rates: Least and greatest learning rate; where they are great, so is the weight decay.
    """

    def __init__(
        self, folder: Path, url: str, *, trials: int, epochs: int = 6, rates: tuple[float, float] = (1e-3, 0.1)
    ) -> None:
        self.folder, self.url = folder, url
        decay = float(rates[1] > 1)
        self.path = study_file(folder, STUDY + RATES.format(*rates, decay), trials=str(trials), epochs=str(epochs))

    def search(self, before: Before | None = None, **environment: str) -> Command:
        arguments = ("search", self.path, "--study", NAME, "--storage", self.url)
        return Command(self.folder, *arguments, before=before, BUDGETNAS_CHECKPOINT_EVERY="0", **environment)

    def queue(self, *rates: float | None) -> None:
        """Queue a candidate for each, with that learning rate if it is given."""
        with created(self.url, self.path) as opened:
            candidates: list[Params] = drawn(opened, len(rates), random.Random(0))
            for params, rate in zip(candidates, rates, strict=True):
                opened.optuna_study.enqueue_trial(params | ({} if rate is None else {"sgd_learning_rate": rate}))

    def epochs_of(self, trial: int) -> int:
        with looking(self.url) as study:
            return study.epochs_of(trial)

    def check_bits(self) -> None:
        """Check that every complete training gives the same if it is made alone from its record."""
        told = results(self.url)
        assert told and told == results_alone(self.url, self.folder)


def reason_of(study: Looker, trial: int) -> str:
    told = study.trials[trial]
    run = study.records.run_of_trial(NAME, trial)
    assert run is not None
    assert (told.state, run.state) == (TrialState.FAIL, State.FAILED)
    assert described(told)["reason"] == run.reason
    return run.reason


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_search_resumes_to_the_same_bits(
    sqlite: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    place = Place(tmp_path, sqlite, trials=1, epochs=12)
    place.queue(None)
    with place.search(slowly) as command:
        wait_until(lambda: place.epochs_of(0) >= 3, command)
        command.send(number)
        assert command.wait() == code, command.told()
    check_put_back(place, command)
    with looking(sqlite) as study:
        (run,) = study.runs
        (last, *_) = study.records.checkpoints(run.id)
        assert last.epoch == run.epochs_done, "of the last whole epoch"
    check_resumed(place, after=last.epoch)


def test_a_second_ctrl_c_does_not_wait_for_a_step_to_end(sqlite: str, tmp_path: Path) -> None:
    place = Place(tmp_path, sqlite, trials=1, epochs=20)
    place.queue(None)
    with place.search(AtEpoch(5, hang)) as command:
        wait_until(lambda: place.epochs_of(0) == 4, command)
        time.sleep(0.5)
        command.send(signal.SIGINT)
        time.sleep(1.0)
        assert command.code is None, "the first is noted and obeyed at the end of a step"
        command.send(signal.SIGINT)
        assert command.wait(20) == 130, command.told()
    check_put_back(place, command)
    check_resumed(place, after=4)


def check_put_back(place: Place, command: Command) -> None:
    assert "Resume with" in command.told()
    assert "Traceback" not in command.told()
    with looking(place.url) as study:
        study.records.settings = Settings(checkpoint_dir=place.folder / "checkpoints")
        (trial,), (run,) = study.trials, study.runs
        assert (trial.state, run.state) == (TrialState.WAITING, State.INTERRUPTED)
        assert study.rows(tables.leases) == []
        files = {one.name for one in run_folder(study.records, run.id).iterdir()}
        assert files and files == {one.file for one in study.records.checkpoints(run.id)}


def check_resumed(place: Place, after: int) -> None:
    with place.search() as command:
        assert command.wait() == 0, command.told()
        assert f"resumes after epoch {after}, from its checkpoint" in command.told()
    check_ended(place.url, trained=1)
    with looking(place.url) as study:
        assert [one.epochs_before for one in study.rows(tables.attempts)] == [0, after]
        assert study.rows(tables.losses) == [], "nobody lost it: it was put back"
    place.check_bits()


def written(study: Looker, run: int) -> list[object]:
    """All that a process could write of the training of trial 0."""
    of_run = [[row for row in study.rows(one) if row.run == run] for one in (tables.epochs, tables.checkpoints)]
    attempts = [row for row in study.rows(tables.attempts) if row.run == run]
    return [study.records.run(run), *of_run, attempts, str(study.optuna_study.get_trials()[0])]


def test_a_paused_search_loses_its_trial_and_writes_no_more_of_it(storage_url: str, tmp_path: Path) -> None:
    """The one that took over is made to stand still as well, for a moment, so that only the first can write."""
    place = Place(tmp_path, storage_url, trials=3, epochs=15)
    place.queue(None, None, None)
    with ExitStack() as stack:
        first = stack.enter_context(place.search(slowly, BUDGETNAS_GRACE="2"))
        wait_until(lambda: place.epochs_of(0) >= 5, first)
        stop(first, storage_url)
        time.sleep(2.5)
        second = stack.enter_context(place.search(slowly, BUDGETNAS_GRACE="100"))
        with looking(storage_url) as study:
            wait_until(lambda: study.number_of(tables.attempts) == 2, second)
            (run,) = study.runs
            before = len(study.records.curve(run.id))
            wait_until(lambda: len(study.records.curve(run.id)) > before, second)
            stop(second, storage_url)
            taken_over = written(study, run.id)
            first.send(signal.SIGCONT)
            wait_until(lambda: "was taken over by another process" in first.told(), first)
            wait_until(lambda: place.epochs_of(1) >= 3, first)
            assert written(study, run.id) == taken_over
        second.send(signal.SIGCONT)
        codes = [one.wait() for one in (first, second)]
        assert codes == [0, 0], first.told() + second.told()
        assert "Traceback" not in first.told() + second.told()
    check_ended(storage_url, trained=3)
    with looking(storage_url) as study:
        (loss,) = study.rows(tables.losses)
        assert (loss.trial, loss.pid) == (0, first.pid)
        assert loss.reason == f"process {first.pid} on {loss.host.partition(' ')[0]} sent no heartbeat for 2 s"
        assert [one.pid for one in study.rows(tables.attempts) if one.run == run.id] == [first.pid, second.pid]
    place.check_bits()


def test_a_nan_loss_fails_only_its_trial(sqlite: str, tmp_path: Path) -> None:
    place = Place(tmp_path, sqlite, trials=2, rates=(1e-3, 100.0))
    place.queue(100.0, MARKED, 0.02)
    with place.search() as command:
        assert command.wait() == 0, command.told()
    check_ended(sqlite, trained=2)
    with looking(sqlite) as study:
        assert re.match(r"the (training|evaluation) loss is nan in epoch \d \(SGD lr 100 ", reason_of(study, 0))


def test_an_infinite_loss_fails_its_trial_alone(sqlite: str, tmp_path: Path) -> None:
    place = Place(tmp_path, sqlite, trials=2)
    place.queue(0.01, MARKED, 0.02)
    with place.search(AtEpoch(3, overflow, MARKED)) as command:
        assert command.wait() == 0, command.told()
    check_ended(sqlite, trained=2)
    with looking(sqlite) as study:
        assert reason_of(study, 1).startswith("the evaluation loss is inf in epoch 3 (SGD lr 0.0123")


def test_an_exception_fails_its_trial_alone(sqlite: str, tmp_path: Path) -> None:
    place = Place(tmp_path, sqlite, trials=2)
    place.queue(0.01, MARKED, 0.02)
    with place.search(AtEpoch(3, fail, MARKED)) as command:
        assert command.wait() == 0, command.told()
    check_ended(sqlite, trained=2)
    with looking(sqlite) as study:
        assert reason_of(study, 1) == "ZeroDivisionError: a mistake in the middle of a training"
        assert study.epochs_of(1) == 2, "what was trained is kept"
    place.check_bits()


def test_a_trial_that_kills_its_process_each_time_fails(sqlite: str, tmp_path: Path) -> None:
    place = Place(tmp_path, sqlite, trials=2)
    place.queue(MARKED, 0.01, 0.02)
    killed = []
    for _ in range(MAX_TAKEOVERS + 1):
        with place.search(AtEpoch(2, die, MARKED)) as command:
            assert command.wait() == -signal.SIGKILL, command.told()
            killed.append(command.pid)
    with place.search(AtEpoch(2, die, MARKED)) as command:
        assert command.wait() == 0, command.told()
    check_ended(sqlite, trained=2)
    with looking(sqlite) as study:
        reason = reason_of(study, 0)
        assert reason.startswith(f"lost by {MAX_TAKEOVERS + 1} processes in turn, the last: process {killed[-1]} on ")
        assert reason.endswith("is gone")
        assert [(one.trial, one.pid) for one in study.rows(tables.losses)] == [(0, pid) for pid in killed]
    place.check_bits()


def test_a_gpu_that_fails_ends_the_process_and_a_new_one_resumes_to_the_same_bits(sqlite: str, tmp_path: Path) -> None:
    place = Place(tmp_path, sqlite, trials=1)
    place.queue(None)
    with place.search(AtEpoch(4, lose_gpu)) as command:
        assert command.wait() == EXIT_RESTART, command.told()
        assert "trial 0 is requeued" in command.told()
        assert (
            "the GPU failed (CUDA error: device-side assert triggered); this process can no longer train"
            in command.told()
        )
    check_put_back(place, command)
    with place.search() as again:
        assert again.wait() == 0, again.told()
        assert "resumes after epoch 3, from its checkpoint" in again.told()
    check_ended(sqlite, trained=1)
    with looking(sqlite) as study:
        (loss,) = study.rows(tables.losses)
        assert (loss.trial, loss.pid) == (0, command.pid)
        assert loss.reason.endswith("this process can no longer train; a new process resumes")
    place.check_bits()


def test_a_trial_with_which_the_gpu_fails_each_time_fails(sqlite: str, tmp_path: Path) -> None:
    place = Place(tmp_path, sqlite, trials=2)
    place.queue(MARKED, 0.01, 0.02)
    for _ in range(MAX_TAKEOVERS + 1):
        with place.search(AtEpoch(2, lose_gpu, MARKED)) as command:
            assert command.wait() == EXIT_RESTART, command.told()
    assert "trial 0 failed: lost by 4 processes in turn" in command.told()
    with place.search(AtEpoch(2, lose_gpu, MARKED)) as command:
        assert command.wait() == 0, command.told()
    check_ended(sqlite, trained=2)
    with looking(sqlite) as study:
        assert "CUDA error: device-side assert triggered" in reason_of(study, 0)


def test_a_capture_that_fails_ends_the_process_and_a_new_one_trains_without(sqlite: str, tmp_path: Path) -> None:
    """The run is begun anew, since its first epochs were those of captured steps; the failure is remembered."""
    place, cache = Place(tmp_path, sqlite, trials=1), {"BUDGETNAS_CACHE_DIR": str(tmp_path / "cache")}
    place.queue(None)
    with place.search(AtEpoch(4, fail_capture), **cache) as command:
        assert command.wait() == EXIT_RESTART, command.told()
        assert "a step cannot be captured as a CUDA graph (CUDA error: operation not permitted" in command.told()
    (remembered,) = (tmp_path / "cache" / "cuda-graphs").iterdir()
    assert "not permitted" in json.loads(remembered.read_text(encoding="utf-8"))["problem"]
    with looking(sqlite) as study:
        (trial,), (run,) = study.trials, study.runs
        assert (trial.state, run.state, run.epochs_done) == (TrialState.WAITING, State.INTERRUPTED, 0)
    with place.search(**cache) as again:
        assert again.wait() == 0, again.told()
    check_ended(sqlite, trained=1)
    place.check_bits()


WORKER = """
import pathlib, torch
from budgetnas.training.engine import Trainer

real, marker = Trainer.epoch, pathlib.Path({marker!r})

def epoch(trainer, number, callbacks):
    if number == 3 and not marker.exists():
        marker.touch()
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")
    return real(trainer, number, callbacks)

Trainer.epoch = epoch
"""


def test_a_worker_whose_gpu_fails_is_restarted_and_no_trial_fails(sqlite: str, tmp_path: Path) -> None:
    """Workers are interpreters of their own, so that the failure is put into them by Python's own start-up file."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WORKER.format(marker=str(tmp_path / "failed")), encoding="utf-8")
    place = Place(tmp_path, sqlite, trials=4, epochs=120)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    with place.search(None, PYTHONPATH=path, BUDGETNAS_WORKERS="2") as command:
        assert command.wait() == 0, command.told()
        told = command.told()
    assert (tmp_path / "failed").exists()
    assert re.search(r"worker (\d): the GPU failed \(CUDA error: unspecified launch failure\)", told), told
    assert re.search(r"worker \d can no longer train; it is restarted", told), told
    check_ended(sqlite, trained=4)
    with looking(sqlite) as study:
        assert {run.state for run in study.runs} == {State.COMPLETE}, "the trial was requeued"


def test_five_failures_in_a_row_over_two_searches_end_both(sqlite: str, tmp_path: Path) -> None:
    place = Place(tmp_path, sqlite, trials=4, rates=(99.0, 100.0))
    with place.search() as first, place.search() as second:
        assert [first.wait(), second.wait()] == [1, 1], first.told() + second.told()
        for command in (first, second):
            assert "5 runs failed in a row" in command.told()
            assert "Traceback" not in command.told()
    with looking(sqlite) as study:
        assert {run.state for run in study.runs} == {State.FAILED}
        assert {trial.state for trial in study.trials} == {TrialState.FAIL}
        assert 5 <= len(study.runs) <= 10, "each counts those since it began"
        assert study.rows(tables.leases) == []


def test_a_search_killed_between_its_record_and_optunas_trains_nothing_twice(sqlite: str, tmp_path: Path) -> None:
    place = Place(tmp_path, sqlite, trials=5)
    with place.search(BeforeComplete(die)) as first, place.search() as second:
        assert first.wait() == -signal.SIGKILL, first.told()
        assert second.wait() == 0, second.told()
        told = second.told()
    check_ended(sqlite, trained=5)
    with looking(sqlite) as study:
        (loss,) = study.rows(tables.losses)
        assert loss.pid == first.pid
        said = f"trial {loss.trial} lost its process after the training; the record is used"
        assert said in told
        attempts = study.rows(tables.attempts)
        assert len(attempts) == 5, "no training was begun twice"
        assert sum(one.pid == first.pid for one in attempts) == 1
