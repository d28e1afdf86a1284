"""Pruning: the verdicts, and real little studies that prune."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from statistics import median

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from small import run, start, study_file

from budgetnas.data import DataIdentity
from budgetnas.errors import InputError
from budgetnas.metrics import ACCURACY, Epoch
from budgetnas.report.tables import study_tables
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages
from budgetnas.searching.callbacks import SearchCallbacks, TrialEnd
from budgetnas.searching.loop import SearchTask, search
from budgetnas.searching.pruning import MEDIAN_NEEDS, compared, verdict
from budgetnas.searching.study import OpenStudy, open_study, optuna_storage
from budgetnas.space.recipe import Normalisation, RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import Fidelity, StudySpecification
from budgetnas.storage import Records, Run, State
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import Callbacks, Checkpointer, RuntimeConfig, Task
from budgetnas.training.device import DeviceImages
from budgetnas.training.network import ResNet, build

ASHA = Fidelity(pruner="asha", eta=3)
MEDIAN = Fidelity(pruner="median")
SPACE, INPUTS = SearchSpace(), InputShape(in_channels=3, size=32, classes=10)
DATA = DataIdentity(name="d", content_hash="0" * 64, subset=None, subset_eval=None, split_seed=0, resolution=32)
NETWORK = build(SPACE.smallest(INPUTS))
shares = st.floats(0, 1)
others = st.lists(shares, max_size=40)
rules = st.one_of(
    st.integers(2, 9).map(lambda eta: Fidelity(pruner="asha", eta=eta)),
    st.integers(2, 9).map(lambda eta: Fidelity(pruner="model", eta=eta)),
    st.just(MEDIAN),
    st.just(Fidelity()),
)


# Verdicts


@pytest.mark.parametrize(
    ("accuracy", "others", "needed"),
    [
        (0.1, [], None),
        (0.1, [0.9], None),  # fewer than eta: nobody is cut
        (0.5, [0.9, 0.1], 0.9),
        (0.9, [0.5, 0.1], None),
        (0.9, [0.9, 0.9], None),  # equal to what is needed goes on
        (0.7, [0.9, 0.8, 0.1, 0.2], 0.9),  # 5 // 3: the best one
        (0.8, [0.9, 0.1, 0.1, 0.2, 0.3], None),  # 6 // 3: the best two
        (0.3, [0.9, 0.8, 0.1, 0.1, 0.2], 0.8),
    ],
)
def test_asha_continues_the_best_third(accuracy: float, others: list[float], needed: float | None) -> None:
    cut = verdict(ASHA, accuracy, others)
    assert (cut and cut.needed) == needed


@pytest.mark.parametrize(
    ("accuracy", "others", "needed"),
    [
        (0.1, [0.9] * 4, None),  # too few for a median
        (0.1, [0.1, 0.2, 0.3, 0.4, 0.5], 0.3),
        (0.3, [0.1, 0.2, 0.3, 0.4, 0.5], None),
        (0.34, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.35),
    ],
)
def test_the_median_rule_prunes_trials_below_the_median(
    accuracy: float, others: list[float], needed: float | None
) -> None:
    cut = verdict(MEDIAN, accuracy, others)
    assert (cut and cut.needed) == (None if needed is None else pytest.approx(needed))


@given(rules, shares, others)
def test_the_best_at_a_rung_is_never_pruned(rule: Fidelity, accuracy: float, others: list[float]) -> None:
    assert verdict(rule, max([accuracy, *others]), others) is None


@given(rules, shares, shares, others)
def test_a_trial_that_continues_would_continue_with_a_higher_accuracy(
    rule: Fidelity, one: float, other: float, others: list[float]
) -> None:
    low, high = sorted((one, other))
    if verdict(rule, low, others) is None:
        assert verdict(rule, high, others) is None


@given(st.integers(2, 9), st.lists(shares, min_size=1, max_size=40, unique=True))
def test_one_in_eta_continues_once_all_have_reached_the_rung(eta: int, all_of_them: list[float]) -> None:
    rule = Fidelity(pruner="asha", eta=eta)
    going_on = [
        one
        for place, one in enumerate(all_of_them)
        if not verdict(rule, one, all_of_them[:place] + all_of_them[place + 1 :])
    ]
    assert len(going_on) == (len(all_of_them) // eta or len(all_of_them))


@given(shares, others)
def test_the_reason_names_the_accuracy_that_was_needed(accuracy: float, others: list[float]) -> None:
    for rule in (ASHA, MEDIAN):
        cut = verdict(rule, accuracy, others)
        if cut:
            assert accuracy < cut.needed and verdict(rule, cut.needed, others) is None
    assert verdict(Fidelity(), accuracy, others) is None
    if len(others) >= MEDIAN_NEEDS:
        assert (verdict(MEDIAN, accuracy, others) is not None) == (accuracy < median(others))


def test_the_reason_in_words() -> None:
    cut = verdict(ASHA, 0.5, [0.75, 0.25])
    assert cut is not None
    told = cut.reason(Epoch(3, 1.0, 0.5, 1.0, 0.5, 0.1, 0.0), 20)
    assert told == "after epoch 3 of 20: 50.00% on validation, 75.00% needed (the best 1 of 3 continue)"


def test_rungs_lie_before_the_last_epoch() -> None:
    assert ASHA.rungs(20) == (1, 3, 9)
    assert ASHA.rungs(9) == (1, 3)
    assert Fidelity(pruner="asha", eta=2, first_rung=2).rungs(20) == (2, 4, 8, 16)
    assert Fidelity(pruner="median", first_rung=3).rungs(6) == (3, 4, 5)
    assert Fidelity().rungs(20) == ASHA.rungs(1) == ()
    assert "after epoch 1, 3, 9 of 20 the best 1/3 continue" in ASHA.describe(20)
    assert Fidelity(pruner="model", eta=3).rungs(20) == ASHA.rungs(20)
    assert "the best 1/3 by expected accuracy continue" in Fidelity(pruner="model", eta=3).describe(20)
    assert "no trial is pruned" in ASHA.describe(1)
    assert "from epoch 1 on" in MEDIAN.describe(5)
    assert Fidelity().describe(20) == ""


# Studies whose trainings take no time: every trial gets the curve it is given


class Scripted:
    """Trains by a script: the accuracies of the first training, of the second, and so on, at every epoch."""

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels = list(levels)
        self.trained: list[str] = []

    def __call__(self, task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer) -> ResNet:
        level = self.levels[len(self.trained)]
        self.trained.append(task.architecture.digest + task.recipe.digest)
        for number in range(1, task.recipe.epochs + 1):
            callbacks.on_epoch_end(Epoch(number, 1.0, level, 1.0, level, 0.1, 0.0))
        return NETWORK


class Heard(SearchCallbacks):
    """Keeps the trials' ends."""

    def __init__(self) -> None:
        self.ends: list[TrialEnd] = []

    def on_trial_end(self, end: TrialEnd) -> None:
        self.ends.append(end)


def specification(fidelity: Fidelity, seeds: tuple[str, ...] = (), epochs: int = 10) -> StudySpecification:
    return StudySpecification(
        max_params=10**12,
        space=SPACE,
        recipes=RecipeSpace(epochs=epochs),
        data=DATA,
        inputs=INPUTS,
        seeds=seeds,
        fidelity=fidelity,
    )


def opened(url: str, fidelity: Fidelity, **changes: tuple[str, ...]) -> OpenStudy:
    parsed = parse_storage(url)
    return open_study(parsed, open_records(parsed), "s", specification(fidelity, **changes))


def scripted(study: OpenStudy, levels: Sequence[float], sampler: str = "random", trials: int | None = None) -> Heard:
    return scripted_by(study, Scripted(levels), len(levels) if trials is None else trials, sampler)


def scripted_by(study: OpenStudy, trainer: Scripted, trials: int, sampler: str = "random") -> Heard:
    none = DeviceImages(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    images = RunImages(DATA, none, none, Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3))
    runtime, heard = RuntimeConfig(device="cpu", precision="float32", threads=1), Heard()
    assert search(study, SearchTask(trials, images, runtime, sampler, 0, trainer=trainer), Stopper(None), heard)
    return heard


LEVELS = [0.5, 0.6, 0.4, 0.7, 0.3, 0.75]


def test_a_pruned_trial_is_pruned_in_both_tables(storage_url: str) -> None:
    with closing(opened(storage_url, ASHA)) as study:
        heard = scripted(study, LEVELS)
        runs, trials = study.records.runs(study="s"), study.optuna_study.trials
        assert [one.epochs_done for one in runs] == [10, 10, 1, 10, 1, 10]
        assert [one.state is State.PRUNED for one in runs] == [False, False, True, False, True, False]
        for one, trial, end in zip(runs, trials, heard.ends, strict=True):
            pruned = one.state is State.PRUNED
            assert trial.state is (TrialState.PRUNED if pruned else TrialState.COMPLETE)
            assert trial.value == trial.intermediate_values[one.epochs_done]
            assert len(trial.user_attrs["budgetnas"]["curve"]["epoch"]) == one.epochs_done
            assert trial.user_attrs["budgetnas"].get("reason", "") == one.reason == end.reason
            assert end.pruned_after == (1 if pruned else None)
        assert runs[2].reason == "after epoch 1 of 10: 40.00% on validation, 60.00% needed (the best 1 of 3 continue)"
        tally = heard.ends[-1].tally
        assert (tally.trained, tally.pruned) == (6, 2)
        pruning = study_tables(study.records, "s").pruning
        assert (pruning.epochs_asked, pruning.epochs_saved) == (60, 18)
        assert pruning.saved_share == pytest.approx(0.3)
        assert pruning.epochs_saved == sum(one.epochs_asked - one.epochs_done for one in runs)
        assert [training.run.trial for training in pruning.pruned] == [2, 4]
        assert pruning.sentence() == "asha pruned 2 runs: 18 of 60 epochs saved (30.0%)"


def test_the_median_rule_waits_for_five_complete_trials(tmp_path: Path) -> None:
    with closing(opened(f"sqlite:///{tmp_path}/a.db", MEDIAN)) as study:
        scripted(study, [0.1, 0.2, 0.3, 0.4, 0.5, 0.25, 0.35, 0.31])
        epochs = [one.epochs_done for one in study.records.runs(study="s")]
    assert epochs == [10, 10, 10, 10, 10, 1, 10, 1], "0.25 is below 0.3; 0.31 is below the 0.325 of six"


def test_without_a_pruner_no_trial_is_pruned(tmp_path: Path) -> None:
    with closing(opened(f"sqlite:///{tmp_path}/a.db", Fidelity())) as study:
        scripted(study, LEVELS)
        assert {one.state for one in study.records.runs(study="s")} == {State.COMPLETE}
        assert study_tables(study.records, "s").pruning.epochs_saved == 0


def test_initial_trials_are_neither_pruned_nor_compared_with(tmp_path: Path) -> None:
    with closing(opened(f"sqlite:///{tmp_path}/a.db", ASHA, seeds=("v1-sgd", "v2-sgd", "v1-adam", "v2-adam"))) as study:
        scripted(study, [0.9, 0.8, 0.1, 0.01, 0.3, 0.2, 0.4])
        runs = study.records.runs(study="s")
    assert [bool(one.label) for one in runs] == [True] * 4 + [False] * 3
    assert {one.state for one in runs} == {State.COMPLETE}, (
        "the worst seed goes on, and 0.4 is the best that is no seed"
    )


def test_an_accuracy_counts_once_and_not_for_interrupted_runs(tmp_path: Path) -> None:
    with closing(opened(f"sqlite:///{tmp_path}/a.db", ASHA, seeds=("v1-sgd",))) as study:
        scripted(study, [0.9, *LEVELS])
        records, runs = study.records, study.records.runs(study="s")
        reached = compared(ASHA)
        assert records.values_at("s", 1, ACCURACY, states=reached, except_run=0) == tuple(LEVELS)
        assert records.values_at("s", 2, ACCURACY, states=reached, except_run=0) == (0.5, 0.6, 0.7, 0.75)
        assert records.values_at("s", 1, ACCURACY, states=reached, except_run=runs[1].id) == tuple(LEVELS[1:])
        assert records.values_at("s", 1, ACCURACY, states=compared(MEDIAN), except_run=0) == (0.5, 0.6, 0.7, 0.75)
        assert records.values_at("other", 1, ACCURACY, states=reached, except_run=0) == ()
        for state in (State.INTERRUPTED, State.FAILED):
            records.finish_run(runs[2].id, state)
            assert records.values_at("s", 1, ACCURACY, states=reached, except_run=0) == (0.5, 0.4, 0.7, 0.3, 0.75)


def test_a_candidate_known_as_pruned_is_not_trained_again(tmp_path: Path) -> None:
    with closing(opened(f"sqlite:///{tmp_path}/a.db", ASHA)) as study:
        scripted(study, LEVELS[:3])
        cut = study.optuna_study.trials[2]
        assert cut.state is TrialState.PRUNED
        study.optuna_study.enqueue_trial(cut.params)
        heard = scripted(study, [0.8], trials=4)
        again, records = study.optuna_study.trials[3], study.records.runs(study="s")
        assert [one.state for one in records] == [State.COMPLETE, State.COMPLETE, State.PRUNED, State.COMPLETE]
        assert again.state is TrialState.PRUNED
        assert again.params == cut.params
        assert again.intermediate_values == cut.intermediate_values == {1: 0.4}
        assert f"the record of run {records[2].id} was used" in heard.ends[0].reason
        assert heard.ends[0].pruned_after == 1
        assert len({(one.architecture.digest, one.recipe.digest) for one in records}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random", "budget"])
def test_every_sampler_continues_after_pruned_trials(tmp_path: Path, sampler: str) -> None:
    levels = [0.1 + (37 * place % 24) / 40 for place in range(24)]
    with closing(opened(f"sqlite:///{tmp_path}/a.db", ASHA)) as study:
        scripted(study, levels, sampler)
        states = [one.state for one in study.records.runs(study="s")]
    assert len(states) == 24
    assert 8 <= states.count(State.PRUNED) < 24


MODEL = Fidelity(pruner="model", eta=3)
MIXED = [0.5, 0.6, 0.4, 0.55, 0.05, 0.99]


def test_trials_are_judged_by_what_they_are_expected_to_reach(tmp_path: Path) -> None:
    with closing(opened(f"sqlite:///{tmp_path}/a.db", MODEL)) as study:
        scripted(study, MIXED)
        runs = study.records.runs(study="s")
        assert [run.epochs_done for run in runs] == [10, 10, 10, 10, 1, 10], "the first four are too few to compare"
        assert re.fullmatch(
            r"after epoch 1 of 10: 5.00% on validation, so -?\d+.\d\d% expected, \d\d.\d\d% needed "
            r"\(the best 1 of 5 continue\)",
            runs[4].reason,
        )
        winner = study_tables(study.records, "s").chosen
        assert winner is not None and winner.run.id == runs[5].id


class Interrupting(Scripted):
    """Trains by a script, but is interrupted in the trial with this number after so many epochs, once."""

    def __init__(self, levels: Sequence[float], trial: int, epochs: int | None) -> None:
        super().__init__(levels)
        self.trial, self.epochs = trial, epochs

    def __call__(self, task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer) -> ResNet:
        number = len(self.trained)
        if number != self.trial or self.epochs is None:
            return super().__call__(task, runtime, callbacks, checkpointer)
        for epoch in range(1, self.epochs + 1):
            level = self.levels[number]
            callbacks.on_epoch_end(Epoch(epoch, 1.0, level, 1.0, level, 0.1, 0.0))
        self.epochs = None
        raise KeyboardInterrupt


@pytest.mark.parametrize(("trial", "epochs"), [(4, 0), (5, 1), (5, 5)])
def test_an_interrupted_trial_is_judged_as_if_it_had_not_been(tmp_path: Path, trial: int, epochs: int) -> None:
    """A process judges by the records alone, whatever another process drew before."""
    found = []
    for name in ("whole", "interrupted"):
        with closing(opened(f"sqlite:///{tmp_path}/{name}.db", MODEL)) as study:
            scripted(study, MIXED[:trial], trials=trial)
            trainer = Interrupting(MIXED, trial, epochs if name == "interrupted" else None)
            trainer.trained = ["known"] * trial
            with suppress(KeyboardInterrupt):
                scripted_by(study, trainer, trial + 1)
        with closing(opened(f"sqlite:///{tmp_path}/{name}.db", MODEL)) as study:
            scripted_by(study, trainer, trial + 1)
            run = [one for one in study.records.runs(study="s") if one.state is not State.INTERRUPTED][-1]
            found.append((run.architecture.digest, run.recipe.digest, run.state, run.epochs_done, run.reason))
    assert found[0] == found[1]


# The real program


def pruning_study(folder: Path, **changes: str) -> str:
    wanted = {"epochs": "4", "trials": "6", "pruner": '"asha"', "fidelity": "{ eta = 3 }", "budget": '"8k"'}
    return study_file(folder, **(wanted | changes))


def records_of(folder: Path) -> Records:
    return open_records(parse_storage(f"sqlite:///{folder}/budgetnas.db"), must_exist=True)


def runs_in(folder: Path) -> tuple[Run, ...]:
    with closing(records_of(folder)) as records:
        return records.runs()


def test_a_pruning_search_is_repeatable_and_reports_the_epochs_saved(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        result = run(folder, "search", pruning_study(folder), "--study", "t")
        assert result.returncode == 0, result.stderr
        runs = runs_in(folder)
        found.append([(one.architecture.digest, one.state, one.epochs_done, one.reason) for one in runs])
    assert found[0] == found[1]
    saved = sum(4 - one[2] for one in found[0])
    assert saved > 0, "six trials at the first rung: some are not among the best third"
    assert "pruning: asha, after epoch 1, 3 of 4 the best 1/3 continue" in result.stderr
    assert "estimate: at most about" in result.stderr
    assert f"{saved} of 24 epochs saved" in result.stdout
    assert "needed (the best" in result.stdout
    shown = run(folder, "show", "t", "--json")
    pruning = json.loads(shown.stdout)["pruning"]
    assert (pruning["pruner"], pruning["epochs_saved"]) == ("asha", saved)
    assert len(pruning["cut"]) == sum(one[1] is State.PRUNED for one in found[0])
    other = run(folder, "search", pruning_study(folder, pruner='"median"'), "--study", "t")
    assert other.returncode == 2
    assert "--pruner was asha, now median" in other.stderr


@pytest.mark.slow
def test_a_pruning_search_resumes_after_a_signal(tmp_path: Path) -> None:
    path = pruning_study(tmp_path, epochs="60", trials="5", fidelity="{ eta = 2, first_rung = 15 }")
    process = start(tmp_path, "search", path, "--study", "t")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(InputError, sqlite3.Error):
            if len(runs_in(tmp_path)) >= 3:
                break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert [one.state for one in runs_in(tmp_path)][-1] is State.INTERRUPTED
    again = run(tmp_path, "search", path, "--study", "t")
    assert again.returncode == 0, again.stderr
    counted = [one for one in runs_in(tmp_path) if one.state in (State.COMPLETE, State.PRUNED)]
    assert len(counted) == 5
    assert len({one.trial for one in counted}) == 5
    assert any(one.state is State.PRUNED for one in counted)


@pytest.mark.slow
def test_two_processes_prune_one_study(tmp_path: Path) -> None:
    path = pruning_study(tmp_path, trials="8")
    processes = [start(tmp_path, "search", path, "--study", "t") for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    runs = runs_in(tmp_path)
    storage = optuna_storage(parse_storage(f"sqlite:///{tmp_path}/budgetnas.db"))
    states = {one.number: one.state for one in storage.get_all_trials(1)}
    storage.remove_session()
    storage.engine.dispose()
    counted = {one.trial: one.state for one in runs if one.state in (State.COMPLETE, State.PRUNED)}
    assert len(counted) == 8
    assert State.PRUNED in counted.values()
    for trial, state in counted.items():
        assert trial is not None
        assert states[trial] is (TrialState.PRUNED if state is State.PRUNED else TrialState.COMPLETE)
