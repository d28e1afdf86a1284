"""The study's objective: everything that ranks does it by the balanced accuracy if the study asks for it."""

from __future__ import annotations

import json
import statistics
from contextlib import closing
from pathlib import Path

import pytest
from quiet import Quiet
from repeating import NETWORK, no_images, opened, specification
from small import run
from test_classes import SMALL, unbalanced

import budgetnas
from budgetnas.errors import InputError
from budgetnas.experiments.final_plan import plan_final
from budgetnas.metrics import BALANCED, Epoch
from budgetnas.report import study_tables
from budgetnas.runs.interrupts import Stopper
from budgetnas.samplers.choice import Trained
from budgetnas.searching.loop import SearchTask, search
from budgetnas.searching.options import SearchOptions
from budgetnas.space.specification import OBJECTIVES, ChoiceProtocol, Fidelity
from budgetnas.storage import State
from budgetnas.storage.opening import open_records_read_only
from budgetnas.storage.urls import parse_storage
from budgetnas.training import Callbacks, Checkpointer, RuntimeConfig, Task
from budgetnas.training.network import ResNet

OBJECTIVE = OBJECTIVES["balanced-accuracy"]


def opposed(task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer) -> ResNet:
    """A training that takes no time: the larger a network, the better its accuracy and the worse its balanced one."""
    accuracy = 0.3 + 0.05 * sum(task.architecture.widths) / 10 + 0.02 * sum(task.architecture.blocks)
    for number in range(1, task.recipe.epochs + 1):
        epoch = Epoch(number, 1.0, accuracy, 1.0, accuracy, 0.1, 0.0, eval_balanced_accuracy=1 - accuracy)
        callbacks.on_epoch_end(epoch)
    return NETWORK


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_trials_pruning_winner_and_finalists_follow_the_objective(tmp_path: Path, objective: str) -> None:
    balanced = objective == "balanced-accuracy"
    asked = specification(objective=OBJECTIVES[objective], fidelity=Fidelity(pruner="asha", eta=2))
    with opened(f"sqlite:///{tmp_path}/a.db", asked) as study:
        task = SearchTask(4, no_images(), RuntimeConfig("cpu", "float32", threads=1), "random", 4, trainer=opposed)
        assert search(study, task, Stopper(None), Quiet())
        runs = study.records.runs(study="s")
        last = {run.id: study.records.curve(run.id)[-1] for run in runs}
        values = {run: epoch.eval_balanced_accuracy if balanced else epoch.eval_accuracy for run, epoch in last.items()}
        assert [trial.value for trial in study.optuna_study.trials] == [values[run.id] for run in runs]
        assert study.optuna_study.metric_names == [f"{'balanced ' if balanced else ''}validation accuracy"]
        pruned = [run for run in runs if run.state is State.PRUNED]
        assert all(("balanced accuracy on validation" in run.reason) is balanced for run in pruned)
        tables = study_tables(study.records, "s")
        best = max((run for run in runs if run.state is State.COMPLETE), key=lambda run: values[run.id])
        assert tables.chosen is not None and tables.chosen.run.id == best.id == tables.ranking[0].run.id
        assert tables.ranking[0].best_accuracy == tables.ranking[0].accuracy == values[best.id]
        complete = [run for run in runs if run.state is State.COMPLETE]
        protocol = ChoiceProtocol(finalists=1, seeds=2)
        plan = plan_final(
            complete, [Trained(run.candidate, values[run.id]) for run in complete], protocol, study.specification
        )
        assert plan.finalists[0].run == best.id
    assert pruned, "a rung of half of the trials prunes one of four"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by balanced accuracy with class weights as a choice, and its final."""
    folder = tmp_path_factory.mktemp("balanced")
    study = budgetnas.search(
        data=unbalanced()[0],
        storage=folder / "budgetnas.db",
        objective="balanced-accuracy",
        recipe={"class_weights": ["none", "balanced"]},
        finalists=1,
        final_seeds=2,
        **SMALL,
    )
    study.report(folder / "report.html")
    study.export(out=folder / "bundle", progress=False, device="cpu")
    return folder


def test_a_final_is_decided_and_tested_by_the_balanced_accuracy(finished: Path) -> None:
    study = budgetnas.open_study("s", storage=finished / "budgetnas.db")
    final = study.tables.final
    assert study.specification.objective == OBJECTIVE and study.specification.measure == BALANCED
    assert final is not None and final.winner is not None and final.objective == OBJECTIVE
    with closing(open_records_read_only(parse_storage(f"sqlite:///{finished}/budgetnas.db"))) as records:
        results = records.test_results(final.number)
        fresh = [curve[-1] for curve in records.curves(run.id for run in records.runs(study="s")).values()]
    assert sorted(final.winner.test) == sorted(result.balanced_accuracy for result in results.values())
    assert set(final.winner.validation) <= {epoch.eval_balanced_accuracy for epoch in fresh}
    assert statistics.fmean(row.accuracy or 0.0 for row in final.winner.test_by_class) == pytest.approx(
        final.winner.mean_test
    )
    shares = [(row.accuracy or 0.0, row.images) for row in final.winner.test_by_class]
    error = sum(share * (1 - share) / images for share, images in shares) ** 0.5 / 3
    assert final.binomial_error == pytest.approx(error)
    accuracies = {trial.accuracy for trial in study.trials}
    assert accuracies <= {epoch.eval_balanced_accuracy for epoch in fresh}
    assert {trial.recipe.class_weights for trial in study.trials} <= {"none", "balanced"}


def test_every_output_names_the_objective(finished: Path) -> None:
    shown = run(finished, "show", "s").stdout
    for words in (
        "Ranking by balanced validation accuracy after the last epoch",
        "; always predicting it: balanced accuracy ",
        "balanced validation accuracy with fresh seeds",
        "balanced test accuracy over 2 networks",
        "balanced accuracy on validation (mean of 2 fresh seeds)",
    ):
        assert words in shown
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "mean balanced validation accuracy of" in page
    assert "balanced test accuracy (%)" in page
    assert "would give 33.33 %" in page, "a network that always predicts one of three classes"
    metrics = json.loads((finished / "bundle" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["measure"] == "balanced accuracy"
    card = (finished / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "balanced accuracy " in card
    assert "Always predicting it has a balanced accuracy of 33.33%." in card
    assert "balanced accuracy on validation" in repr(budgetnas.open_study("s", storage=finished / "budgetnas.db"))
    assert "(balanced accuracy)" in run(finished, "studies").stdout


def test_another_objective_is_refused_on_resuming(finished: Path) -> None:
    with pytest.raises(InputError, match="objective was balanced validation accuracy after the last epoch, now"):
        budgetnas.search(data=unbalanced()[0], storage=finished / "budgetnas.db", objective="accuracy", **SMALL)
    kept = budgetnas.search(
        data=unbalanced()[0], storage=finished / "budgetnas.db", study="s", device="cpu", trials=2, progress=False
    )
    assert kept.specification.objective == OBJECTIVE


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(InputError, match="--objective 'loss': must be one of accuracy, balanced-accuracy"):
        SearchOptions.parse({"objective": "loss"})
