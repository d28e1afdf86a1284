"""Small studies with a sampler that repeats candidates, and trainings that take no time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import torch
from quiet import Quiet

from budgetnas.data import DataIdentity
from budgetnas.metrics import Epoch
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages
from budgetnas.searching.callbacks import TrialEnd, TrialStart
from budgetnas.searching.loop import SearchTask, search
from budgetnas.searching.study import OpenStudy, open_study
from budgetnas.space.candidates import Candidate
from budgetnas.space.recipe import Normalisation, RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import Role, Run
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import Callbacks, Checkpointer, RuntimeConfig, Task
from budgetnas.training.device import DeviceImages
from budgetnas.training.network import ResNet, build

CPU = RuntimeConfig("cpu", "float32", threads=1)
INPUTS = InputShape(in_channels=1, size=8, classes=10)
FOUR = SearchSpace(blocks=((1, 2),), widths=(4, 6, 40))
"""Six networks, of which the four narrow ones have fewer than 6,000 parameters."""
BUDGET = 6_000
RECIPES = RecipeSpace.model_validate(
    {"epochs": 3, "batch": 50, "optimizers": ["sgd"], "sgd": {"learning_rate": [0.05, 0.05], "weight_decay": [0.0]}}
)
NOTHING = DataIdentity(name="d", content_hash="0" * 64, subset=None, subset_eval=None, split_seed=0, resolution=8)
NETWORK = build(FOUR.smallest(INPUTS))
STUDY = """
data = "digits"
budget = "6k"
subset = 200
subset_eval = 100
epochs = 2
batch = 50
trials = 12
sampler = "budget"
seeds = []

[space]
blocks = [[1, 2]]
widths = [4, 6, 40]

[recipe]
optimizers = ["sgd"]

[recipe.sgd]
learning_rate = [0.05, 0.05]
weight_decay = [0.0]
"""


def specification(data: DataIdentity = NOTHING, **changes: object) -> StudySpecification:
    values = {"max_params": BUDGET, "space": FOUR, "recipes": RECIPES, "inputs": INPUTS, "seeds": ()} | changes
    return StudySpecification.model_validate(values | {"data": data})


@contextmanager
def opened(url: str, spec: StudySpecification | None = None) -> Iterator[OpenStudy]:
    parsed = parse_storage(url)
    with closing(open_study(parsed, open_records(parsed), "s", spec or specification())) as study:
        yield study


@dataclass
class Events(Quiet):
    """Keeps the trials' starts and ends."""

    starts: list[TrialStart] = field(default_factory=list)
    ends: list[TrialEnd] = field(default_factory=list)

    def on_trial_start(self, start: TrialStart) -> None:
        self.starts.append(start)

    def on_trial_end(self, end: TrialEnd) -> None:
        self.ends.append(end)


def made_up(task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer) -> ResNet:
    """A training that takes no time: each network has an accuracy of its own, and each seed moves it a little."""
    accuracy = 0.3 + 0.05 * sum(task.architecture.widths) / 10 + 0.001 * (task.seed * 7 % 5)
    for number in range(1, task.recipe.epochs + 1):
        callbacks.on_epoch_end(Epoch(number, 1.0, accuracy, 1.0, accuracy, 0.1, 0.0))
    return NETWORK


def no_images() -> RunImages:
    none = DeviceImages(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    return RunImages(NOTHING, none, none, Normalisation(mean=(0.0,), std=(1.0,)))


def asked(trials: int, sampler: str = "budget") -> SearchTask:
    return SearchTask(trials, no_images(), CPU, sampler, 0, trainer=made_up)


def searched(study: OpenStudy, trials: int, sampler: str = "budget") -> Events:
    events = Events()
    assert search(study, asked(trials, sampler), Stopper(None), events)
    return events


def runs_of(study: OpenStudy) -> tuple[Run, ...]:
    return study.records.runs(study="s")


def key(run: Run) -> tuple[str, str]:
    return Candidate(run.architecture, run.recipe).key


def check_seeds(runs: tuple[Run, ...]) -> None:
    """Each candidate has one training of the search, seed 0, and repeats with the seeds after it."""
    for candidate in {key(run) for run in runs}:
        mine = sorted((run for run in runs if key(run) == candidate), key=lambda run: run.seed)
        assert [run.seed for run in mine] == list(range(len(mine)))
        assert [run.role for run in mine] == [Role.SEARCH] + [Role.REPEAT] * (len(mine) - 1)
