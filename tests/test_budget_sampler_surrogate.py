"""The parts of the budget sampler against closed forms and other ways to compute the same."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import multivariate_t, norm
from small_beliefs import one_scale

from budgetnas.architecture.budget import Budget
from budgetnas.samplers.budget_sampler.acquisition import knowledge_gradient, most_informative
from budgetnas.samplers.budget_sampler.encoding import CONSTANT, GROUPS, Encoding, Ranges, Terms
from budgetnas.samplers.budget_sampler.model import ValueModel
from budgetnas.samplers.budget_sampler.surrogate import (
    OWN,
    Belief,
    TermPrior,
    _prior_variances,
    posterior,
    prior_scales,
)
from budgetnas.samplers.budget_sampler.surrogate import _solved_by_candidates as _by_candidates
from budgetnas.samplers.budget_sampler.surrogate import _solved_by_terms as _by_terms
from budgetnas.samplers.distributions import search_ranges
from budgetnas.samplers.named import budget_sampler
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace

Floats = NDArray[np.float64]


def made_up(seed: int, columns: int = 3, candidates: int = 12, trainings: int = 20) -> tuple[Floats, ...]:
    generator = np.random.default_rng(seed)
    codes = generator.uniform(-1, 1, (candidates, columns))
    which = np.concatenate([np.arange(candidates), generator.integers(0, candidates, trainings - candidates)])
    return codes, which, 5.0 + codes[which, 0] + generator.normal(0, 0.3, trainings)


TERMS = Terms(np.ones(3), np.ones(3, dtype=bool))


def kernel(scales: dict[str, Floats], rows: Floats, others: Floats, same: Floats) -> Floats:
    """The covariance of candidates before any training, in units of the noise, as a Gaussian process has it."""
    groups = TERMS.groups()
    variances = np.array([100.0 if one == CONSTANT else scales[GROUPS[one]][0] ** 2 for one in groups])
    return (rows * variances) @ others.T + scales[OWN][0] ** 2 * same


@pytest.mark.parametrize("candidates", [4, 12])
@pytest.mark.parametrize("seed", range(5))
def test_the_posterior_is_that_of_a_gaussian_process(
    seed: int, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer candidates than terms, and with more: the regression is solved in another way."""
    assert 4 < len(TERMS.groups()) < 12
    scales = one_scale(seed, monkeypatch)
    codes, which, values = made_up(seed, candidates=candidates)
    which = which.astype(int)
    new = np.random.default_rng(seed + 100).uniform(-1, 1, (6, 3))
    rows, new_rows = TERMS.of(codes), TERMS.of(new)
    found = posterior(rows, TERMS.groups(), which, values, scales)

    every = np.concatenate([rows, new_rows])
    prior = kernel(scales, every, every, np.eye(len(every)))
    seen = prior[np.ix_(which, which)] + np.eye(len(which))
    cross = prior[:, which]
    solved = np.linalg.solve(seen, cross.T)
    centred = values - values.mean()
    mean = values.mean() + solved.T @ centred
    covariance = found.noise * (prior - cross @ solved)

    belief = found.joint(np.arange(len(rows)), new_rows)
    np.testing.assert_allclose(belief.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(belief.covariance, covariance, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.trained(), mean[: len(rows)], rtol=1e-8)
    np.testing.assert_allclose(found.untrained(new_rows), mean[len(rows) :], rtol=1e-8)
    np.testing.assert_allclose(found.spread(new_rows) ** 2, np.diag(covariance)[len(rows) :], rtol=1e-6)


@pytest.mark.parametrize("candidates", [4, 12])
def test_expected_weights_are_the_mean_of_the_prior(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in standard deviations of the results, and the covariance does not depend on them."""
    scales = one_scale(1, monkeypatch)
    codes, which, values = made_up(1, candidates=candidates)
    which = which.astype(int)
    new_rows = TERMS.of(np.random.default_rng(101).uniform(-1, 1, (6, 3)))
    rows, expected = TERMS.of(codes), np.random.default_rng(7).normal(0, 0.5, len(TERMS.groups()))
    found = posterior(rows, TERMS.groups(), which, values, scales, expected=expected)

    every = np.concatenate([rows, new_rows])
    prior, before = kernel(scales, every, every, np.eye(len(every))), values.std() * every @ expected
    seen, cross = prior[np.ix_(which, which)] + np.eye(len(which)), prior[:, which]
    centred = values - values.mean() - before[which]
    mean = values.mean() + before + cross @ np.linalg.solve(seen, centred)
    belief = found.joint(np.arange(len(rows)), new_rows)
    np.testing.assert_allclose(belief.mean, mean, rtol=1e-8)
    covariance = found.noise * (prior - cross @ np.linalg.solve(seen, cross.T))
    np.testing.assert_allclose(belief.covariance, covariance, rtol=1e-6, atol=1e-8)


def test_what_costs_nothing_is_expected_to_be_best_inside_its_range() -> None:
    terms = Terms(np.array([1.0, 0.0, 0.0]), np.array([True, True, False]))
    codes = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [-1.0, 0.0, -1.0]])
    middle, low, high, large, small = terms.of(codes) @ terms.expected_weights()
    assert middle < low == high, "its ends count against a candidate"
    assert middle == large == small
    middle, low, high, large, small = terms.of(codes) @ terms.expected_weights(size=True)
    assert large < middle < small
    assert middle < low == high
    costly = Terms(np.array([1.0, -1.0]), np.ones(2, dtype=bool))
    assert not costly.expected_weights().any(), "nothing is expected where everything costs something"


def test_scales_count_by_how_well_they_explain_the_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evidence is the density of a multivariate t distribution, with the noise integrated out."""
    scales = {name: np.array([one_scale(seed, monkeypatch)[name][0] for seed in (1, 2)]) for name in (*GROUPS, OWN)}
    monkeypatch.setattr("budgetnas.samplers.budget_sampler.surrogate._SCALES", 2)
    codes, which, values = made_up(3)
    which = which.astype(int)
    rows = TERMS.of(codes)
    found = posterior(rows, TERMS.groups(), which, values, scales)
    centred = values - values.mean()
    shape, floor = 1.5, 1.5 * (0.5 * centred.std()) ** 2
    densities = []
    for place in range(2):
        one = {name: column[[place]] for name, column in scales.items()}
        covariance = kernel(one, rows[which], rows[which], (which[:, None] == which[None]).astype(float)) + np.eye(20)
        densities.append(multivariate_t.logpdf(centred, shape=floor / shape * covariance, df=2 * shape))
    weights = np.exp(densities - np.max(densities))
    np.testing.assert_allclose(np.sort(found.share), np.sort(weights / weights.sum()), rtol=1e-6)


@pytest.mark.parametrize("candidates", [6, 30])
def test_both_ways_to_solve_the_regression_agree(candidates: int) -> None:
    codes, which, values = made_up(6, candidates=candidates, trainings=40)
    which = which.astype(int)
    times = np.bincount(which).astype(float)
    means = np.bincount(which, values - values.mean()) / times
    scales = prior_scales()
    prior, own = _prior_variances(TERMS.groups(), scales), scales[OWN][:, None] ** 2
    solved = [way(TERMS.of(codes), times, means, prior, own + 1.0 / times) for way in (_by_candidates, _by_terms)]
    for name in ("weights", "between", "log_determinant"):
        np.testing.assert_allclose(getattr(solved[0], name), getattr(solved[1], name), rtol=1e-6, atol=1e-9)
    some = np.array([3, 0, 60])
    np.testing.assert_allclose(solved[0].covariance(some), solved[1].covariance(some), rtol=1e-6, atol=1e-9)


def test_a_belief_about_some_trained_candidates_is_part_of_that_about_all() -> None:
    codes, which, values = made_up(7)
    rows = TERMS.of(codes)
    found = posterior(rows, TERMS.groups(), which.astype(int), values, prior_scales())
    new = TERMS.of(np.random.default_rng(8).uniform(-1, 1, (3, 3)))
    every, some = found.joint(np.arange(12), new), found.joint(np.array([7, 2]), new)
    places = [7, 2, 12, 13, 14]
    np.testing.assert_allclose(some.mean, every.mean[places])
    np.testing.assert_allclose(some.covariance, every.covariance[np.ix_(places, places)], atol=1e-12)


def test_repeats_weigh_more_and_noise_is_separated_from_differences() -> None:
    generator = np.random.default_rng(0)
    codes = generator.uniform(-1, 1, (20, 3))
    values = generator.normal(0, 0.1, 20)
    which = np.repeat(np.arange(20), 6)
    results = values[which] + generator.normal(0, 0.1, len(which))
    found = posterior(TERMS.of(codes), TERMS.groups(), which, results, prior_scales())
    assert found.noise == pytest.approx(0.01, rel=0.3)
    np.testing.assert_allclose(found.trained(), values, atol=0.1)
    assert np.all(found.trust > 0.5)


def test_the_knowledge_gradient_of_independent_candidates_is_its_closed_form() -> None:
    mean = np.array([0.0, 0.3, -0.2])
    variance = np.array([0.5, 1.0, 0.1])
    gain = knowledge_gradient(Belief(mean, np.diag(variance), noise=0.4))
    deviation = variance / np.sqrt(variance + 0.4)
    best_other = np.array([-0.2, -0.2, 0.0])
    distance = -np.abs(mean - best_other) / deviation
    exact = deviation * (distance * norm.cdf(distance) + norm.pdf(distance))
    np.testing.assert_allclose(gain, exact, rtol=0.05, atol=1e-3)


def test_the_knowledge_gradient_includes_what_a_training_teaches_about_other_candidates() -> None:
    generator = np.random.default_rng(1)
    root = generator.normal(size=(5, 5))
    belief = Belief(generator.normal(size=5), root @ root.T, noise=0.5)
    deviations = np.sqrt(np.diag(belief.covariance) + belief.noise)
    outcomes = generator.normal(size=200_000)
    for index, gain in enumerate(knowledge_gradient(belief)):
        after = belief.mean[:, None] + (belief.covariance[:, index] / deviations[index])[:, None] * outcomes
        assert gain == pytest.approx(belief.mean.min() - after.min(axis=0).mean(), rel=0.1, abs=5e-3)


def test_a_candidate_of_certain_value_is_worth_no_training() -> None:
    gain = knowledge_gradient(Belief(np.array([0.0, 1.0]), np.diag([0.0, 0.5]), noise=0.1))
    assert gain[0] == 0.0
    assert gain[1] > 0.0


def test_a_training_is_judged_by_several_where_a_single_one_would_change_nothing() -> None:
    belief = Belief(np.array([0.0, 0.5]), np.diag([0.0, 0.25]), noise=4.0)
    once, often = knowledge_gradient(belief)[1], knowledge_gradient(belief, left=50)[1]
    eight = knowledge_gradient(Belief(belief.mean, belief.covariance, noise=4.0 / 8))[1]
    assert often == pytest.approx(eight / 8)
    assert often > 10 * once
    assert knowledge_gradient(belief, left=7)[1] < often


def test_the_next_of_a_design_leaves_the_least_variance_on_average() -> None:
    generator = np.random.default_rng(4)
    rows, known, others = (generator.normal(size=(count, 3)) for count in (8, 4, 6))
    prior = TermPrior(np.array([2.0, 0.5, 1.0]), unexplained=0.7)

    def left(trained: Floats) -> float:
        covariance = trained @ np.diag(prior.weights) @ trained.T + prior.unexplained * np.eye(len(trained))
        across = others @ np.diag(prior.weights) @ trained.T
        before = others @ np.diag(prior.weights) @ others.T
        return float(np.trace(before - across @ np.linalg.inv(covariance) @ across.T))

    best = min(range(len(rows)), key=lambda index: left(np.concatenate([known, rows[[index]]])))
    assert most_informative(rows, known, others, prior) == best


@pytest.mark.parametrize("curved", [False, True])
def test_a_design_goes_to_both_ends_of_a_line_and_inside_where_it_may_be_curved(curved: bool) -> None:
    line = np.linspace(-1, 1, 21)
    terms = [np.ones(21), line, *([1.5 * line**2 - 0.5] if curved else [])]
    rows = np.stack(terms, axis=1)
    prior = TermPrior(np.full(len(terms), 100.0), unexplained=1.0)
    chosen: list[int] = []
    for _ in range(8):
        chosen.append(most_informative(rows, rows[np.array(chosen, dtype=int)], rows, prior))
    at = line[chosen]
    assert {-1.0, 1.0} <= set(at)
    assert np.count_nonzero(np.abs(at) < 0.25) == (3 if curved else 1)


def test_codes_have_their_ends_at_one_and_ratios_on_a_log_scale() -> None:
    encoding = Encoding.of(
        {
            "count": IntDistribution(0, 4),
            "fixed": IntDistribution(3, 3),
            "kind": CategoricalDistribution(("x", "y", "z")),
            "rate": FloatDistribution(1e-4, 1e-2, log=True),
            "switch": CategoricalDistribution((False, True)),
            "width": CategoricalDistribution((64, 256, 16)),
        }
    )
    assert encoding.columns == 7
    row = {"count": 1, "fixed": 3, "kind": "y", "rate": 1e-3, "switch": True, "width": 64}
    np.testing.assert_allclose(encoding.code([row]), [[-0.5, -2 / 3, 4 / 3, -2 / 3, 0.0, 1.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(encoding.code([{}]), np.zeros((1, 7)))
    assert encoding.ordered().tolist() == [True, False, False, False, True, False, True]
    assert encoding.code([]).shape == (0, 7)


def test_the_direction_of_the_size_is_found_also_where_some_candidates_are_impossible() -> None:
    ranges = Ranges({name: FloatDistribution(-1.0, 1.0) for name in "abc"})

    def size(params: dict[str, Any]) -> float:
        return math.inf if params["a"] > params["b"] else math.exp(2.0 * params["a"] - 0.5 * params["b"])

    assert ValueModel.of(ranges, size, {}, random.Random(0)).terms.direction.tolist() == [1.0, -1.0, 0.0]
    assert ValueModel.of(ranges, lambda _: 1.0, {}, random.Random(0)).terms.direction.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("seed", range(3))
def test_every_part_of_a_network_makes_it_larger_whichever_limit_binds(seed: int) -> None:
    """More blocks or squeeze-and-excitation hardly change the peak of the RAM, but are larger networks all the same."""
    space = CandidateSpace(SearchSpace(), RecipeSpace(), InputShape(in_channels=3, size=32, classes=10))
    sampler = budget_sampler(seed, space, Budget(10**9, max_ram_bytes=64_000), 20)
    ranges = search_ranges(space)
    model = sampler._domain_of(ranges, optuna.create_study()).model
    of_network = model.encoding.columns_of(space.space.ranges())
    assert (model.terms.direction == of_network).all() and 0 < of_network.sum() < len(of_network)


RATES: dict[str, BaseDistribution] = {
    "width_1": IntDistribution(4, 64, log=True),
    "width_2": IntDistribution(4, 64, log=True),
    "stages": IntDistribution(1, 2),
    "optimizer": CategoricalDistribution(("sgd", "adam")),
    "sgd_rate": FloatDistribution(1e-3, 1.0, log=True),
    "adam_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "decay": CategoricalDistribution((0.0, 1e-4, 5e-4)),
}
WHEN = {"sgd_rate": ("optimizer", ("sgd",)), "adam_rate": ("optimizer", ("adam",)), "width_2": ("stages", (2,))}


def size_of(params: dict[str, Any]) -> float:
    """The size of a network; it is not linear in the codes of its widths."""
    return float(9 * params["width_1"] ** 2 + 9 * params["width_1"] * params.get("width_2", 0) ** 2)


@pytest.mark.parametrize("seed", range(10))
def test_a_parameter_that_costs_nothing_has_no_direction(seed: int) -> None:
    model = ValueModel.of(Ranges(RATES, WHEN), size_of, {}, random.Random(seed))
    found = dict(zip(sorted(RATES), model.terms.direction.tolist(), strict=True))
    assert found == {
        "adam_rate": 0.0,
        "decay": 0.0,
        "optimizer": 0.0,
        "sgd_rate": 0.0,
        "stages": 1.0,
        "width_1": 1.0,
        "width_2": 1.0,
    }
