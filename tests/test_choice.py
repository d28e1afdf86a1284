"""What the scores promise, and that they find better finalists than the accuracies themselves."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import Budget
from budgetnas.samplers import choice
from budgetnas.samplers.choice import FEWEST_TRAININGS, candidate_features, finalists, smooth, smoothed_scores
from budgetnas.space.recipe import Augmentation, Recipe, RecipeSpace
from budgetnas.space.search_space import Candidate, CandidateSpace, InputShape, SearchSpace

SPACE = CandidateSpace(SearchSpace(), RecipeSpace(), InputShape(in_channels=3, size=32, classes=10))


def drawn(number: int, seed: int = 0) -> list[Candidate]:
    """Candidates of the default space within five million parameters."""
    generator, found = random.Random(seed), []
    for _ in range(number):
        params = SPACE.space.draw_feasible(SPACE.inputs, Budget(5_000_000), generator)
        params["optimizer"] = optimizer = generator.choice(SPACE.recipes.optimizers)
        one = SPACE.recipes.range_of(optimizer)
        low, high = np.log10(one.learning_rate)
        params[f"{optimizer}_learning_rate"] = 10 ** generator.uniform(low, high)
        params[f"{optimizer}_weight_decay"] = generator.choice(one.weight_decay)
        found.append(SPACE.candidate(params))
    return found


POOL = drawn(24)


def candidate(rate: float = 0.1, width: int = 64, **recipe: object) -> Candidate:
    known = {"optimizer": "sgd", "learning_rate": rate, "epochs": 5, "t_max": 5} | recipe
    return Candidate(Architecture((1, 1), (width, width), (1, 2), stem_width=8), Recipe.model_validate(known))


@st.composite
def observed(draw: st.DrawFn) -> tuple[list[Candidate], list[float]]:
    """Trainings, some of them of the same candidate."""
    chosen = draw(st.lists(st.sampled_from(POOL), min_size=1, max_size=14))
    accuracies = st.integers(min_value=0, max_value=1000).map(lambda one: one / 1000)
    return chosen, draw(st.lists(accuracies, min_size=len(chosen), max_size=len(chosen)))


def three(scores: np.ndarray) -> np.ndarray:
    """Where the three highest stand, the highest first."""
    return np.argsort(-scores)[:3]


@settings(max_examples=30, deadline=None)
@given(observed(), st.randoms(use_true_random=False))
def test_scores_follow_their_trainings_in_any_order(
    trained: tuple[list[Candidate], list[float]], chance: random.Random
) -> None:
    candidates, accuracies = trained
    order = list(range(len(candidates)))
    chance.shuffle(order)
    moved = smoothed_scores([candidates[one] for one in order], [accuracies[one] for one in order])
    scores = smoothed_scores(candidates, accuracies)
    assert moved == pytest.approx([scores[one] for one in order], abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(observed())
def test_equal_candidates_have_equal_scores(trained: tuple[list[Candidate], list[float]]) -> None:
    scores = smoothed_scores(*trained)
    assert len(set(zip((one.key for one in trained[0]), scores, strict=True))) == len({one.key for one in trained[0]})


@settings(max_examples=20, deadline=None)
@given(observed(), st.sampled_from([-0.25, 0.5]))
def test_what_is_added_to_all_accuracies_is_added_to_all_scores(
    trained: tuple[list[Candidate], list[float]], added: float
) -> None:
    candidates, accuracies = trained
    scores = smoothed_scores(candidates, accuracies)
    assert smoothed_scores(candidates, [one + added for one in accuracies]) == pytest.approx(
        [one + added for one in scores], abs=2e-3
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(POOL), min_size=1, max_size=12), st.floats(min_value=0, max_value=1))
def test_equal_accuracies_give_that_accuracy(candidates: list[Candidate], accuracy: float) -> None:
    assert smoothed_scores(candidates, [accuracy] * len(candidates)) == pytest.approx([accuracy] * len(candidates))


@pytest.mark.parametrize("number", range(1, FEWEST_TRAININGS))
def test_a_few_trainings_score_their_own_means(number: int) -> None:
    candidates = [POOL[0], POOL[1], POOL[0], POOL[2]][:number]
    accuracies = [0.9, 0.8, 0.7, 0.85][:number]
    expected = [0.8, 0.8, 0.8, 0.85][:number] if number > 2 else accuracies
    assert smoothed_scores(candidates, accuracies) == pytest.approx(expected)


def test_nothing_trained_has_no_scores() -> None:
    assert smoothed_scores([], []) == ()
    assert finalists([], [], 3) == ()


def test_candidates_that_cannot_be_told_apart_before_training_are_drawn_to_the_middle() -> None:
    """No feature differs between groups, so that only noise and the groups' own part are left."""
    generator = np.random.default_rng(0)
    values = 0.5 + generator.normal(0, 0.1, 12)
    scores = smooth(np.zeros((12, 0)), values, range(12))
    assert (np.argsort(scores) == np.argsort(values)).all()
    assert np.ptp(scores) < 0.9 * np.ptp(values)
    assert scores.mean() == pytest.approx(values.mean(), abs=0.02)


def test_a_candidate_trained_more_often_leans_more_on_its_own_trainings() -> None:
    """Its accuracy is 0.2 off what the rest would say of it; each further training says so once more."""
    generator = np.random.default_rng(1)
    widths = np.linspace(-1, 1, 30)
    values = 0.1 * widths + generator.normal(0, 0.05, 30)
    odd, pulls = 15, []
    for extra in (0, 2, 8):
        features = np.append(widths, np.full(extra, widths[odd]))[:, None]
        own = 0.2
        told = np.append(np.where(np.arange(30) == odd, own, values), np.full(extra, own))
        groups = [*range(30), *[odd] * extra]
        pulls.append(smooth(features, told, groups)[odd])
    assert pulls[0] < pulls[1] < pulls[2] < 0.2
    assert pulls[0] < 0.12
    assert pulls[2] > 0.16


def test_smoothed_finalists_are_better_than_the_luckiest() -> None:
    """A trend in three of eight features, noise between seeds as large as all of it: 60 studies of 40 trainings."""
    gained = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        features = generator.normal(size=(40, 8))
        worth = features @ np.array([1.0, -0.7, 0.5, 0, 0, 0, 0, 0])
        values = worth + generator.normal(0, worth.std(), 40)
        gained.append(worth[three(smooth(features, values, range(40)))].mean() - worth[three(values)].mean())
    assert np.mean(gained) > 4 * np.std(gained) / np.sqrt(len(gained))


def test_a_curved_rate_is_learnt_for_each_optimiser() -> None:
    """Good rates of Adam are bad ones of SGD, a hundredfold apart; the scores know better than the noisy accuracies."""
    gained = []
    for seed in range(10):
        generator, candidates = np.random.default_rng(seed), drawn(40, seed)
        best = {"sgd": -1.3, "adam": -3.0}
        worth = np.array(
            [-0.05 * (np.log10(one.recipe.learning_rate) - best[one.recipe.optimizer]) ** 2 for one in candidates]
        )
        values = worth + generator.normal(0, 0.03, 40)
        scores = np.array(smoothed_scores(candidates, [float(one) for one in values]))
        gained.append(np.corrcoef(scores, worth)[0, 1] - np.corrcoef(values, worth)[0, 1])
    assert np.mean(gained) > 0.02


@pytest.mark.parametrize("worse", [0.45, 0.1, 0.0, -5.0])
def test_how_far_a_diverged_training_is_off_does_not_matter(worse: float) -> None:
    candidates = drawn(25, seed=3)
    accuracies = [0.9 + 0.02 * random.Random(index).random() for index in range(25)]
    scores = [smoothed_scores(candidates, [*accuracies[:7], lost, *accuracies[8:]])[:7] for lost in (0.5, worse)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-12)
    assert 7 not in finalists(candidates, [*accuracies[:7], worse, *accuracies[8:]], 20)


def test_a_diverged_training_does_not_change_the_finalists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear trend, and one training of a middling network at chance: the finalists of 20 studies are as good."""

    def lost(*, raised: bool) -> float:
        found = []
        for seed in range(20):
            generator = np.random.default_rng(seed)
            features = generator.normal(size=(40, 4))
            worth = 0.9 + 0.01 * (features @ np.array([1.0, 0.7, -0.5, 0.3]))
            values = worth + generator.normal(0, 0.003, 40)
            before = three(smooth(features, values, range(40)))
            values[np.argsort(worth)[20]] = 0.1
            with monkeypatch.context() as patch:
                if not raised:
                    patch.setattr(choice, "_raised", lambda values: values)
                after = three(smooth(features, values, range(40)))
            found.append(worth[before].mean() - worth[after].mean())
        return float(np.mean(found))

    assert abs(lost(raised=True)) < 0.0003
    assert lost(raised=False) > 0.001, "it would, if it counted as it is"


def test_a_candidate_that_diverges_every_other_time_is_no_finalist() -> None:
    candidates = drawn(20, seed=4)
    accuracies = [0.85 + 0.002 * index for index in range(20)]
    assert 19 in finalists(candidates, accuracies, 2)
    assert 19 not in finalists([*candidates, candidates[19]], [*accuracies, 0.1], 2)


def test_finalists_are_distinct_and_the_best_comes_first() -> None:
    candidates = drawn(12, seed=5)
    repeated = [*candidates, candidates[3], candidates[3]]
    accuracies = [0.8] * 14
    accuracies[3] = accuracies[12] = accuracies[13] = 0.95
    found = finalists(repeated, accuracies, 5)
    assert found[0] == 3
    assert len({repeated[one].key for one in found}) == 5
    assert len(finalists(repeated, accuracies, 100)) == 12


def test_of_equals_the_one_with_fewer_parameters_comes_first_in_any_order() -> None:
    candidates = [candidate(width=width) for width in (64, 16, 32, 8, 128, 24)]
    found = finalists(candidates, [0.7] * 6, 3)
    assert [candidates[one].architecture.widths[0] for one in found] == [8, 16, 24]
    assert [count(candidates[one].architecture).params for one in found] == sorted(
        count(one.architecture).params for one in candidates
    )[:3]


@pytest.mark.parametrize("one", [0, -1])
def test_a_final_has_finalists(one: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        finalists(POOL[:2], [0.5, 0.6], one)


@pytest.mark.parametrize("accuracies", [[0.5], [0.5, float("nan")], [0.5, float("inf")]])
def test_what_cannot_be_scored_is_refused(accuracies: list[float]) -> None:
    with pytest.raises(ValueError, match="smooth"):
        smoothed_scores(POOL[:2], accuracies)


def test_every_difference_of_a_recipe_is_a_feature() -> None:
    """Whatever fields recipes have, now or later: numbers, switches, names, numbers that may be missing."""
    base = candidate()
    others = [
        candidate(epochs=9),
        candidate(nesterov=True),
        candidate(momentum=0.5),
        candidate(augmentation=Augmentation(rotation=15.0)),
        candidate(augmentation=Augmentation(flip=False)),
        candidate(normalisation={"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}),
        candidate(weight_decay=5e-4),
        candidate(optimizer="adam"),
        candidate(width=65),
    ]
    for other in others:
        rows = candidate_features([base, other])
        assert (rows[0] != rows[1]).any(), other
        assert np.isfinite(rows).all()
    assert choice._standardised(candidate_features([base, base])).shape == (2, 0)


def test_rates_of_one_optimiser_say_nothing_of_the_other() -> None:
    """A rate of Adam moves no column in which SGD's candidates differ."""
    sgd = [candidate(rate) for rate in (0.01, 0.1)]
    low, high = (
        candidate_features([*sgd, *(candidate(rate, optimizer="adam") for rate in rates)])
        for rates in ((1e-4, 1e-3), (1e-2, 1e-1))
    )
    differ = [index for index in range(low.shape[1]) if low[0, index] != low[1, index]]
    assert differ
    assert (low[:, differ] == high[:, differ]).all()


def test_constant_and_repeated_columns_are_left_out() -> None:
    column = np.array([1.0, 2.0, 4.0, 3.0])
    features = np.stack([column, np.full(4, 0.1), 5 - 2 * column, column + 7], axis=1)
    assert choice._standardised(features).shape == (4, 1)


def test_the_slope_of_the_loss_is_that_of_the_loss() -> None:
    generator = np.random.default_rng(2)
    features, values = generator.normal(size=(9, 3)), generator.normal(size=9)
    model = choice._Model.of(features, values, np.array([0, 1, 2, 3, 3, 4, 5, 6, 6]))
    at = model.prior_mean + generator.normal(0, 0.5, 7)
    _, slope = model._loss(at)
    for index, one in enumerate(np.eye(7) * 1e-6):
        rise = (model._loss(at + one)[0] - model._loss(at - one)[0]) / 2e-6
        assert slope[index] == pytest.approx(rise, rel=1e-4, abs=1e-6)


def test_a_difference_too_small_to_divide_by_is_none() -> None:
    assert smoothed_scores(POOL[:6], [0.0] * 5 + [5e-324]) == pytest.approx([0.0] * 6)


def test_of_very_many_trainings_some_decide_the_hyperparameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are scored, and much as if all had decided."""
    generator = np.random.default_rng(7)
    features = generator.normal(size=(120, 3))
    values = features[:, 0] + generator.normal(0, 1, 120)
    scores = smooth(features, values, range(120))
    monkeypatch.setattr(choice, "_MOST_FITTED", 60)
    some = smooth(features, values, range(120))
    assert np.corrcoef(some, scores)[0, 1] > 0.95
    order = generator.permutation(120)
    assert (smooth(features[order], values[order], order) == some[order]).all(), "whatever order they come in"


def test_two_hundred_trainings_take_about_a_second() -> None:
    candidates = drawn(200, seed=6)
    accuracies = [random.Random(index).gauss(0.9, 0.01) for index in range(200)]
    smoothed_scores(candidates[:20], accuracies[:20])
    started = time.process_time()
    smoothed_scores(candidates, accuracies)
    assert time.process_time() - started < 3
