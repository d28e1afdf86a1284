"""The sampler of a search: which is used, what it knows of other processes, and how it follows a time limit."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from repeating import CPU, Events, asked, made_up, no_images, opened, searched, specification

from budgetnas.errors import Interrupted
from budgetnas.runs.interrupts import Stopper
from budgetnas.samplers.budget_sampler import sampler as budget_sampler
from budgetnas.samplers.budget_sampler.observed import Observed, observe
from budgetnas.samplers.named import DEFAULT_SAMPLER
from budgetnas.searching.callbacks import SearchCallbacks
from budgetnas.searching.loop import SearchTask, _install_sampler, search
from budgetnas.searching.options import SearchOptions
from budgetnas.searching.pace import Pace, expected_trainings
from budgetnas.searching.session import run_search
from budgetnas.searching.trial import suggest_candidate
from budgetnas.searching.workers.worker import WorkerRequest, run_worker
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import SearchSpace
from budgetnas.storage.leases import holding, take_slot
from budgetnas.storage.values import Goal
from budgetnas.training import Callbacks, Checkpointer, RuntimeConfig, Task
from budgetnas.training.network import ResNet


def tiny(folder: Path, **changes: Any) -> SearchOptions:
    values: dict[str, Any] = {
        "budget": "6k",
        "data": "digits",
        "subset": 100,
        "subset_eval": 100,
        "epochs": 1,
        "batch": 50,
        "study": "s",
        "storage": f"sqlite:///{folder}/a.db",
        "device": "cpu",
        "seeds": (),
        "space": SearchSpace(blocks=((1, 2),), widths=(4, 6)),
    }
    return SearchOptions.parse(values | changes)


def sampler_after(options: SearchOptions) -> str:
    result = run_search(options, Stopper(None), SearchCallbacks())
    with closing(result.records) as records:
        assert result.outcome.finished
        goal = records.goal("s")
    assert goal is not None
    return goal.sampler


def test_a_resumed_study_keeps_its_sampler_unless_another_is_asked_for(tmp_path: Path) -> None:
    assert sampler_after(tiny(tmp_path, trials=1)) == DEFAULT_SAMPLER == "budget"
    assert sampler_after(tiny(tmp_path, trials=2, sampler="random")) == "random"
    assert sampler_after(tiny(tmp_path, trials=3)) == "random"
    used: list[str] = []
    request = WorkerRequest(storage=f"sqlite:///{tmp_path}/a.db", study="s", trials=4, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("budgetnas.searching.workers.worker.search", lambda _, task, *__: used.append(task.sampler))
        run_worker(request, Stopper(None), SearchCallbacks()).records.close()
        run_worker(request.model_copy(update={"sampler": "tpe"}), Stopper(None), SearchCallbacks()).records.close()
    assert used == ["random", "tpe"]
    assert sampler_after(tiny(tmp_path, trials=4, sampler="budget")) == "budget"


def test_a_resumed_study_keeps_its_number_of_trials_unless_another_is_asked_for(tmp_path: Path) -> None:
    for asked_for, expected in ((1, 1), (None, 1), (2, 2), (None, 2)):
        options = tiny(tmp_path) if asked_for is None else tiny(tmp_path, trials=asked_for)
        result = run_search(options, Stopper(None), SearchCallbacks())
        with closing(result.records) as records:
            assert records.goal("s") == Goal(expected, DEFAULT_SAMPLER)
            assert len(records.runs(study="s")) == expected


WIDE = SearchSpace(blocks=((1, 3), (1, 3)), widths=(4, 6, 8, 10, 12))


def test_candidates_that_other_processes_train_count_as_pending(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes hold a candidate each; the third sees both, and proposes another."""
    seen: list[Observed] = []

    def watched(*arguments: Any, **named: Any) -> Observed:
        seen.append(observe(*arguments, **named))
        return seen[-1]

    spec = specification(space=WIDE, recipes=RecipeSpace(epochs=1), max_params=10_000)
    with opened(sqlite, spec) as study:
        searched(study, 10)
    monkeypatch.setattr(budget_sampler, "observe", watched)
    with ExitStack() as stack:
        params = []
        for _ in range(3):
            process = stack.enter_context(opened(sqlite, spec))
            slot = take_slot(process.records, "s", 20)
            assert slot is not None
            stack.enter_context(holding(process.records, slot))
            _install_sampler(process, asked(20), lambda: 20)
            trial = process.optuna_study.ask()
            suggest_candidate(trial, process.specification.candidates)
            assert [len(one.waiting) for one in seen] == list(range(len(seen)))
            assert list(seen[-1].waiting) == params
            assert len(seen[-1]) == 10
            params.append(trial.params)
    assert len({tuple(sorted(one.items())) for one in params}) == 3


# Time limits


class Clock:
    """A clock that trainings move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def train(self, task: Task, runtime: RuntimeConfig, callbacks: Callbacks, keeper: Checkpointer) -> ResNet:
        """A training that takes 36 seconds by this clock."""
        self.now += 36.0
        return made_up(task, runtime, callbacks, keeper)


def test_the_design_follows_the_time_limit(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight trainings of 36 s fit into five minutes, so 40 % of 8 are the design, not 40 % of the 60 asked for."""
    designed: list[int] = []
    plain = budget_sampler.BudgetSampler._next_of_design

    def watched(self: Any, domain: Any, observed: Observed) -> Any:
        designed.append(len(observed))
        return plain(self, domain, observed)

    monkeypatch.setattr(budget_sampler.BudgetSampler, "_next_of_design", watched)
    clock = Clock()
    task = SearchTask(60, no_images(), CPU, "budget", 0, trainer=clock.train)
    spec = specification(space=WIDE, recipes=RecipeSpace(epochs=1), max_params=10_000)
    with opened(sqlite, spec) as study:
        with pytest.raises(Interrupted):
            search(study, task, Stopper(5 * 60.0, clock), Events())
        assert len(study.records.runs(study="s")) == 9
        assert designed == [0, 1, 2]
        designed.clear()
        with pytest.raises(Interrupted):
            search(study, task, Stopper(5 * 60.0, clock), Events())
        assert len(study.records.runs(study="s")) == 18
        assert designed == [9], "the recorded runs took no time; after the first the pace is known"


def test_the_expected_number_of_trainings(sqlite: str) -> None:
    clock = Clock()
    with opened(sqlite) as study, ExitStack() as stack:
        pace = Pace.of(study, clock)
        slot = take_slot(study.records, "s", 50)
        assert slot is not None
        stack.enter_context(holding(study.records, slot))
        assert pace.seconds() is None
        assert expected_trainings(study, 50, pace, 600.0) == 50, "nothing is known yet"
        clock.now += 30.0
        pace.add_training()
        assert expected_trainings(study, 50, pace, None) == 50
        assert expected_trainings(study, 50, pace, 100.0) == 3
        assert expected_trainings(study, 50, pace, 6000.0) == 50, "never more than asked for"
        assert expected_trainings(study, 50, pace, 0.0) == 1, "the training that is about to begin"
        assert take_slot(study.records, "s", 50) is not None
        assert expected_trainings(study, 50, pace, 100.0) == 6, "two processes"


def test_a_resumed_search_knows_the_pace_of_earlier_runs(sqlite: str) -> None:
    with opened(sqlite) as study:
        searched(study, 3)
        pace = Pace.of(study, Clock())
        runs = sorted(run.seconds or 0.0 for run in study.records.runs(study="s"))
        assert pace.seconds() == pytest.approx(runs[1])
        assert Pace(Clock(), earlier=None).seconds() is None


def test_workers_are_sent_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They plan with it; the search itself stops them."""
    sent: list[WorkerRequest] = []
    monkeypatch.setattr(
        "budgetnas.searching.session.search_together", lambda _, __, request, *___: sent.append(request)
    )
    for limit in (None, 600.0):
        result = run_search(tiny(tmp_path, trials=2, workers=2), Stopper(limit), SearchCallbacks())
        result.records.close()
    assert sent[0].timeout is None
    assert 0.0 < (sent[1].timeout or 0.0) < 600.0
    assert [request.sampler for request in sent] == ["budget", "budget"]
