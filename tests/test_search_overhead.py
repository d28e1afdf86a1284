"""What a search asks of its storage outside training: counted, not timed, so that no busy machine makes it fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna_dashboard._note import get_note
from small import ROOT, environment
from sqlalchemy import Engine, event

from budgetnas.architecture import count
from budgetnas.data import DataIdentity
from budgetnas.metrics import Epoch
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages
from budgetnas.samplers.attributes import save_note
from budgetnas.searching.callbacks import SearchCallbacks, TrialEnd
from budgetnas.searching.loop import SearchTask, search
from budgetnas.searching.study import OpenStudy, open_study
from budgetnas.space.recipe import Normalisation, RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import StudySpecification
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import Callbacks, Checkpointer, RuntimeConfig, Task
from budgetnas.training.device import DeviceImages
from budgetnas.training.network import ResNet, build

SPACE, INPUTS = SearchSpace(blocks=((1, 3),) * 4), InputShape(in_channels=3, size=32, classes=10)
"""All trials have equally many parameters, those of four stages."""
DATA = DataIdentity(name="d", content_hash="0" * 64, subset=None, subset_eval=None, split_seed=0, resolution=32)
NETWORK = build(SPACE.smallest(INPUTS))


class Watched(SearchCallbacks):
    """Prints nothing, and calls a function at the end of every trial."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended

    def on_trial_end(self, end: TrialEnd) -> None:
        self._ended()


class Asked:
    """What the engines of a study were asked: statements by their first words, transactions, rows that came back."""

    def __init__(self, opened: OpenStudy) -> None:
        self.now: Counter[str] = Counter()
        self.trials: list[Counter[str]] = []
        for engine in (opened.records.engine, opened.storage.engine):
            self._listen(engine)
        opened.storage.remove_session()

    def ended(self) -> None:
        """Note that a trial ended: what was asked from one end to the next is a trial's."""
        self.trials.append(self.now)
        self.now = Counter()

    def _listen(self, engine: Engine) -> None:
        def statement(_connection: object, _cursor: object, text: str, *_: object) -> None:
            self.now["statements"] += 1
            self.now[" ".join(text.split()[:3])] += 1

        def begin(_connection: object) -> None:
            self.now["transactions"] += 1

        def connect(connection: Any, _record: object) -> None:
            connection.row_factory = row

        def row(_cursor: object, values: tuple[object, ...]) -> tuple[object, ...]:
            self.now["rows"] += 1
            return values

        event.listen(engine, "before_cursor_execute", statement)
        event.listen(engine, "begin", begin)
        event.listen(engine, "connect", connect)
        engine.dispose()  # so that every connection is one that was heard of


def train(task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer) -> ResNet:
    accuracy = 1e-12 * count(task.architecture).macs
    for number in range(1, task.recipe.epochs + 1):
        callbacks.on_epoch_end(Epoch(number, 1.0, accuracy, 1.0, accuracy, 0.1, 0.0))
    return NETWORK


def searched(folder: Path, max_params: int, sampler: str, trials: int) -> Asked:
    """Run a search whose trainings take no time; return what it asked of its storage."""
    specification = StudySpecification(
        max_params=max_params, space=SPACE, recipes=RecipeSpace(epochs=2), data=DATA, inputs=INPUTS, seeds=()
    )
    url = parse_storage(f"sqlite:///{folder / 'budgetnas.db'}")
    none = DeviceImages(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    images = RunImages(DATA, none, none, Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3))
    runtime = RuntimeConfig(device="cpu", precision="float32", threads=1)
    with closing(open_study(url, open_records(url), "s", specification)) as opened:
        asked = Asked(opened)
        assert search(
            opened, SearchTask(trials, images, runtime, sampler, 0, trainer=train), Stopper(None), Watched(asked.ended)
        )
        return asked


@pytest.mark.parametrize("sampler", [pytest.param("tpe", marks=pytest.mark.slow), "random"])
def test_the_queries_of_a_trial_do_not_grow_with_the_earlier_trials(tmp_path: Path, sampler: str) -> None:
    asked = searched(tmp_path, 10**12, sampler, 60).trials
    early, late = asked[15:25], asked[-10:]
    for what in ("statements", "transactions", "rows"):
        assert {one[what] for one in late} == {one[what] for one in early}, what
    assert max(one["rows"] for one in late) < 200  # of which one for each transaction that writes: the file's count


def test_an_epoch_is_two_transactions(tmp_path: Path) -> None:
    (trial,) = searched(tmp_path, 10**12, "random", 1).trials
    assert trial["INSERT INTO epochs"] == trial["INSERT INTO trial_intermediate_values"] == 2
    assert trial["UPDATE leases SET"] == 2, "which trial and which run; heartbeats do not depend on epochs"


def test_a_trial_is_described_for_the_dashboard_in_few_writes(tmp_path: Path) -> None:
    for trial in searched(tmp_path, 10**12, "random", 3).trials[1:]:
        assert trial["INSERT INTO trial_user_attributes"] == 3, "parameters, one value, and that with the curve"
        assert trial["INSERT INTO study_system_attributes"] == 2, "a note and its version"
        assert trial["INSERT INTO trial_system_attributes"] == 1, "the constraint"


def test_all_rejections_of_a_trial_are_written_at_once(tmp_path: Path) -> None:
    trials = searched(tmp_path, 50_000, "random", 8).trials
    assert [one["INSERT INTO rejections"] for one in trials] == [1] * 8
    with closing(open_records(parse_storage(f"sqlite:///{tmp_path / 'budgetnas.db'}"))) as records:
        assert len(records.rejections("s")) > 100


@pytest.mark.slow
def test_the_benchmark_measures_every_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.overhead", "--trials", "14", "--epochs", "2", "--json"]
    result = subprocess.run(
        [*command, "--budget", "500k"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    assert (measured["trial"]["n"], measured["epoch"]["n"]) == (14, 28)
    assert measured["trial"]["median_ms"] > measured["epoch"]["median_ms"] > 0
    assert measured["statements_a_trial"] > measured["transactions_a_trial"] > 10
    missing = [name for name, milliseconds in measured["parts_ms"].items() if not milliseconds]
    assert set(missing) <= {"  in it, rejections written"}


@pytest.mark.parametrize("body", ["**note**", "0123456789" * 500])
def test_the_dashboard_reads_a_note_as_it_was_written(body: str) -> None:
    study = optuna.create_study()
    first, second = study.ask(), study.ask()
    save_note(first, study._storage, body)
    assert (get_note(first), get_note(second)) == (body, "")
