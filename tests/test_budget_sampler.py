"""The budget sampler as a sampler of Optuna: its own tests of samplers, and studies as a user makes them."""

from __future__ import annotations

import ast
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
from optuna.trial import Trial, TrialState, create_trial

from budgetnas.samplers.budget_sampler import BudgetSampler
from budgetnas.samplers.budget_sampler.encoding import Ranges
from budgetnas.samplers.budget_sampler.model import ValueModel
from budgetnas.samplers.budget_sampler.observed import Observed, Training, observe
from budgetnas.samplers.budget_sampler.pool import Pool
from budgetnas.samplers.budget_sampler.sampler import _expected_of_waiting

WIDTHS = ("a", "b", "c")
SPACE: dict[str, BaseDistribution] = {name: IntDistribution(1, 8) for name in WIDTHS}
LIMIT = 60.0


def cost(params: dict[str, Any]) -> float:
    return float(sum(params[name] ** 2 for name in WIDTHS))


def value(params: dict[str, Any]) -> float:
    """What a candidate is worth: the more of `a` the better, of which it costs as much as of the others."""
    return float(3 * np.log(params["a"]) + 2 * np.log(params["b"]) + 0.5 * np.log(params["c"]))


def noisy(seed: int, sign: float = 1.0) -> Callable[[Trial], float]:
    generator = np.random.default_rng(seed)

    def objective(trial: Trial) -> float:
        params = {name: trial.suggest_int(name, 1, 8) for name in WIDTHS}
        return sign * (value(params) + generator.normal(0, 0.3))

    return objective


def searched(seed: int, trainings: int = 30, sign: float = 1.0, **changes: Any) -> tuple[BudgetSampler, optuna.Study]:
    asked = {"n_trainings": trainings, "cost": cost, "limit": LIMIT, "search_space": SPACE, "seed": seed} | changes
    sampler = BudgetSampler(**asked)
    study = optuna.create_study(direction="maximize" if sign > 0 else "minimize", sampler=sampler)
    study.optimize(noisy(seed, sign), n_trials=trainings)
    return sampler, study


class TestBudgetSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: BudgetSampler(n_trainings=10, cost=lambda _: 1.0, limit=2.0, seed=0)


def test_every_proposal_keeps_the_limit_and_the_best_few_are_repeated() -> None:
    sampler, study = searched(1, 40)
    assert all(cost(trial.params) <= LIMIT for trial in study.trials)
    times = Counter(tuple(sorted(trial.params.items())) for trial in study.trials)
    assert 5 <= len(times) < 40
    taken = tuple(sorted(sampler.recommend(study).params.items()))
    assert times[taken] > 1, "what is recommended was trained again"


def test_it_finds_better_candidates_than_random_draws() -> None:
    best = max(
        value({"a": a, "b": b, "c": c})
        for a in range(1, 9)
        for b in range(1, 9)
        for c in range(1, 9)
        if cost({"a": a, "b": b, "c": c}) <= LIMIT
    )
    ours, theirs = [], []
    for seed in range(8):
        sampler, study = searched(seed, 20)
        ours.append(best - value(sampler.recommend(study).params))
        generator = np.random.default_rng(seed)
        drawn = [dict(zip(WIDTHS, map(int, row), strict=True)) for row in generator.integers(1, 9, (400, 3))]
        fitting = [one for one in drawn if cost(one) <= LIMIT][:20]
        theirs.append(best - value(max(fitting, key=lambda one: value(one) + generator.normal(0, 0.3))))
    assert np.mean(ours) < 0.5 * np.mean(theirs)


def test_a_study_that_minimises_is_the_mirror_image_of_one_that_maximises() -> None:
    _, up = searched(3, 15)
    _, down = searched(3, 15, sign=-1.0)
    assert [one.params for one in up.trials] == [one.params for one in down.trials]


def test_the_same_seed_makes_the_same_study() -> None:
    assert [one.params for one in searched(4)[1].trials] == [one.params for one in searched(4)[1].trials]


def test_without_a_search_space_the_first_trial_takes_the_lowest_of_each_range() -> None:
    _, study = searched(5, 12, search_space=None)
    assert study.trials[0].params == dict.fromkeys(WIDTHS, 1)
    assert all(cost(trial.params) <= LIMIT for trial in study.trials)


def test_without_a_search_space_a_first_training_that_fails_is_not_proposed_for_ever() -> None:
    study = optuna.create_study(sampler=BudgetSampler(n_trainings=9, cost=cost, limit=LIMIT, seed=0))
    for _ in range(4):
        trial = study.ask()
        noisy(0)(trial)
        study.tell(trial, state=TrialState.FAIL)
    assert study.trials[0].params == dict.fromkeys(WIDTHS, 1)
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 4


def test_it_continues_a_study_that_another_sampler_began() -> None:
    _, study = searched(6, 12)
    study.sampler = BudgetSampler(n_trainings=20, cost=cost, limit=LIMIT, seed=7)
    study.optimize(noisy(7), n_trials=8)
    assert all(cost(trial.params) <= LIMIT for trial in study.trials)


def test_several_threads_share_a_study() -> None:
    sampler = BudgetSampler(n_trainings=20, cost=cost, limit=LIMIT, search_space=SPACE, seed=8)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(noisy(8), n_trials=20, n_jobs=3)
    assert [one.state for one in study.trials] == [TrialState.COMPLETE] * 20
    assert all(cost(trial.params) <= LIMIT for trial in study.trials)


def test_a_trial_that_has_not_ended_is_not_proposed_again_at_once() -> None:
    sampler, study = searched(9, 14, n_trainings=40)
    asked = [study.ask() for _ in range(5)]
    proposed = [tuple(trial.suggest_int(name, 1, 8) for name in WIDTHS) for trial in asked]
    assert len(set(proposed)) > 2
    del sampler


def test_a_repeat_in_progress_is_expected_to_end_like_its_candidate() -> None:
    ranges, study = Ranges(SPACE), optuna.create_study(direction="maximize")
    trained = [{"a": a, "b": b, "c": 1} for a in (1, 4, 7) for b in (1, 5)]
    for params in [*trained, trained[0], trained[0]]:
        study.add_trial(create_trial(params=params, distributions=SPACE, value=value(params) + 3 * (params["a"] == 1)))
    for params in (trained[0], {"a": 2, "b": 2, "c": 2}):
        study.enqueue_trial(params)
        noisy(0)(study.ask())
    observed = observe(study, ranges, lambda _: True)
    model = ValueModel.of(ranges, cost, {}, random.Random(0))
    belief = model.posterior(observed)
    repeated, fresh = _expected_of_waiting(model, observed, belief)
    assert repeated == belief.trained()[0] != belief.untrained(model.rows([trained[0]]))[0]
    assert fresh == belief.untrained(model.rows(observed.waiting))[1]


def test_parameters_of_some_trials_only_are_kept_when_a_candidate_is_repeated() -> None:
    sampler = BudgetSampler(n_trainings=40, cost=cost, limit=LIMIT, search_space=SPACE, seed=10)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    objective = noisy(10)

    def conditional(trial: Trial) -> float:
        result = objective(trial)
        if trial.params["a"] > 3:
            result -= abs(trial.suggest_float("rate", 0.0, 1.0) - 0.5)
        return result

    study.optimize(conditional, n_trials=40)
    times = Counter(tuple(sorted(trial.params.items())) for trial in study.trials)
    repeated = [dict(params) for params, number in times.items() if number > 1]
    assert any("rate" in params for params in repeated)
    assert sampler.recommend(study).params in [dict(params) for params in times]


def test_the_example_of_the_docs_runs_and_finds_what_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "samplers.md").read_text()
    example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    found: dict[str, Any] = {}
    exec(example, found)
    named = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])
    assert found["parameters"](named) <= 100_000
    assert all(found["parameters"](trial.params) <= 100_000 for trial in found["study"].trials)
    error = np.mean([found["train"](named, seed) for seed in range(1000, 1400)])
    best = 20 - 2 * np.log(104)  # at a depth of 1: of all that keep the limit, without noise
    assert error < best + 0.5


KINDS: dict[str, BaseDistribution] = {
    **SPACE,
    "kind": CategoricalDistribution(("slow", "fast")),
    "slow_rate": FloatDistribution(1e-3, 1.0, log=True),
    "fast_rate": FloatDistribution(1e-4, 1e-1, log=True),
    "fast_extra": IntDistribution(0, 3),
}
OF_KIND = {"slow_rate": ("kind", ("slow",)), "fast_rate": ("kind", ("fast",)), "fast_extra": ("kind", ("fast",))}


def test_parameters_with_conditions_are_proposed_together_with_the_others() -> None:
    """The rate must be near 0.1; the value falls by one for each factor of ten beside it."""
    generator = np.random.default_rng(0)

    def objective(trial: Trial) -> float:
        params = {name: trial.suggest_int(name, 1, 8) for name in WIDTHS}
        kind = trial.suggest_categorical("kind", ("slow", "fast"))
        if kind == "slow":
            rate = trial.suggest_float("slow_rate", 1e-3, 1.0, log=True)
        else:
            rate = trial.suggest_float("fast_rate", 1e-4, 1e-1, log=True)
            trial.suggest_int("fast_extra", 0, 3)
        return value(params) - 2.0 * float(np.log10(rate / 0.1)) ** 2 + generator.normal(0, 0.2)

    study = searched_by(objective, n_trainings=50, conditions=OF_KIND, search_space=KINDS)
    for trial in study.trials:
        own = {"slow_rate"} if trial.params["kind"] == "slow" else {"fast_rate", "fast_extra"}
        assert trial.params.keys() == {*WIDTHS, "kind", *own}
        assert cost(trial.params) <= LIMIT
    rates = [trial.params.get("slow_rate", trial.params.get("fast_rate")) for trial in study.trials[-20:]]
    assert np.median(np.abs(np.log10(np.array(rates) / 0.1))) < 0.35
    assert max(Counter(tuple(sorted(trial.params.items())) for trial in study.trials).values()) > 1


RATE: dict[str, BaseDistribution] = {**SPACE, "rate": FloatDistribution(1e-3, 1.0, log=True)}


def design(seed: int, planned: int, size: int) -> list[dict[str, Any]]:
    """The first `size` candidates of a search; a rate of ten times 0.05, or a tenth of it, costs a value of 4."""
    generator = np.random.default_rng(seed)
    sampler = BudgetSampler(n_trainings=planned, cost=cost, limit=LIMIT, search_space=RATE, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(size):
        trial = study.ask(RATE)
        off = float(np.log10(trial.params["rate"] / 0.05))
        study.tell(trial, value(trial.params) - 4.0 * off**2 + generator.normal(0, 0.3))
    return [trial.params for trial in study.trials]


def test_a_small_design_takes_large_candidates_and_every_design_rates_inside_their_range() -> None:
    """With five coefficients, a design of 4 trainings is small and that of 10 is not."""
    small, large = ([params for seed in range(6) for params in design(seed, *sizes)] for sizes in ((10, 4), (40, 10)))
    assert all(5e-3 < params["rate"] < 0.2 for params in [*small, *large])
    assert min(map(cost, small)) > min(map(cost, large)), "only the longer design tries small candidates"


def searched_by(objective: Callable[[Trial], float], **changes: Any) -> optuna.Study:
    sampler = BudgetSampler(**{"cost": cost, "limit": LIMIT, "seed": 0} | changes)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=changes["n_trainings"])
    return study


@pytest.mark.parametrize("conditions", [{"rate": ("kind", (1,))}, {"a": ("kind", (1,))}])
def test_a_condition_is_about_parameters_of_the_search_space(conditions: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"conditions: .* must be a parameter of the search space"):
        BudgetSampler(n_trainings=5, cost=cost, limit=LIMIT, search_space=SPACE, conditions=conditions)


def test_a_condition_can_depend_on_a_conditional_parameter() -> None:
    ranges = Ranges({name: CategoricalDistribution((0, 1)) for name in "abc"}, {"b": ("a", (1,)), "c": ("b", (1,))})
    assert ranges.names({"a": 1, "b": 1}) == ("a", "b", "c")
    assert ranges.names({"a": 0, "b": 1, "c": 1}) == ("a",)
    assert ranges.of({"a": 0, "b": 1, "c": 1, "d": 1}) == {"a": 0}
    assert not ranges.complete({"a": 1})
    assert ranges.complete({"a": 1, "b": 0})


def test_a_small_space_is_listed_and_a_candidate_is_in_it_once() -> None:
    ranges = Ranges({"a": IntDistribution(1, 4), "b": CategoricalDistribution(("x", "y", "z"))}, {"b": ("a", (2, 3))})
    drawn = Pool(ranges, lambda params: params["a"], 3, random.Random(0)).draw()
    assert sorted(tuple(one.values()) for one in drawn) == [(1,), *((a, b) for a in (2, 3) for b in "xyz")]


def test_pruned_and_failed_trials_are_accepted() -> None:
    sampler = BudgetSampler(n_trainings=24, cost=cost, limit=LIMIT, search_space=SPACE, seed=11)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    objective = noisy(11)

    def flaky(trial: Trial) -> float:
        result = objective(trial)
        if trial.number % 5 == 1:
            trial.report(result, 1)
            raise optuna.TrialPruned
        if trial.number % 5 == 2:
            raise RuntimeError("a training that came to nothing")
        return -1e6 if trial.number % 5 == 3 else result

    study.optimize(flaky, n_trials=24, catch=(RuntimeError,))
    assert sampler.recommend(study).state is TrialState.COMPLETE
    assert sampler.recommend(study).value != -1e6


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinite_result_counts_as_a_failed_training(direction: str, value: float) -> None:
    sampler = BudgetSampler(n_trainings=20, cost=cost, limit=LIMIT, search_space=SPACE, seed=5)
    study = optuna.create_study(direction=direction, sampler=sampler)
    objective = noisy(5)
    study.optimize(lambda trial: value if trial.number == 3 else objective(trial), n_trials=20)
    later = {tuple(trial.params.items()) for trial in study.trials[9:]}
    assert len(later) > 3
    assert sampler.recommend(study).number != 3


@pytest.mark.parametrize("seed", range(4))
def test_it_leaves_a_region_in_which_every_training_fails(seed: int) -> None:
    """Where it expects the best candidates, the loss is not finite: with a failure it proposes something else."""
    sampler = BudgetSampler(n_trainings=24, cost=cost, limit=LIMIT, search_space=SPACE, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    objective = noisy(seed)

    def diverging(trial: Trial) -> float:
        result = objective(trial)
        if trial.params["a"] >= 6:
            raise RuntimeError("the loss is not finite")
        return result

    study.optimize(diverging, n_trials=24, catch=(RuntimeError,))
    failed = [trial.state is TrialState.FAIL for trial in study.trials]
    in_a_row = max(len(list(group)) if has_failed else 0 for has_failed, group in itertools.groupby(failed))
    assert 0 < sum(failed) < 10
    assert in_a_row <= 3
    candidates = [tuple(trial.params.items()) for trial in study.trials if trial.state is TrialState.FAIL]
    assert len(set(candidates)) == len(candidates), "a candidate that failed is not proposed again"
    assert sampler.recommend(study).params["a"] == 5


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_failures_before_three_trainings_are_complete_are_followed_by_the_design(seed: int) -> None:
    """Half of the rates fail, the middle one too; a search ends after five failures in a row."""
    space = SPACE | {"rate": FloatDistribution(1e-3, 1.0, log=True)}
    sampler = BudgetSampler(n_trainings=10, cost=cost, limit=LIMIT, search_space=space, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    objective = noisy(seed)

    def diverging(trial: Trial) -> float:
        result, rate = objective(trial), trial.suggest_float("rate", 1e-3, 1.0, log=True)
        if rate > 0.03:
            raise RuntimeError("the loss is not finite")
        return result - 2 * abs(np.log10(rate / 0.01))

    study.optimize(diverging, n_trials=20, catch=(RuntimeError,))
    failed = [trial.state is TrialState.FAIL for trial in study.trials]
    assert max(len(list(group)) if has_failed else 0 for has_failed, group in itertools.groupby(failed)) <= 4


@pytest.mark.parametrize("results", [[0.9], [0.9, 0.9, 0.9, 0.92, 0.88], [0.0, 0.0]])
def test_a_failed_training_counts_as_worse_than_every_complete_training(results: list[float]) -> None:
    trainings = [Training({"x": place}, {}, -result) for place, result in enumerate(results)]
    found = Observed.of(trainings, failed=[{"x": 99}])
    assert found.values[-1] > max(found.values[:-1])


def test_a_training_that_was_pruned_without_a_result_counts_like_the_median() -> None:
    complete = [Training({"x": place}, {1: value}, value) for place, value in enumerate((1.0, 2.0, 3.0))]
    pruned = [Training({"x": 9 + place}, curve, None) for place, curve in enumerate(({}, {1: math.nan}, {1: math.inf}))]
    found = Observed.of([*complete, *pruned])
    assert found.values.tolist() == [1.0, 2.0, 3.0, 2.0, 2.0, 2.0]
    model = ValueModel.of(Ranges({"x": IntDistribution(0, 20)}), lambda _: 1.0, {}, random.Random(0))
    assert np.isfinite(model.posterior(found).trained()).all()


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.RUNNING])
def test_a_value_outside_the_search_space_teaches_nothing(state: TrialState) -> None:
    """A search refuses an enqueued width that is not in its table; the trial has it all the same."""
    study = optuna.create_study()
    study.add_trial(create_trial(params={"a": 12}, distributions={"a": IntDistribution(8, 16)}, state=state))
    found = observe(study, Ranges({"a": CategoricalDistribution((8, 16))}), lambda _: True)
    assert not found.candidates and not found.waiting


def test_a_failed_trial_over_the_limit_or_of_a_known_candidate_teaches_nothing() -> None:
    ranges, study = Ranges(SPACE), optuna.create_study(direction="maximize")
    good, other, over = {"a": 5, "b": 3, "c": 2}, {"a": 2, "b": 2, "c": 2}, dict.fromkeys(WIDTHS, 8)
    for params, result in (
        (good, 1.0),
        (good, None),
        (over, None),
        (other, 0.0),
        (other, 0.5),
        (other | {"a": 1}, None),
    ):
        state = TrialState.FAIL if result is None else TrialState.COMPLETE
        study.add_trial(create_trial(params=params, distributions=SPACE, value=result, state=state))
    found = observe(study, ranges, lambda params: cost(params) <= LIMIT)
    assert found.candidates == (good, other, other | {"a": 1})
    assert found.is_complete().tolist() == [True, True, False]
    assert found.values[-1] == pytest.approx(-0.5 + 5 * 1.4826 * 0.5), (
        "like a diverged training: five robust deviations"
    )


def test_while_every_training_fails_the_design_moves_on() -> None:
    sampler = BudgetSampler(n_trainings=24, cost=cost, limit=LIMIT, search_space=SPACE, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(12):
        trial = study.ask()
        noisy(0)(trial)
        study.tell(trial, state=TrialState.FAIL)
    assert len({tuple(trial.params.items()) for trial in study.trials}) >= 11


def test_no_candidate_over_the_limit_is_recommended() -> None:
    sampler = BudgetSampler(n_trainings=10, cost=cost, limit=LIMIT, search_space=SPACE, seed=12)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial(dict.fromkeys(WIDTHS, 8))
    study.optimize(noisy(12), n_trials=1)
    with pytest.raises(ValueError, match="no complete trial within the limit 60"):
        sampler.recommend(study)
    study.optimize(noisy(12), n_trials=9)
    assert cost(sampler.recommend(study).params) <= LIMIT


def test_an_enqueued_candidate_over_the_limit_is_never_repeated() -> None:
    sampler = BudgetSampler(n_trainings=30, cost=cost, limit=LIMIT, search_space=SPACE, seed=14)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for over in (dict.fromkeys(WIDTHS, 8), {"a": 8, "b": 8, "c": 7}):
        study.enqueue_trial(over)
    study.optimize(noisy(14), n_trials=30)
    assert [cost(trial.params) > LIMIT for trial in study.trials] == [True] * 2 + [False] * 28


def test_recommend_accepts_a_study_of_any_sampler() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(noisy(13), n_trials=30)
    taken = BudgetSampler(n_trainings=30, cost=cost, limit=LIMIT).recommend(study)
    assert cost(taken.params) <= LIMIT
    assert value(taken.params) > np.median([value(one.params) for one in study.trials if cost(one.params) <= LIMIT])


def test_an_impossible_limit_and_an_invalid_number_are_reported() -> None:
    with pytest.raises(ValueError, match="n_trainings 0 must be at least 1"):
        BudgetSampler(n_trainings=0, cost=cost, limit=LIMIT)
    sampler = BudgetSampler(n_trainings=5, cost=cost, limit=2.0, search_space=SPACE, seed=0)
    with pytest.raises(ValueError, match="limit 2: the cheapest candidate found costs 3"):
        optuna.create_study(sampler=sampler).optimize(noisy(0), n_trials=1)


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, BaseDistribution]:
    one: st.SearchStrategy[BaseDistribution] = st.one_of(
        st.builds(lambda low, more: IntDistribution(low, low + more), st.integers(1, 5), st.integers(0, 30)),
        st.builds(lambda low, more: IntDistribution(low, low + 3 * more, step=3), st.integers(0, 5), st.integers(1, 9)),
        st.builds(lambda more: IntDistribution(1, 1 + more, log=True), st.integers(1, 99)),
        st.builds(lambda more: FloatDistribution(0.01, 0.01 + more, log=True), st.floats(0.1, 9)),
        st.builds(lambda more: FloatDistribution(0.0, more), st.floats(0.1, 9)),
        st.builds(lambda more: CategoricalDistribution(tuple(range(more))), st.integers(1, 5)),
        st.just(CategoricalDistribution(("x", "yy", None))),
    )
    return {f"p{place}": draw(one) for place in range(draw(st.integers(1, 4)))}


@pytest.mark.slow
@given(spaces(), st.floats(0.02, 1.0), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_proposals_of_any_space_are_within_it_and_keep_any_limit(
    space: dict[str, BaseDistribution], share: float, seed: int
) -> None:
    def price(params: dict[str, Any]) -> float:
        sizes = [len(one) if isinstance(one, str) else float(one or 0.0) for one in params.values()]
        return float(np.prod([1.0 + size for size in sizes]))

    def least(one: BaseDistribution) -> Any:
        return one.low if hasattr(one, "low") else next(iter(one.choices[::-1] if None in one.choices else one.choices))  # type: ignore[attr-defined]

    def most(one: BaseDistribution) -> Any:
        return one.high if hasattr(one, "high") else ("yy" if None in one.choices else one.choices[-1])  # type: ignore[attr-defined]

    low, high = (price({name: end(one) for name, one in space.items()}) for end in (least, most))
    limit = low * (high / low) ** share * (1 + 1e-9)
    sampler = BudgetSampler(n_trainings=8, cost=price, limit=limit, search_space=space, seed=seed)
    study = optuna.create_study(sampler=sampler)
    for _ in range(8):
        trial = study.ask(space)
        assert price(trial.params) <= limit
        study.tell(trial, price(trial.params) % 1.0)
