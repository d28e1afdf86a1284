from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
from quiet import Quiet
from small import STUDY as STUDY_TEXT
from small import study_file

from budgetnas.cli import app
from budgetnas.data import DataIdentity
from budgetnas.errors import InputError
from budgetnas.experiments.compare import CompareOutcome, ComparePlan, CompareRequest, CompareStep, compare
from budgetnas.experiments.comparison import (
    OPTIMIZERS,
    Attempt,
    Comparison,
    Pair,
    Side,
    conclusion,
    make_design,
    spread_rates,
    to_dict,
)
from budgetnas.report.tables import study_tables
from budgetnas.runs.interrupts import Stopper
from budgetnas.space.recipe import OptimizerRange, RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import Records, Role, State
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import RuntimeConfig

CPU = RuntimeConfig("cpu", "float32", threads=1)
STUDY = "digits-6k"
DATA = DataIdentity(name="cifar10", content_hash="0" * 64, subset=None, subset_eval=None, split_seed=0, resolution=32)
SPECIFICATION = StudySpecification(
    max_params=5_000_000,
    space={},
    recipes=RecipeSpace(epochs=7, batch=64),
    data=DATA,
    inputs=InputShape(in_channels=3, size=32, classes=10),
)


# The design


def test_rates_are_centres_of_equal_parts_on_a_log_scale() -> None:
    space = RecipeSpace()
    assert spread_rates(space, "sgd", 1) == (pytest.approx(math.sqrt(0.01 * 0.5), rel=1e-5),)
    assert spread_rates(space, "sgd", 3) == pytest.approx((0.0191938, 0.0707107, 0.260500), rel=1e-5)
    assert spread_rates(space, "adam", 3) == pytest.approx((10**-3.5, 10**-2.5, 10**-1.5), rel=1e-5)


def test_a_range_too_narrow_for_the_rates_is_refused() -> None:
    one = RecipeSpace(adam=OptimizerRange(learning_rate=(0.01, 0.01), weight_decay=(0.0,)))
    assert spread_rates(one, "adam", 1) == (0.01,)
    with pytest.raises(
        InputError, match=r"--rates 2: the study's range of Adam's learning rate, 0\.01 to 0\.01, .*--rates 1"
    ):
        spread_rates(one, "adam", 2)


def test_optimisers_differ_only_in_rate_and_weight_decay() -> None:
    design = make_design(SPECIFICATION, architectures=4, rates=2, seed=1)
    assert len(design.sgd) == len(design.adam) == 2
    assert design.trainings == 4 * 2 * 3
    for entrant in design.entrants:
        sgd, adam = (design.candidate(entrant, optimizer, 0.05) for optimizer in OPTIMIZERS)
        assert sgd.architecture == adam.architecture == entrant.architecture
        assert (sgd.recipe.weight_decay, adam.recipe.weight_decay) == (5e-4, 0.0)
        assert (sgd.recipe.epochs, sgd.recipe.t_max, sgd.recipe.batch) == (7, 7, 64)
        same = {"optimizer": "adam", "weight_decay": 0.0}
        assert sgd.recipe.model_copy(update=same) == adam.recipe


def test_the_reports_networks_come_first_where_they_fit() -> None:
    entrants = make_design(SPECIFICATION, architectures=4, rates=1, seed=1).entrants
    assert [entrant.name for entrant in entrants] == ["v1", "v2", "drawn 1", "drawn 2"]
    assert [entrant.params for entrant in entrants[:2]] == [4_903_242, 1_891_658]
    small = SPECIFICATION.model_copy(update={"max_params": 2_000_000})
    assert [entrant.name for entrant in make_design(small, architectures=2, rates=1, seed=1).entrants] == [
        "v2",
        "drawn 1",
    ]
    tiny = SPECIFICATION.model_copy(update={"max_params": 100_000})
    drawn = make_design(tiny, architectures=6, rates=1, seed=1).entrants
    assert len({item.architecture for item in drawn}) == 6
    assert all(item.params <= 100_000 for item in drawn)


def test_a_larger_design_contains_the_smaller_one() -> None:
    few = make_design(SPECIFICATION, architectures=3, rates=1, seed=4).entrants
    many = make_design(SPECIFICATION, architectures=6, rates=3, seed=4).entrants
    assert many[:3] == few
    assert make_design(SPECIFICATION, architectures=3, rates=1, seed=5).entrants[2] != few[2]
    seeds = [seed for item in many for seed in (item.tried_seed, item.fresh_seed)]
    assert len(set(seeds)) == 12, "no architecture shares an order of images with another"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": 1}, "--architectures 1: must be a whole number from 2 to 100"),
        ({"rates": 0}, "--rates 0: must be a whole number from 1 to 20"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_design(SPECIFICATION, **({"architectures": 2, "rates": 1, "seed": 0} | changes))


def test_a_space_with_too_few_architectures_is_refused() -> None:
    space = SearchSpace(blocks=((1, 1),), widths=(8, 10))
    with pytest.raises(InputError, match=r"--architectures 3: only 2 architectures within 5M were found"):
        make_design(SPECIFICATION.model_copy(update={"space": space}), architectures=3, rates=1, seed=0)


# The estimate


def side(*tried: float | None, again: float | None = None) -> Side:
    """A side whose rates are 0.1, 0.2, ...; none stands for a loss that was not finite."""
    attempts = tuple(
        Attempt(round(0.1 * place, 1), place, accuracy, "" if accuracy is not None else "nan", accuracy is None)
        for place, accuracy in enumerate(tried, start=1)
    )
    made = Side(attempts)
    return made if again is None or made.best is None else replace(made, again=Attempt(made.best.rate, 9, again))


def comparison(*pairs: tuple[Side, Side]) -> Comparison:
    design = make_design(SPECIFICATION, architectures=max(2, len(pairs)), rates=1, seed=0)
    return Comparison(design, tuple(Pair(one, *both) for one, both in zip(design.entrants, pairs, strict=False)))


def test_the_best_rate_is_the_most_accurate_then_the_lowest() -> None:
    assert [side(*tried).best for tried in ((0.1, 0.3, 0.2), (0.1, 0.3, 0.3), (None, 0.0), (None, None))] == [
        Attempt(0.2, 2, 0.3),
        Attempt(0.2, 2, 0.3),
        Attempt(0.2, 2, 0.0),
        None,
    ]


def test_a_failure_for_another_reason_than_the_rate_leaves_no_best() -> None:
    broken = Side((Attempt(0.1, 1, 0.5), Attempt(0.2, 2, None, "memory ran out")))
    assert broken.best is None
    assert broken.missing() == "rate 0.2 failed: memory ran out"


def test_the_interval_is_of_the_fresh_differences_by_hand() -> None:
    fresh = [(0.50, 0.45), (0.60, 0.58), (0.40, 0.43), (0.55, 0.47)]
    found = comparison(*((side(0.9, again=sgd), side(0.2, again=adam)) for sgd, adam in fresh))
    differences = [0.05, 0.02, -0.03, 0.08]
    reach = 3.182446 * stdev(differences) / 2  # Student's 97.5 % point with 3 degrees of freedom; the root of 4 is 2
    assert found.differences == pytest.approx(differences)
    assert found.interval is not None
    assert (found.interval.estimate, found.interval.n) == (pytest.approx(fmean(differences)), 4)
    assert found.interval.low == pytest.approx(0.03 - reach, abs=1e-6)
    assert found.interval.high == pytest.approx(0.03 + reach, abs=1e-6)
    text = " ".join(conclusion(found))
    assert "+3.00 points" in text
    assert f"{200 * reach:.2f} points wide" in text
    assert "does not show which of the two is better" in text


def test_an_interval_without_0_names_the_better_optimiser() -> None:
    found = comparison(*((side(0.5, again=0.5), side(0.5, again=adam)) for adam in (0.6, 0.61, 0.62)))
    assert "here Adam is better on average" in " ".join(conclusion(found))


def test_a_pair_without_accuracy_is_dropped_with_its_reason() -> None:
    full = side(0.5, again=0.5), side(0.4, again=0.4)
    found = comparison(full, (side(None), side(0.4, again=0.4)), full)
    assert [pair.why_dropped for pair in found.dropped] == ["SGD: every rate diverged"]
    assert found.interval is not None
    assert found.interval.n == 2
    alone = comparison(full, (side(None), side(0.4, again=0.4)))
    assert (alone.interval, list(conclusion(alone))) == (None, ["1 pair left; the interval needs at least 2."])


def test_there_is_no_interval_before_the_end() -> None:
    full = side(0.5, again=0.5), side(0.4, again=0.4)
    design = make_design(SPECIFICATION, architectures=3, rates=1, seed=0)
    part = Comparison(design, comparison(full, full).pairs)
    assert (part.finished, part.interval) == (False, None)
    assert "2 of 3 architectures" in conclusion(part)[0]


def test_a_best_rate_at_the_edge_is_reported() -> None:
    found = comparison(
        (side(0.1, 0.5, 0.3, again=0.5), side(0.1, 0.2, 0.3, again=0.3)),
        (side(0.1, 0.5, 0.3, again=0.4), side(0.1, 0.4, 0.3, again=0.3)),
    )
    assert "the lowest or the highest for 1 of 2 architectures with Adam:" in conclusion(found)[-1]


# Real trainings


@dataclass
class View(Quiet):
    """Keeps its calls, and sends a real signal after a number of runs."""

    stop_after: int = -1
    plans: list[ComparePlan] = field(default_factory=list)
    started: list[CompareStep] = field(default_factory=list)
    ended: list[tuple[Attempt, bool]] = field(default_factory=list)

    def on_compare_start(self, plan: ComparePlan) -> None:
        self.plans.append(plan)

    def on_compare_run(self, step: CompareStep) -> None:
        self.started.append(step)

    def on_compare_run_end(self, step: CompareStep, attempt: Attempt, *, known: bool) -> None:
        self.ended.append((attempt, known))
        if len(self.ended) == self.stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    def on_pair_end(self, pair: Pair) -> None:
        pass


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BUDGETNAS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


Compared = Callable[..., tuple[CompareOutcome, View]]


@pytest.fixture
def records(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Records]:
    """Records of a study with one trial; a parameter changes its study file."""
    changes = {"trials": "1", "text": STUDY_TEXT} | getattr(request, "param", {})
    assert app.main(["search", study_file(tmp_path, **changes)]) == 0
    opened = open_records(parse_storage("sqlite:///budgetnas.db"), must_exist=True)
    yield opened
    opened.close()


def compared(
    records: Records, architectures: int = 2, rates: int = 1, stop_after: int = -1
) -> tuple[CompareOutcome, View]:
    stopper, view = Stopper(), View(stop_after)
    with stopper.listening():
        outcome = compare(CompareRequest(STUDY, architectures, rates), CPU, lambda: records, stopper, view)
    return outcome, view


def states(records: Records) -> list[State]:
    return [run.state for run in records.runs(study=STUDY, role=Role.COMPARE)]


def test_every_training_of_the_design_is_made_and_recorded_once(records: Records) -> None:
    before = study_tables(records, STUDY).to_dict()
    outcome, view = compared(records, architectures=2, rates=2)
    assert (outcome.exit_code, outcome.comparison.finished) == (0, True)
    assert view.plans[0].missing == 12
    assert states(records) == [State.COMPLETE] * 12
    runs = records.runs(study=STUDY, role=Role.COMPARE)
    assert {run.trial for run in runs} == {None}
    assert sorted({run.label.split()[0] for run in runs}) == ["adam", "sgd"]
    assert sum(records.test_readings(run.id) for run in runs) == 0, "the test split is never read"
    for pair in outcome.comparison.pairs:
        mine = [run for run in runs if run.architecture == pair.entrant.architecture]
        for optimizer in OPTIMIZERS:
            one = pair.side(optimizer)
            assert one.best is not None
            assert one.again is not None
            again = records.run(one.again.run)
            assert (again.seed, again.recipe.learning_rate) == (pair.entrant.fresh_seed, one.best.rate)
            assert again.label.endswith(" again")
            assert records.curve(again.id)[-1].eval_accuracy == one.accuracy
        tried = {run.recipe.optimizer: run.seed for run in mine if not run.label.endswith(" again")}
        assert tried == dict.fromkeys(OPTIMIZERS, pair.entrant.tried_seed), "paired: the same seed"
    assert study_tables(records, STUDY).to_dict() == before, "neither ranking nor tallies know of it"


def test_a_stopped_comparison_resumes_and_repeats_no_run(records: Records) -> None:
    stopped, first = compared(records, rates=2, stop_after=5)
    assert (stopped.exit_code, stopped.comparison.finished, len(first.started)) == (130, False, 5)
    resumed, second = compared(records, rates=2)
    assert (resumed.exit_code, second.plans[0].missing, len(second.started)) == (0, 7, 7)
    whole, third = compared(records, rates=2)
    assert (third.plans[0].missing, third.started, third.plans[0].seconds) == (0, [], None)
    assert to_dict(whole.comparison) == to_dict(resumed.comparison)
    assert len(records.runs(study=STUDY, role=Role.COMPARE)) == 12


WILD = {
    "subset": "100",
    "epochs": "4",
    "batch": "2",
    "text": f"""{STUDY_TEXT}
[recipe]
momentum = 0.999
optimizers = ["sgd"]

[recipe.sgd]
learning_rate = [90.0, 100.0]
weight_decay = [0.0]
""",
}


@pytest.mark.parametrize("records", [WILD], indirect=True)
def test_a_diverged_rate_affects_only_its_pair(records: Records) -> None:
    outcome, view = compared(records, rates=1)
    assert view.notices == ["the study does not search Adam; its rates are taken from 0.0001 to 0.1"]
    failed = [attempt for attempt, _ in view.ended if attempt.accuracy is None]
    assert failed, "a rate of 95 with this momentum goes beyond all numbers"
    assert all(attempt.diverged and "loss is" in attempt.reason for attempt in failed)
    assert states(records).count(State.FAILED) == len(failed)
    assert outcome.comparison.finished
    assert all(pair.adam.accuracy is not None for pair in outcome.comparison.pairs), "Adam was trained all the same"
    assert len(outcome.comparison.dropped) == len(failed)
    assert (outcome.exit_code, outcome.comparison.interval) == (1, None)
    again, resumed = compared(records, rates=1)
    assert resumed.started == [], "what diverged would diverge again"
    assert to_dict(again.comparison) == to_dict(outcome.comparison)


# The command


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = app.main(["compare", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_prints_a_table_and_its_interval_and_json(
    records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (STUDY, "--architectures", "2", "--rates", "1", "--device", "cpu", "--precision", "float32")
    code, out, err = called(capsys, *options)
    assert code == 0, err
    for text in ("drawn 1", "drawn 2", "0.0707", "0.00316", "SGD minus Adam", "95 % interval", "n = 2 architectures"):
        assert text in out
    assert "8 runs, 0 of them recorded already" in err
    assert "run 8/8" in err
    code, out, err = called(capsys, *options, "--json")
    assert code == 0
    assert "8 of them recorded already" in err
    value = json.loads(out)
    assert (value["study"], value["finished"], value["epochs"]) == (STUDY, True, 2)
    differences = [pair["sgd"]["accuracy"] - pair["adam"]["accuracy"] for pair in value["pairs"]]
    assert [pair["difference"] for pair in value["pairs"]] == pytest.approx(differences)
    assert value["interval"]["estimate"] == pytest.approx(fmean(differences))
    assert value["interval"]["width"] == pytest.approx(value["interval"]["high"] - value["interval"]["low"])

    code, out, err = called(capsys, STUDY, "--rates", "2", "--timeout", "0.01s", "--json")
    assert (code, json.loads(out)["finished"], json.loads(out)["interval"]) == (0, False, None)
    assert "Resume with:" in err

    for arguments, message in (
        (("digits-7k",), "STUDY 'digits-7k': is not in this storage; its studies: digits-6k"),
        ((STUDY, "--architectures", "1"), "--architectures 1: must be a whole number from 2 to 100"),
        ((STUDY, "--rates", "21"), "--rates 21: must be a whole number from 1 to 20"),
        ((STUDY, "--seed", "-1"), "--seed -1"),
        ((STUDY, "--timeout", "soon"), "--timeout 'soon'"),
        ((STUDY, "--data", "cifar"), "--data 'cifar'"),
        ((STUDY, "--storage", "other.db"), "there is no such database"),
    ):
        code, out, err = called(capsys, *arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err.splitlines()[-1]
    assert len(records.runs(study=STUDY, role=Role.COMPARE)) <= 9, "bad input trains nothing"
