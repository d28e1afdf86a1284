from __future__ import annotations

import json
import math
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import run, start, study_file
from small_finals import PROTOCOL, Listener, copied, finals, opened, readings, run_final, searched
from sqlalchemy import update
from test_search_study import specification

from budgetnas.architecture import named
from budgetnas.cli.console import print_stopped
from budgetnas.cli.final_text import final_lines
from budgetnas.data.test_split import load_test
from budgetnas.errors import BudgetnasError, InputError, Interrupted
from budgetnas.experiments.final_plan import plan_final
from budgetnas.experiments.final_results import (
    FIRST_TEST_SEED,
    FIRST_VALIDATION_SEED,
    FinalResult,
    final_result,
)
from budgetnas.metrics import difference_interval
from budgetnas.runs.reopen import DataPlace, load_study_data, study_specification, validation_images
from budgetnas.runs.timing import Timing, time_steps
from budgetnas.samplers.choice import Trained
from budgetnas.space.initial_trials import initial_candidate
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape
from budgetnas.space.specification import ChoiceProtocol
from budgetnas.space.strong import final_recipe
from budgetnas.storage import Records, Role, Run, RunKey, State, tables
from budgetnas.training import runtime_rules
from budgetnas.training.device import Normaliser, to_device
from budgetnas.training.evaluation import Evaluation, evaluate
from budgetnas.training.measure import Pace
from budgetnas.training.network import build
from budgetnas.training.weights import from_safetensors, to_safetensors


@pytest.fixture(scope="module")
def searched_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("searched"))


@pytest.fixture
def database(searched_once: Path, tmp_path: Path) -> Path:
    return copied(searched_once, tmp_path)


def test_a_final_retrains_the_best_and_evaluates_on_the_test_split_once(database: Path) -> None:
    with opened(database) as records:
        result = run_final(records)
        winner = result.winner
        assert winner is not None and result.reference is None and result.difference is None
        assert [entrant.is_finalist for entrant in result.entrants] == [True, True]
        assert winner.mean_validation == max(entrant.mean_validation or 0 for entrant in result.entrants)
        assert result.readings == 1 and result.test_images == 100
        runs = finals(records)
        assert sorted(run.seed for run in runs) == sorted(
            [FIRST_VALIDATION_SEED, FIRST_VALIDATION_SEED + 1] * 2 + [FIRST_TEST_SEED, FIRST_TEST_SEED + 1]
        )
        tested = [run for run in runs if run.seed >= FIRST_TEST_SEED]
        read = readings(records)
        assert {one for _, one, _ in read} == {run.id for run in tested} and len(read) == 2
        assert len({(final, at) for final, _, at in read}) == 1  # one event
        assert {run.architecture for run in tested} == {winner.run.architecture}
        assert winner.run.recipe in {run.recipe for run in tested}
        for run in runs:
            curve = records.curve(run.id)
            assert len(curve) == 2 and math.isnan(curve[-1].eval_accuracy) == (run in tested)
            assert (records.weights(run.id) is not None) == (run in tested)
        assert result.shipped_run == next(run.id for run in tested if run.seed == FIRST_TEST_SEED)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_test_accuracy_is_that_of_the_stored_weights_in_float32(
    database: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[str] = []  # 100 images seldom show the difference

    def noting(*arguments: Any, **options: Any) -> Evaluation:
        evaluated.append(arguments[3].precision)
        return evaluate(*arguments, **options)

    monkeypatch.setattr("budgetnas.experiments.final.evaluate", noting)
    with opened(database) as records:
        result = run_final(records, precision=precision)
        assert result.precisions == (precision,) and evaluated == ["float32"] * 2
        assert result.winner is not None and result.shipped_run is not None
        data, request = load_study_data(study_specification(records, "s"), "s", DataPlace())
        runtime = runtime_rules("cpu", "float32").runtime_for(result.winner.run.architecture)
        normalise = Normaliser.of(
            validation_images(data, runtime).normalisation, runtime.torch_device, runtime.memory_format
        )
        tensors = records.weights(result.shipped_run)
        assert tensors is not None
        network = from_safetensors(result.winner.run.architecture, tensors)
        test = to_device(load_test(request), runtime.torch_device)
        with torch.inference_mode():
            correct = (network(normalise(test.images)).argmax(dim=1) == test.labels).double().mean().item()
    assert result.winner.test[0] == pytest.approx(correct, abs=1e-12)


def test_a_finished_final_is_reported_without_training_or_evaluation(database: Path) -> None:
    with opened(database) as records:
        first, runs = run_final(records), finals(records)
        listener = Listener()
        assert run_final(records, listener) == first
        assert finals(records) == runs and not listener.trainings and len(readings(records)) == 2


def test_a_final_whose_processes_used_different_precisions_says_so(database: Path) -> None:
    with opened(database) as records:
        result = run_final(records)
        assert result.precisions == ("float32",) and not result.mixed
        assert result.shipped_run is not None
        environment = json.loads(records.run(result.shipped_run).environment) | {"precision": "bf16"}
        with records.engine.begin() as connection:
            changed = update(tables.runs).where(tables.runs.c.id == result.shipped_run)
            connection.execute(changed.values(environment=json.dumps(environment)))
        result = run_final(records)
    assert result.to_dict()["precisions"] == ["bf16", "float32"]
    assert "  the runs used different precisions (bf16 and float32)" in final_lines(result)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_stopped_final_resumes_and_repeats_no_run(database: Path, stop_after: int) -> None:
    with opened(database) as records:
        with pytest.raises(Interrupted):
            run_final(records, Listener(stop_after))
        assert not readings(records)
        listener = Listener()
        result = run_final(records, listener)
        assert listener.resumed == [True] and len(listener.trainings) == 6 - stop_after
        assert result.readings == 1
        keys = [(run.architecture, run.recipe, run.seed) for run in finals(records)]
        assert len(keys) == len(set(keys)) == 6


def runs_read(records: Records, result: FinalResult) -> list[Run]:
    read = {run for final, run, _ in readings(records) if final == result.number}
    return [run for run in finals(records) if run.id in read]


def test_a_final_trains_the_winner_longer_than_it_was_chosen_by(database: Path) -> None:
    with opened(database) as records:
        listener = Listener()
        result = run_final(records, listener, final_epochs=3)
        assert result.winner is not None and result.protocol.final_epochs == 3
        assert result.winner.long_recipe == final_recipe(
            study_specification(records, "s").recipes, 3, result.winner.run.params
        )
        tested = runs_read(records, result)
        assert [run.recipe for run in tested] == [result.winner.long_recipe] * 2
        assert [run.epochs_done for run in tested] == [3, 3]
        assert {run.recipe.epochs for run in finals(records) if run.seed < FIRST_TEST_SEED} == {2}
        assert result.shipped_run in {run.id for run in tested}
        assert [training.epochs for training in listener.trainings] == [2] * 4 + [3] * 2
        assert {training.total for training in listener.trainings} == {6}
        (planned,) = listener.long
        assert (planned.epochs, planned.seeds, planned.networks) == (3, 2, 1)
        assert planned.seconds is not None and planned.seconds > 0
        assert run_final(records, again := Listener(), protocol=None) == result and not again.trainings


def test_a_finished_final_is_trained_longer_from_its_record(database: Path) -> None:
    with opened(database) as records:
        first = run_final(records)
        listener = Listener()
        long = run_final(records, listener, protocol=None, final_epochs=3)
        assert [training.epochs for training in listener.trainings] == [3, 3]
        assert long.readings == 2 and any("on the test split before" in notice for notice in listener.notices)
        assert first.winner is not None and long.winner is not None and long.winner.run == first.winner.run
        assert long.protocol == PROTOCOL.model_copy(update={"final_epochs": 3})
        assert long.shipped_run != first.shipped_run
        assert final_result(records, "s") == run_final(records, Listener(), protocol=None) == long


@pytest.mark.parametrize("stop_after", [1, 5])
def test_a_stopped_final_resumes_with_its_long_trainings(database: Path, stop_after: int) -> None:
    with opened(database) as records:
        with pytest.raises(Interrupted):
            run_final(records, Listener(stop_after), final_epochs=3)
        listener = Listener()
        result = run_final(records, listener, protocol=None)
        assert listener.resumed == [True] and len(listener.trainings) == 6 - stop_after
        assert [run.epochs_done for run in runs_read(records, result)] == [3, 3]
        planned, left = listener.long[0].seconds, listener.trainings[0].seconds_left
        assert planned is not None and left is not None
        if stop_after == 5:
            assert planned == pytest.approx(left), "one run is missing"
        else:
            assert 0 < planned < left, "three short runs come before the long ones"


def test_the_time_left_follows_the_runs_that_have_ended(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(*arguments: Any) -> Timing:
        timing = time_steps(*arguments)
        assert timing.pace is not None
        return replace(timing, pace=Pace(timing.pace.macs_per_second / 1_000))

    monkeypatch.setattr("budgetnas.experiments.final.time_steps", too_slow)
    listener = Listener()
    with opened(database) as records:
        run_final(records, listener)
    first, second, *_ = (training.seconds_left for training in listener.trainings)
    assert first is not None and second is not None and second < first / 10


def test_a_stopped_final_without_a_test_reading_is_replaced_by_a_longer_final(database: Path) -> None:
    with opened(database) as records:
        with pytest.raises(Interrupted):
            run_final(records, Listener(5))
        listener = Listener()
        result = run_final(records, listener, final_epochs=3)
        assert listener.resumed == [False] and [training.epochs for training in listener.trainings] == [3, 3]
        assert result.readings == 1 and len(records.finals("s")) == 2 and len(readings(records)) == 2


@pytest.mark.slow
def test_a_final_killed_in_a_long_training_resumes_to_the_same_bits(database: Path, tmp_path: Path) -> None:
    options = ("--finalists", "1", "--final-seeds", "2", "--final-epochs", "40")
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "budgetnas.db").write_bytes(database.read_bytes())
    assert run(whole, "finish", "s", *options).returncode == 0
    killed = start(tmp_path, "finish", "s", *options, BUDGETNAS_CHECKPOINT_EVERY="0s")
    with killed, opened(database) as records:
        until = time.monotonic() + 120
        while not any(run.seed >= FIRST_TEST_SEED and len(records.curve(run.id)) > 2 for run in finals(records)):
            assert time.monotonic() < until and killed.poll() is None
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    resumed = run(tmp_path, "finish", "s")
    assert resumed.returncode == 0, resumed.stderr
    assert "40 epochs on train + validation" in resumed.stderr and "on train + validation" in resumed.stderr
    weights = []
    for file in (database, whole / "budgetnas.db"):
        with opened(file) as records:
            result = final_result(records, "s")
            assert result is not None and result.readings == 1
            weights.append([records.weights(run.id) for run in runs_read(records, result)])
    assert weights[0] == weights[1] and len(weights[0]) == 2


def test_the_first_of_two_equal_runs_counts(database: Path) -> None:
    with opened(database) as records:
        result = run_final(records)
        with records.engine.begin() as connection:
            names = ", ".join(column.name for column in tables.runs.columns if column.name != "id")
            connection.exec_driver_sql(f"INSERT INTO runs ({names}) SELECT {names} FROM runs WHERE role = 'final'")
        again = final_result(records, "s")
    assert again is not None and again.winner is not None and result.winner is not None
    assert again.winner.test == result.winner.test and again.shipped_run == result.shipped_run


def test_a_second_evaluation_on_the_test_split_warns_and_is_recorded(database: Path) -> None:
    with opened(database) as records:
        run_final(records)
        listener = Listener()
        result = run_final(records, listener, ChoiceProtocol(finalists=1, seeds=2))
        assert any("evaluated on the test split before" in notice for notice in listener.notices)
        assert result.readings == 2 and len({final for final, _, _ in readings(records)}) == 2


def test_another_search_makes_another_final(database: Path) -> None:
    with opened(database) as records:
        first = run_final(records)
    more = run(database.parent, "search", study_file(database.parent, study='"s"'), "--trials", "6")
    assert more.returncode == 0, more.stderr
    with opened(database) as records:
        listener = Listener()
        second = run_final(records, listener)
        assert second.number != first.number and second.readings == 2 and listener.notices


def test_the_protocol_of_a_study_cannot_change(tmp_path: Path) -> None:
    database = searched(tmp_path, "--finalists", "1", "--final-seeds", "2", trials="2")
    with opened(database) as records:
        recorded = final_result(records, "s")
        assert (
            recorded is not None
            and recorded.protocol == ChoiceProtocol(finalists=1, seeds=2)
            and recorded.readings == 1
        )
        assert run_final(records, protocol=None) == recorded
        with pytest.raises(InputError, match="with --finalists 1 --final-seeds 2"):
            run_final(records)
    again = run(tmp_path, "search", "--study", "s", "--finalists", "2")
    assert again.returncode == 2 and "--finalists" in again.stderr


def test_a_search_ends_with_long_trainings_announced_in_its_plan(tmp_path: Path) -> None:
    text = study_file(tmp_path, study='"s"', trials="2", final_seeds="2", final_epochs='"auto"')
    result = run(tmp_path, "search", text)
    assert result.returncode == 0, result.stderr
    plan = result.stderr
    assert "the winner is trained for 20 epochs on all training images" in plan
    assert "for the final, if its networks are typical" in plan
    assert "then the winner: 20 epochs on train + validation with the recipe for long trainings, 2 seeds each" in plan
    assert "long trainings: SGD" in result.stdout
    with opened(tmp_path / "budgetnas.db") as records:
        assert study_specification(records, "s").choice == ChoiceProtocol(seeds=2, final_epochs=20)
        recorded = final_result(records, "s")
        assert recorded is not None and recorded.protocol.final_epochs == 20
    again = run(tmp_path, "search", "--study", "s", "--final-epochs", "30")
    assert again.returncode == 2 and "--final-epochs was 20, now 30" in again.stderr
    assert "budgetnas finish s --final-epochs N" in again.stderr


def test_the_best_initial_trial_is_the_reference(tmp_path: Path) -> None:
    file = study_file(tmp_path, study='"s"', budget='"5M"', subset="60", subset_eval="60", epochs="1", trials="3")
    text = Path(file).read_text(encoding="utf-8").split("[space]")[0]
    Path(file).write_text(text + '\nseeds = ["v2-sgd", "v2-adam"]\n', encoding="utf-8")
    result = run(tmp_path, "search", file, "--sampler", "random", "--finalists", "1", "--final-seeds", "2", "--json")
    assert result.returncode == 0, result.stderr
    with opened(tmp_path / "budgetnas.db") as records:
        final = final_result(records, "s")
        assert final is not None and final.reference is not None and final.winner is not None
        assert final.reference.run.label in ("v2-sgd", "v2-adam")
        assert len(readings(records)) == (2 if final.winner == final.reference else 4)
        if final.winner != final.reference:
            assert final.difference == difference_interval(final.winner.test, final.reference.test)


def test_a_plan_takes_distinct_candidates_by_smoothed_score(database: Path) -> None:
    with opened(database) as records:
        stored = study_specification(records, "s")
        runs = [run for run in records.runs(study="s") if run.state is State.COMPLETE]
        repeated = [*runs, runs[0]]
        accuracies = [0.9, *[0.5] * (len(runs) - 1), 0.1]
        trained = [Trained(run.candidate, accuracy) for run, accuracy in zip(repeated, accuracies, strict=True)]
        plan = plan_final(repeated, trained, ChoiceProtocol(finalists=4, seeds=2), stored)
        assert len({finalist.run for finalist in plan.finalists}) == len(plan.finalists) == len(runs)
        assert [finalist.score for finalist in plan.finalists] == sorted(
            (finalist.score for finalist in plan.finalists), reverse=True
        )
        assert plan.reference is None


def test_an_initial_trial_outside_the_finalists_enters_as_the_reference(records: Records) -> None:
    inputs = InputShape(in_channels=3, size=32, classes=10)
    runs = [_recorded(records, seed, inputs) for seed in ("v1-sgd", "v2-sgd")]
    trained = [Trained(run.candidate, accuracy) for run, accuracy in zip(runs, (0.5, 0.8), strict=True)]
    plan = plan_final(runs, trained, ChoiceProtocol(finalists=1, seeds=2), specification())
    assert [entrant.run for entrant in plan.entrants] == [runs[1].id] and plan.reference == plan.finalists[0]


def _recorded(records: Records, seed: str, inputs: InputShape) -> Run:
    candidate = initial_candidate(seed, RecipeSpace(epochs=1), inputs)
    key = RunKey(*candidate.key, "d", 0, Role.SEARCH)
    number = records.start_run(
        key=key,
        architecture=candidate.architecture,
        recipe=candidate.recipe,
        data="{}",
        environment="{}",
        study="s",
        label=seed,
    )
    records.finish_run(number, State.COMPLETE)
    return records.run(number)


def test_finish_prints_one_json_value(database: Path) -> None:
    result = run(database.parent, "finish", "s", "--finalists", "2", "--final-seeds", "2", "--json")
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    values = value["winner"]["test"]
    assert value["winner"]["test_mean"] == pytest.approx(statistics.fmean(values))
    assert value["winner"]["test_sd"] == pytest.approx(statistics.stdev(values))
    assert value["readings"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing"),
        (["s", "--finalists", "0"], "--finalists 0"),
        (["s", "--final-seeds", "1"], "--final-seeds 1"),
        (["s", "--final-epochs", "0"], "--final-epochs '0': must be auto or a whole number from 1 to 10,000"),
        (["s", "--final-epochs", "many"], "--final-epochs 'many'"),
    ],
)
def test_bad_input_is_one_line(database: Path, arguments: list[str], message: str) -> None:
    result = run(database.parent, "finish", *arguments)
    assert result.returncode == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1


def test_damaged_weights_are_an_error(records: Records) -> None:
    run_of = _recorded(records, "v2-sgd", InputShape(in_channels=3, size=32, classes=10))
    records.save_weights(run_of.id, b"weights")
    assert records.weights(run_of.id) == b"weights"
    with records.engine.begin() as connection:
        connection.execute(tables.weights.update().values(tensors=b"wEights"))
    with pytest.raises(BudgetnasError, match="damaged"):
        records.weights(run_of.id)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(BudgetnasError, match="do not fit"):
        from_safetensors(named("v1"), to_safetensors(build(named("v2"), seed=0)))


def test_a_final_that_is_stopped_shows_no_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://me:secret@host/db"
    monkeypatch.setattr("sys.argv", ["budgetnas", "search", "--storage", url, "--finalists", "2"])
    print_stopped(url, "Every finished epoch of the final is saved.")
    err = capsys.readouterr().err
    assert "budgetnas search --storage" in err and "secret" not in err
