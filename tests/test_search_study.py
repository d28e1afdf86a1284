from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from forked import Forked
from optuna.trial import TrialState
from optuna_dashboard._note import get_note_from_system_attrs
from small import STUDY, run, start, study_file
from sqlalchemy import event
from sqlalchemy.pool import Pool

from budgetnas.architecture import count
from budgetnas.data import DataIdentity
from budgetnas.errors import InputError
from budgetnas.runs.interrupts import Stopper
from budgetnas.samplers.attributes import described
from budgetnas.searching.callbacks import MessageCallbacks
from budgetnas.searching.options import SearchOptions
from budgetnas.searching.session import run_search
from budgetnas.searching.study import OpenStudy, open_study, optuna_storage, recover_stale_trials
from budgetnas.searching.trial import RejectedError, suggest_candidate
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import Role, State
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage


def specification(max_params: int = 5_000_000, **more: int) -> StudySpecification:
    return StudySpecification(
        max_params=max_params,
        **more,
        space=SearchSpace(),
        recipes=RecipeSpace(epochs=2),
        data=DataIdentity(
            name="cifar10", content_hash="0" * 64, subset=None, subset_eval=None, split_seed=0, resolution=32
        ),
        inputs=InputShape(in_channels=3, size=32, classes=10),
    )


@contextmanager
def opened(url: str, max_params: int = 5_000_000, **more: int) -> Iterator[OpenStudy]:
    parsed = parse_storage(url)
    with closing(open_records(parsed)) as records:
        study = open_study(parsed, records, "s", specification(max_params, **more))
        with closing(study):
            yield study


def _open_and_close(url: str) -> None:
    with opened(url):
        pass


def seeds_of(study: OpenStudy) -> list[str]:
    return sorted(trial.user_attrs["seed"] for trial in study.optuna_study.get_trials(deepcopy=False))


@pytest.mark.slow
def test_initial_trials_are_queued_once_however_many_processes_open_the_study(storage_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_open_and_close, args=(storage_url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    with opened(storage_url) as study:
        assert seeds_of(study) == ["v1-adam", "v1-sgd", "v2-adam", "v2-sgd"]
        first = study.optuna_study.trials[0]
    assert first.state is TrialState.WAITING
    assert (
        first.system_attrs["fixed_params"] | {"optimizer": "sgd", "sgd_learning_rate": 0.1}
        == first.system_attrs["fixed_params"]
    )


def test_interrupted_queueing_of_initial_trials_is_completed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with opened(url) as study:
        for trial in study.optuna_study.trials[2:]:
            study.storage.set_trial_user_attr(trial._trial_id, "seed", "forgotten")
    with opened(url) as study:
        assert {"v2-adam", "v2-sgd"} <= set(seeds_of(study))


@pytest.mark.slow
def test_initial_trials_over_the_budget_are_recorded_as_rejected_once(storage_url: str) -> None:
    for _ in range(3):
        with opened(storage_url, 2_000_000) as study:
            assert seeds_of(study) == ["v2-adam", "v2-sgd"]
            rejected = study.records.rejections("s")
    assert [(one.origin, one.overshoot) for one in rejected] == [
        ("seed v1-sgd", 2_903_242),
        ("seed v1-adam", 2_903_242),
    ]
    assert count(rejected[0].architecture).params == 4_903_242


def test_an_initial_trial_over_any_limit_is_rejected(storage_url: str) -> None:
    """V1 has 253,432,832 multiply-accumulates, V2 335,480,064; both keep the limit on parameters."""
    for _ in range(2):
        with opened(storage_url, max_macs=253_432_832) as study:
            assert seeds_of(study) == ["v1-adam", "v1-sgd"]
            rejected = study.records.rejections("s")
            broken = study.records.over_limits("s", study.specification.budget)
    assert [(one.origin, one.overshoot, one.duplicate) for one in rejected] == [
        ("seed v2-sgd", 0, False),
        ("seed v2-adam", 0, False),
    ]
    assert [(one.quantity, one.proposals) for one in broken] == [("params", 0), ("macs", 2)]


def test_a_limit_that_was_added_later_is_refused_by_name(storage_url: str) -> None:
    with opened(storage_url):
        pass
    added = r"--max-activations was none, now 600000"
    with pytest.raises(InputError, match=added), opened(storage_url, max_activations=600_000):
        pass
    with opened(storage_url):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("directions", [["minimize"], ["maximize", "maximize"], ["maximize"]])
def test_a_study_of_another_program_is_refused(storage_url: str, directions: list[str]) -> None:
    with closing(open_records(parse_storage(storage_url))):
        storage = optuna_storage(parse_storage(storage_url))
        theirs = optuna.create_study(study_name="s", storage=storage, directions=directions)
        if directions == ["maximize"]:
            theirs.add_trial(optuna.create_trial(value=0.5))
        with pytest.raises(InputError, match="'s': is a study that another program made"), opened(storage_url):
            pass
        storage.remove_session()
        storage.engine.dispose()


def test_another_specification_is_refused_by_name(storage_url: str) -> None:
    with opened(storage_url):
        pass
    rule = r"--budget was 5000000, now 4000000.*--study"
    with pytest.raises(ValueError, match=rule), opened(storage_url, 4_000_000):
        pass


def test_an_enqueued_trial_of_a_process_that_is_gone_is_queued_again_with_its_parameters(storage_url: str) -> None:
    with opened(storage_url) as study:
        trial = study.optuna_study.ask()
        width = trial.suggest_int("width_1", 8, 512, log=True)
        (told,) = recover_stale_trials(study)
        assert "trial 0" in told and "requeued" in told
        assert study.optuna_study.trials[0].state is TrialState.WAITING
        again = study.optuna_study.ask()
        assert again.number == 0
        assert again.suggest_int("width_1", 8, 512, log=True) == width


def test_a_trial_left_without_all_parameters_is_dropped_with_the_reason(storage_url: str) -> None:
    with opened(storage_url, 60_000) as study:  # no seed fits
        study.optuna_study.ask().suggest_int("width_1", 8, 512, log=True)
        empty = study.optuna_study.ask().number
        dropped, queued = recover_stale_trials(study)
        assert "dropped" in dropped and "requeued" in queued
        states = [trial.state for trial in study.optuna_study.trials]
        assert states == [TrialState.FAIL, TrialState.WAITING]
        told = described(study.optuna_study.trials[0])
        assert told["rejected"] is True and "before all parameters were stored" in told["reason"]
        assert study.optuna_study.ask().number == empty


def show(folder: Path, *extra: str) -> dict[str, object]:
    result = run(folder, "show", "t", "--json", *extra)
    assert result.returncode == 0, result.stderr
    value: dict[str, object] = json.loads(result.stdout)
    return value


class RecordsIn:
    """Records of the database that a search left in a folder, each call on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._url = parse_storage(url)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            with closing(open_records(self._url, must_exist=True)) as records:
                return getattr(records, name)(*arguments, **named)

        return call


def records_in(folder: Path) -> RecordsIn:
    return RecordsIn(f"sqlite:///{folder}/budgetnas.db")


@contextmanager
def study_in(folder: Path) -> Iterator[optuna.Study]:
    storage = optuna_storage(parse_storage(f"sqlite:///{folder}/budgetnas.db"))
    yield optuna.load_study(study_name="t", storage=storage)
    storage.remove_session()
    storage.engine.dispose()


def trials_in(folder: Path) -> list[optuna.trial.FrozenTrial]:
    with study_in(folder) as study:
        return study.trials


def test_a_search_from_end_to_end(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    first = run(tmp_path, "search", path, "--study", "t")
    assert first.returncode == 0, first.stderr
    for text in ("0 of 4 runs trained", "estimate: about", "initial trial v1-sgd", "rejected", "trained 4/4"):
        assert text in first.stderr
    for text in ("Winner of the search:", "on validation", "proposed", "budgetnas report t", "v2-adam: rejected"):
        assert text in first.stdout

    records = records_in(tmp_path)
    runs = records.runs(study="t")
    assert [one.state for one in runs] == [State.COMPLETE] * 4
    assert all(one.role is Role.SEARCH and one.seed == 0 and one.params <= 6000 for one in runs)
    assert all(len(records.curve(one.id)) == one.epochs_done == 2 for one in runs)
    assert all(records.test_readings(one.id) == 0 for one in runs), "a search never reads the test split"
    environment = json.loads(runs[0].environment)
    assert {"device", "threads", "precision", "torch", "python"} <= environment.keys()

    trials = trials_in(tmp_path)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    for trial, one in zip(trials, runs, strict=True):
        curve = records.curve(one.id)
        assert trial.value == curve[-1].eval_accuracy
        assert trial.intermediate_values == {epoch.epoch: epoch.eval_accuracy for epoch in curve}
        assert trial.user_attrs.keys() - {"seed"} == {"budgetnas", "params"}
        told = trial.user_attrs["budgetnas"]
        assert trial.user_attrs["params"] == told["params"] == one.params
        assert (told["macs"], told["activations"]) == (one.macs, one.activations)
        assert (told["architecture"], told["recipe"]) == (one.architecture.describe(), one.recipe.describe())
        assert "fits" in told["verdict"]
        assert len(told["curve"]["train_loss"]) == 2

    with study_in(tmp_path) as study:
        attributes = study._storage.get_study_system_attrs(study._study_id)
        notes = [get_note_from_system_attrs(attributes, trial._trial_id)["body"] for trial in study.trials]
    assert all("| stage 1 |" in note and "fits:" in note for note in notes), "the dashboard shows them"

    more = run(tmp_path, "search", path, "--study", "t", "--trials", "6")
    assert "4 of 6 runs trained, resuming" in more.stderr
    assert len(records.runs(study="t")) == 6
    done = run(tmp_path, "search", "--study", "t", "--trials", "6")
    assert done.returncode == 0, "a study that is named goes on as it is, and this one is done"
    assert len(records.runs(study="t")) == 6
    assert show(tmp_path)["ranking"]


def test_a_cpu_run_repeated_from_its_record_gives_the_same_bits(tmp_path: Path) -> None:
    curves = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        assert run(folder, "search", study_file(folder), "--study", "t", "--trials", "2").returncode == 0
        records = records_in(folder)
        curves.append(
            [
                [(epoch.train_loss, epoch.eval_loss, epoch.eval_accuracy) for epoch in records.curve(one.id)]
                for one in records.runs(study="t")
            ]
        )
    assert curves[0] == curves[1]


def _begin_long_search(folder: Path) -> Forked:
    path = study_file(folder, epochs="4000", trials="2")
    process = start(folder, "search", path, "--study", "t")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        with suppress(InputError):  # the file is there before its tables are
            if any(one.epochs_done for one in records_in(folder).runs()):
                return process
        time.sleep(0.2)
    raise AssertionError("no epoch was recorded")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_search_queues_its_trial_again(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = _begin_long_search(tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Resume with" in err
    assert "Traceback" not in err
    (trial,) = trials_in(tmp_path)
    assert trial.state is TrialState.WAITING
    assert [one.state for one in records_in(tmp_path).runs()] == [State.INTERRUPTED]


def test_a_killed_search_resumes_with_the_same_candidate(tmp_path: Path) -> None:
    process = _begin_long_search(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (before,) = trials_in(tmp_path)
    assert before.state is TrialState.RUNNING
    resumed = start(tmp_path, "search", "--study", "t")
    assert resumed.stderr is not None
    told = next((line for line in resumed.stderr if "lost its process" in line), "")
    resumed.send_signal(signal.SIGINT)
    resumed.communicate(timeout=60)
    assert told.startswith("note: trial 0")
    assert resumed.returncode == 130
    (after,) = trials_in(tmp_path)
    assert (after.state, after.params) == (TrialState.WAITING, before.params)


def test_candidates_that_bypass_the_sampler_are_rejected_and_not_trained(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    assert run(tmp_path, "search", path, "--study", "t", "--trials", "1").returncode == 0
    wide = {"blocks_1": 2, "width_1": 12, "blocks_2": 1, "width_2": 12}
    with study_in(tmp_path) as study:
        study.enqueue_trial(wide | {"optimizer": "adam", "adam_learning_rate": 1e-3, "adam_weight_decay": 0.0})
        study.enqueue_trial(study.trials[0].params)
    result = run(tmp_path, "search", path, "--study", "t", "--trials", "2")
    assert result.returncode == 0, result.stderr
    trials = trials_in(tmp_path)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].user_attrs["budgetnas"]["reason"].startswith("rejected before it was built: over the budget")
    assert trials[2].value == trials[0].value, "an equal candidate is served by the record"
    records = records_in(tmp_path)
    assert [one.trial for one in records.runs(study="t")] == [0, 3]
    assert "enqueued" in {one.origin for one in records.rejections("t")}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"width_1": 7}, "rejected: width_1 = 7 is not in the table 4, 6, 8, 10, 12; the nearest are 6 and 8"),
        ({"width_1": 640}, "rejected: width_1 = 640 is not in the table 4, 6, 8, 10, 12"),
        ({"blocks_1": 3}, "rejected: blocks_1 = 3 is not in the table 1, 2"),
        ({"optimizer": "lion"}, "rejected: optimizer has a value outside its range"),
        ({"width_1": "wide"}, "rejected: width_1 has a value outside its range"),
        ({"adam_learning_rate": 2.0}, "rejected: adam_learning_rate = 2.0 must be from 0.0001 to 0.1"),
    ],
)
@pytest.mark.filterwarnings("ignore:Fixed parameter")
def test_enqueued_values_outside_their_range_are_rejected_with_the_reason(values: dict[str, Any], reason: str) -> None:
    space = CandidateSpace(
        SearchSpace(blocks=((1, 2), (1, 1)), widths=(4, 6, 8, 10, 12)),
        RecipeSpace(),
        InputShape(in_channels=1, size=8, classes=10),
    )
    study = optuna.create_study()
    study.enqueue_trial(
        {"blocks_1": 2, "width_1": 12, "blocks_2": 1, "width_2": 12, "optimizer": "adam"}
        | {"adam_learning_rate": 1e-3, "adam_weight_decay": 0.0}
        | values
    )
    with pytest.raises(RejectedError, match=f"^{re.escape(reason)}"):
        suggest_candidate(study.ask(), space)


def test_an_error_of_the_sampler_is_not_taken_for_a_value_outside_its_range() -> None:
    class Broken(optuna.samplers.RandomSampler):
        def sample_independent(self, *arguments: Any) -> Any:
            raise ValueError("Matrix is not positive definite")

    space = CandidateSpace(
        SearchSpace(blocks=((1, 2), (1, 1)), widths=(4, 6)),
        RecipeSpace(),
        InputShape(in_channels=1, size=8, classes=10),
    )
    with pytest.raises(ValueError, match=r"^Matrix is not positive definite"):
        suggest_candidate(optuna.create_study(sampler=Broken()).ask(), space)


def test_a_search_rejects_an_enqueued_width_outside_the_table_and_continues(tmp_path: Path) -> None:
    path = study_file(tmp_path)
    assert run(tmp_path, "search", path, "--study", "t", "--trials", "1").returncode == 0
    with study_in(tmp_path) as study:
        study.enqueue_trial({"width_1": 7})
        study.enqueue_trial({"width_1": 8})  # the sampler completes it
    result = run(tmp_path, "search", path, "--study", "t", "--trials", "2")
    assert result.returncode == 0, result.stderr
    trials = trials_in(tmp_path)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[1].user_attrs["budgetnas"]["reason"].startswith("rejected: width_1 = 7 is not in the table")
    assert trials[2].params["width_1"] == 8


def test_a_resumed_search_leaves_no_connection_open(tmp_path: Path) -> None:
    connections: set[int] = set()

    def connected(connection: Any, _record: object) -> None:
        connections.add(id(connection))

    def closed(connection: Any, _record: object) -> None:
        connections.remove(id(connection))

    request = SearchOptions(
        budget="6k",
        trials=1,
        data="digits",
        subset=200,
        subset_eval=100,
        epochs=1,
        study="s",
        storage=f"sqlite:///{tmp_path}/a.db",
        sampler="random",
        device="cpu",
        seeds=(),
        space=SearchSpace(blocks=((1, 1),), widths=(4,)),
    )
    event.listen(Pool, "connect", connected)
    event.listen(Pool, "close", closed)
    try:
        for _ in range(2):
            result = run_search(request, Stopper(None), MessageCallbacks(lambda _: None))
            assert result.outcome.finished
            result.records.close()
            assert connections == set()
    finally:
        event.remove(Pool, "connect", connected)
        event.remove(Pool, "close", closed)


def test_five_failed_runs_in_a_row_end_the_search(tmp_path: Path) -> None:
    rates = "\n[recipe]\noptimizers = ['sgd']\n[recipe.sgd]\nlearning_rate = [99, 100]\nweight_decay = [1.0]\n"
    path = study_file(tmp_path, STUDY + rates, epochs="6")
    result = run(tmp_path, "search", path, "--study", "t")
    assert result.returncode == 1
    assert "5 runs failed in a row" in result.stderr
    assert "loss is nan" in result.stderr or "loss is inf" in result.stderr
    records = records_in(tmp_path)
    assert [one.state for one in records.runs(study="t")] == [State.FAILED] * 5
    assert all("loss is" in one.reason for one in records.runs(study="t"))
    assert len(show(tmp_path)["failed"]) == 5  # type: ignore[arg-type]


def test_two_searches_at_once_train_exactly_what_was_asked_for(storage_url: str, tmp_path: Path) -> None:
    path = study_file(tmp_path)
    arguments = ("search", path, "--study", "t", "--trials", "6", "--storage", storage_url)
    processes = [start(tmp_path, *arguments) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    records = RecordsIn(storage_url)
    runs = records.runs(study="t")
    assert [one.state for one in runs] == [State.COMPLETE] * 6
    assert len({one.trial for one in runs}) == 6
    assert len({(one.architecture.digest, one.recipe.digest) for one in runs}) == 6, "none is trained twice"
