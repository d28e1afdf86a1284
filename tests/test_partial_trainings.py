"""Trainings that ended early: what they would have come to, and how much they count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from small_beliefs import one_scale

from budgetnas.samplers.budget_sampler import BudgetSampler
from budgetnas.samplers.budget_sampler.acquisition import knowledge_gradient, naming_gradient
from budgetnas.samplers.budget_sampler.curves import FEWEST_COMPLETE, CurveRegression, predicted, weights
from budgetnas.samplers.budget_sampler.encoding import CONSTANT, GROUPS, Terms
from budgetnas.samplers.budget_sampler.observed import Observed, Training
from budgetnas.samplers.budget_sampler.surrogate import OWN, Belief, posterior, prior_scales
from budgetnas.samplers.budget_sampler.winner import smooth

Floats = NDArray[np.float64]
TERMS = Terms(np.ones(2), np.ones(2, dtype=bool))
results = st.floats(-100, 100)
pairs = st.lists(st.tuples(results, results), min_size=FEWEST_COMPLETE, max_size=12)


# The regression of curves


def test_the_line_is_that_of_a_bayesian_regression_with_a_prior_slope() -> None:
    """The prior of the slope is a further observation of it, and the intercept has none."""
    generator = np.random.default_rng(0)
    rung = generator.normal(20, 3, 8)
    last = 5 + 1.4 * rung + generator.normal(0, 0.5, 8)
    found = CurveRegression.of(rung, last)
    centred = rung - rung.mean()
    steepest = np.polyfit(centred, last, 1)
    prior_row = np.sqrt((last.var() + ((last - np.polyval(steepest, centred)) ** 2).sum()) / 8) / 0.2
    rows = np.vstack([np.column_stack([np.ones(8), centred]), [0.0, prior_row]])
    intercept, slope = np.linalg.lstsq(rows, np.append(last, prior_row), rcond=None)[0]
    left = last - intercept - slope * centred
    residual = (last.var() + (left**2).sum()) / 8
    assert found.slope == pytest.approx(slope)
    assert found.residual == pytest.approx(residual)
    prediction = found.predict(25.0)
    row = np.array([1.0, 25.0 - rung.mean()])
    assert prediction.value == pytest.approx(float(row @ [intercept, slope]))
    assert prediction.variance == pytest.approx(float(residual * (1 + row @ np.linalg.inv(rows.T @ rows) @ row)))


def test_equal_results_at_the_rung_give_the_mean_change() -> None:
    found = CurveRegression.of([10.0, 10.0, 10.0], [20.0, 23.0, 26.0])
    assert (found.slope, found.predict(10.0).value, found.predict(12.0).value) == (1.0, 23.0, 25.0)


def test_many_trainings_show_the_slope_and_few_leave_it_at_its_prior() -> None:
    rung = np.linspace(10, 20, 100)
    assert CurveRegression.of(rung, 3 * rung).slope == pytest.approx(3, abs=0.1)
    few = CurveRegression.of([10.0, 10.1, 10.2], [20.0, 29.0, 21.0])
    assert few.slope == pytest.approx(1, abs=0.1)


@given(pairs, results)
def test_a_prediction_is_never_certain_and_less_certain_further_away(
    pairs: list[tuple[float, float]], result: float
) -> None:
    found = CurveRegression.of(*zip(*pairs, strict=True))
    near, far = (found.predict(found.rung_mean + distance) for distance in (result, 2 * result))
    assert 0 < found.residual < near.variance <= far.variance


@given(pairs, results, st.floats(-50, 50))
def test_a_constant_added_to_all_results_is_added_to_the_prediction(
    pairs: list[tuple[float, float]], result: float, more: float
) -> None:
    plain = CurveRegression.of(*zip(*pairs, strict=True)).predict(result)
    moved = [(rung + more, last + more) for rung, last in pairs]
    shifted = CurveRegression.of(*zip(*moved, strict=True)).predict(result + more)
    assert shifted.value == pytest.approx(plain.value + more, rel=1e-6, abs=1e-5)
    assert shifted.variance == pytest.approx(plain.variance, rel=1e-5, abs=1e-8)


def test_the_last_epoch_of_a_curve_is_compared_with_the_same_epoch_of_complete_trainings() -> None:
    complete = [({1: 5.0, 3: 2.0}, 1.0), ({1: 6.0, 3: 3.0}, 2.0), ({1: 7.0, 3: 4.0}, 3.0)]
    early = predicted({1: 9.0, 3: 2.5}, complete)
    assert early is not None and early.value == pytest.approx(1.5)
    assert predicted({2: 5.0}, complete) is None, "no complete training has this epoch"
    assert predicted({}, complete) is None
    assert predicted({1: 5.0}, complete[:2]) is None, "too few"
    assert predicted({1: float("nan")}, complete) is None
    assert predicted({1: 9.0, 3: 2.5}, [*complete, ({3: float("inf")}, 5.0)]) == early


# How much a training counts


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9), st.floats(1e-9, 1e6))
def test_a_weight_is_a_share_and_a_complete_training_counts_whole(variances: list[float], noise: float) -> None:
    found = weights(np.array([0.0, *variances]), noise)
    assert found[0] == 1.0
    assert np.all((found > 0) & (found <= 1))
    assert np.all(np.diff(found[np.argsort([0.0, *variances], kind="stable")]) <= 0)


def test_the_limits_of_a_weight() -> None:
    np.testing.assert_allclose(weights(np.array([0.0, 2.0, 6.0, 2e12]), 2.0), [1.0, 0.5, 0.25, 1e-12])


def made_up(seed: int) -> tuple[Floats, NDArray[np.intp], Floats]:
    generator = np.random.default_rng(seed)
    codes, which = generator.uniform(-1, 1, (9, 2)), np.append(np.arange(9), [0, 1, 1])
    return TERMS.of(codes), which, 5.0 + codes[which, 0] + generator.normal(0, 0.3, 12)


@pytest.mark.parametrize("seed", range(3))
def test_the_posterior_is_that_of_a_gaussian_process_with_more_noise_for_less_weight(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales = one_scale(seed, monkeypatch)
    rows, which, values = made_up(seed)
    counted = np.random.default_rng(seed).uniform(0.1, 1, 12)
    found = posterior(rows, TERMS.groups(), which, values, scales, counted)
    groups = TERMS.groups()
    variances = np.array([100.0 if group == CONSTANT else scales[GROUPS[group]][0] ** 2 for group in groups])
    prior = (rows * variances) @ rows.T + scales[OWN][0] ** 2 * np.eye(9)
    seen = prior[np.ix_(which, which)] + np.diag(1 / counted)
    centre = np.average(values, weights=counted)
    mean = centre + prior[:, which] @ np.linalg.solve(seen, values - centre)
    np.testing.assert_allclose(found.trained(), mean, rtol=1e-8)
    covariance = prior - prior[:, which] @ np.linalg.solve(seen, prior[which])
    belief = found.joint(np.arange(9), rows[:0])
    np.testing.assert_allclose(belief.covariance, found.noise * covariance, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_without_early_trainings_every_bit_is_the_same(seed: int) -> None:
    rows, which, values = made_up(seed)
    plain = posterior(rows, TERMS.groups(), which, values, prior_scales())
    whole = posterior(rows, TERMS.groups(), which, values, prior_scales(), np.ones(12))
    for left, right in ((plain.trained(), whole.trained()), (plain.covariance, whole.covariance)):
        assert left.tobytes() == right.tobytes()
    assert plain.noise == whole.noise and plain.centre == float(values.mean())
    means = [smooth(rows[which], values, which, variances) for variances in (None, np.zeros(12))]
    assert means[0].tobytes() == means[1].tobytes()


def test_a_vague_prediction_hardly_changes_what_is_expected() -> None:
    rows, which, values = made_up(1)
    counted = np.append(np.ones(11), 1e-9)
    found = posterior(rows, TERMS.groups(), which, np.append(values[:11], 50.0), prior_scales(), counted)
    others = posterior(rows, TERMS.groups(), which, np.append(values[:11], 4.0), prior_scales(), counted)
    np.testing.assert_allclose(found.trained(), others.trained(), atol=1e-4)


def curves(finals: Sequence[float]) -> list[Training]:
    return [Training({"x": index}, {1: 10 + final, 2: final}, final) for index, final in enumerate(finals)]


def test_an_early_training_counts_with_its_prediction() -> None:
    early = Training({"x": 9}, {1: 12.0}, None)
    observed = Observed.of([*curves([1.0, 2.0, 3.0]), early])
    assert observed.values[-1] == pytest.approx(2.0)
    assert np.all(observed.variances[:3] == 0) and observed.variances[-1] > 0
    assert [*observed.complete().values] == [1.0, 2.0, 3.0]
    more = observed.with_expected([]).with_expected([])
    assert more.variances.tobytes() == observed.variances.tobytes()


def test_an_early_training_without_a_prediction_is_a_guess_no_better_than_the_median() -> None:
    complete = curves([1.0, 2.0, 3.0, 4.0])
    for curve, value in (({7: 0.5}, 2.5), ({7: 3.5}, 3.5)):
        observed = Observed.of([*complete, Training({"x": 9}, curve, None)])
        assert (observed.values[-1], observed.variances[-1]) == (value, np.var([1.0, 2.0, 3.0, 4.0]))
    assert len(Observed.of([Training({"x": 9}, {1: 1.0}, None)])) == 0


# What the sampler does with them


def test_a_candidate_that_can_be_named_anyway_is_worth_its_knowledge_gradient() -> None:
    generator = np.random.default_rng(3)
    root = generator.normal(size=(4, 4))
    belief = Belief(generator.normal(size=4), root @ root.T, noise=0.5)
    np.testing.assert_allclose(naming_gradient(belief, 4, 8), knowledge_gradient(belief, 8), rtol=1e-9)


def test_a_better_candidate_is_worth_its_advantage_although_nothing_is_learnt() -> None:
    belief = Belief(np.array([0.0, -2.0, 2.0]), np.zeros((3, 3)), noise=1.0)
    np.testing.assert_allclose(naming_gradient(belief, 1, 8), [0.0, 2.0, 0.0])


def test_the_worth_of_a_training_is_its_expectation_over_its_outcomes() -> None:
    """The named candidates' values are correlated with that of the training."""
    generator = np.random.default_rng(3)
    root = generator.normal(size=(4, 4))
    belief = Belief(generator.normal(size=4), root @ root.T, noise=0.5)
    found, outcomes = naming_gradient(belief, 2), generator.normal(size=200_000)
    for index in range(4):
        among = sorted({0, 1, index})
        deviation = np.sqrt(belief.covariance[index, index] + belief.noise)
        means = belief.mean[among, None] + np.outer(belief.covariance[among, index] / deviation, outcomes)
        gain = belief.mean[:2].min() - means.min(axis=0).mean()
        assert found[index] == pytest.approx(gain, abs=0.03)


def sampler(seed: int = 0) -> BudgetSampler:
    space = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}
    return BudgetSampler(n_trainings=20, cost=lambda params: params["a"] + 1, limit=2.0, search_space=space, seed=seed)


def study_of(complete: int, seed: int = 0) -> optuna.Study:
    """A study whose accuracy rises with a; after the first of three epochs it is half of it."""
    space, generator = sampler()._ranges, np.random.default_rng(seed)
    assert space is not None
    study = optuna.create_study(direction="maximize")
    for _ in range(complete):
        params = {"a": generator.uniform(), "b": generator.uniform()}
        value = params["a"] + generator.normal(0, 0.02)
        study.add_trial(
            create_trial(
                params=params,
                distributions=dict(space.distributions),
                value=value,
                intermediate_values={1: value / 2, 3: value},
            )
        )
    return study


def running(study: optuna.Study, a: float) -> FrozenTrial:
    space = sampler()._ranges
    assert space is not None
    study.add_trial(
        create_trial(params={"a": a, "b": 0.5}, distributions=dict(space.distributions), state=TrialState.RUNNING)
    )
    return study.get_trials(deepcopy=False)[-1]


def test_a_good_curve_is_expected_to_be_better_than_a_bad_one() -> None:
    study = study_of(12)
    trial = running(study, 0.8)
    good, bad = (sampler().expected(study, trial, {1: result}) for result in (0.6, 0.1))
    assert good is not None and bad is not None and good[0] > bad[0]
    assert len(good[1]) == 12


def test_what_is_expected_follows_from_the_trials_alone() -> None:
    study = study_of(12)
    trial = running(study, 0.8)
    used = sampler(seed=7)
    for index in range(3):
        used.sample_relative(study, study.get_trials()[index], used.infer_relative_search_space(study, trial))
    used.expected(study, trial, {1: 0.1})
    assert used.expected(study, trial, {1: 0.4}) == sampler().expected(study, trial, {1: 0.4})


def test_a_study_that_minimises_expects_the_mirror_image() -> None:
    study, mirrored = study_of(12), optuna.create_study(direction="minimize")
    for trial in study.get_trials():
        values = {step: -value for step, value in trial.intermediate_values.items()}
        trial.values, trial.intermediate_values = [-(trial.value or 0.0)], values
        mirrored.add_trial(trial)
    expected = sampler().expected(study, running(study, 0.8), {1: 0.4})
    other = sampler().expected(mirrored, running(mirrored, 0.8), {1: -0.4})
    assert expected is not None and other is not None
    assert (expected[0], expected[1]) == (-other[0], tuple(-value for value in other[1]))


def test_nothing_is_expected_after_few_complete_trainings() -> None:
    study = study_of(FEWEST_COMPLETE - 1)
    assert sampler().expected(study, running(study, 0.5), {1: 0.2}) is None
    study = study_of(FEWEST_COMPLETE + 2)
    assert sampler().expected(study, running(study, 0.5), {2: 0.2}) is None, "no complete training has this epoch"


def test_a_pruned_trial_informs_the_recommendation_but_is_not_recommended() -> None:
    study = study_of(8)
    space = sampler()._ranges
    assert space is not None
    params = {"a": 1.0, "b": 0.5}
    study.add_trial(
        create_trial(
            params=params,
            distributions=dict(space.distributions),
            state=TrialState.PRUNED,
            intermediate_values={1: 0.9},
        )
    )
    assert sampler().recommend(study).state is TrialState.COMPLETE
