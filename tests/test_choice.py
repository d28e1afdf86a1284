"""The rule that names the winner and the finalists: what it promises, and that it beats the luckiest training."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget
from budgetnas.data.identity import DataIdentity
from budgetnas.samplers.budget_sampler import winner
from budgetnas.samplers.budget_sampler.winner import FEWEST_TRAININGS, smooth
from budgetnas.samplers.choice import Ranked, Trained, best_first
from budgetnas.samplers.distributions import search_ranges
from budgetnas.samplers.named import BUDGET, search_sampler
from budgetnas.space.candidates import Candidate, CandidateSpace
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.specification import StudySpecification

SPECIFICATION = StudySpecification(
    max_params=5_000_000,
    space=SearchSpace(blocks=((1, 3),) * 4),
    recipes=RecipeSpace(),
    data=DataIdentity(
        name="cifar10", content_hash="0" * 16, subset=None, subset_eval=None, split_seed=0, resolution=32
    ),
    inputs=InputShape(in_channels=3, size=32, classes=10),
)
SPACE = SPECIFICATION.candidates


def drawn(number: int, seed: int = 0, space: CandidateSpace = SPACE) -> list[Candidate]:
    """Candidates of a space within five million parameters."""
    generator, candidates = random.Random(seed), []
    for _ in range(number):
        params = space.space.draw_feasible(space.inputs, Budget(5_000_000), generator)
        params["optimizer"] = optimizer = generator.choice(space.recipes.optimizers)
        ranges = space.recipes.range_of(optimizer)
        low, high = np.log10(ranges.learning_rate)
        params[f"{optimizer}_learning_rate"] = float(10 ** generator.uniform(low, high))
        params[f"{optimizer}_weight_decay"] = generator.choice(ranges.weight_decay)
        candidates.append(space.candidate(params))
    return candidates


POOL = drawn(24)


def ranked(
    candidates: Sequence[Candidate], accuracies: Sequence[float], study: StudySpecification = SPECIFICATION
) -> tuple[Ranked, ...]:
    trained = [Trained(candidate, float(value)) for candidate, value in zip(candidates, accuracies, strict=True)]
    return best_first(study, trained)


def expected(candidates: Sequence[Candidate], accuracies: Sequence[float]) -> dict[tuple[str, str], float]:
    return {candidates[entry.first].key: entry.expected for entry in ranked(candidates, accuracies)}


@st.composite
def observed(draw: st.DrawFn) -> tuple[list[Candidate], list[float]]:
    """Trainings, some of them of the same candidate."""
    chosen = draw(st.lists(st.sampled_from(POOL), min_size=1, max_size=14))
    accuracies = st.integers(min_value=0, max_value=1000).map(lambda thousandths: thousandths / 1000)
    return chosen, draw(st.lists(accuracies, min_size=len(chosen), max_size=len(chosen)))


@settings(max_examples=15, deadline=None)
@given(observed(), st.randoms(use_true_random=False))
def test_the_order_of_the_trainings_does_not_matter(
    trained: tuple[list[Candidate], list[float]], chance: random.Random
) -> None:
    candidates, accuracies = trained
    order = list(range(len(candidates)))
    chance.shuffle(order)
    shuffled = expected([candidates[index] for index in order], [accuracies[index] for index in order])
    assert shuffled == pytest.approx(expected(candidates, accuracies), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(observed())
def test_every_candidate_is_ranked_once(trained: tuple[list[Candidate], list[float]]) -> None:
    candidates, accuracies = trained
    entries = ranked(candidates, accuracies)
    assert sorted(candidates[entry.first].key for entry in entries) == sorted({one.key for one in candidates})
    assert sum(entry.trainings for entry in entries) == len(candidates)
    assert [entry.expected for entry in entries] == sorted((entry.expected for entry in entries), reverse=True)


@settings(max_examples=15, deadline=None)
@given(observed(), st.sampled_from([-0.25, 0.5]))
def test_a_constant_added_to_all_accuracies_is_added_to_all_expected_ones(
    trained: tuple[list[Candidate], list[float]], constant: float
) -> None:
    candidates, accuracies = trained
    before = expected(candidates, accuracies)
    after = expected(candidates, [accuracy + constant for accuracy in accuracies])
    assert after == pytest.approx({key: value + constant for key, value in before.items()}, abs=2e-3)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(POOL), min_size=1, max_size=12), st.floats(min_value=0, max_value=1))
def test_equal_accuracies_give_that_accuracy(candidates: list[Candidate], accuracy: float) -> None:
    assert list(expected(candidates, [accuracy] * len(candidates)).values()) == pytest.approx(
        [accuracy] * len({candidate.key for candidate in candidates})
    )


@pytest.mark.parametrize("number", range(1, FEWEST_TRAININGS))
def test_with_few_trainings_a_candidate_has_their_mean(number: int) -> None:
    candidates = [POOL[0], POOL[1], POOL[0], POOL[2]][:number]
    accuracies = [0.9, 0.8, 0.7, 0.85][:number]
    entries = ranked(candidates, accuracies)
    assert [entry.expected for entry in entries] == pytest.approx([entry.mean for entry in entries])
    assert candidates[entries[0].first] == (
        POOL[2] if number == 4 else min(candidates, key=size) if number == 3 else POOL[0]
    )


def size(candidate: Candidate) -> int:
    return count(candidate.architecture).params


def test_without_trainings_nothing_is_ranked() -> None:
    assert best_first(SPECIFICATION, []) == ()


def test_a_candidate_outside_the_space_keeps_its_own_mean() -> None:
    small = SPECIFICATION.model_copy(update={"space": SearchSpace(widths=(8, 16))})
    trained = [Trained(candidate, 0.5 + 0.01 * index) for index, candidate in enumerate(POOL[:6])]
    assert [(entry.first, entry.expected) for entry in best_first(small, trained)] == [
        (index, trained[index].accuracy) for index in reversed(range(6))
    ]


def test_candidates_with_equal_features_are_drawn_to_the_mean() -> None:
    generator = np.random.default_rng(0)
    values = 0.5 + generator.normal(0, 0.1, 12)
    means = smooth(np.zeros((12, 0)), values, range(12))
    assert (np.argsort(means) == np.argsort(values)).all()
    assert np.ptp(means) < 0.9 * np.ptp(values)
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)


def test_a_candidate_trained_more_often_leans_more_on_its_own_trainings() -> None:
    """Its value is 0.2 off the trend; each further training says so again."""
    generator = np.random.default_rng(1)
    widths = np.linspace(-1, 1, 30)
    values = 0.1 * widths + generator.normal(0, 0.05, 30)
    values[15], pulls = 0.2, []
    for extra in (0, 2, 8):
        features = np.append(widths, np.full(extra, widths[15]))[:, None]
        repeated = np.append(values, np.full(extra, 0.2))
        pulls.append(smooth(features, repeated, [*range(30), *[15] * extra])[15])
    assert pulls[0] < pulls[1] < pulls[2] < 0.2
    assert pulls[0] < 0.12
    assert pulls[2] > 0.16


def test_the_winner_is_better_than_the_luckiest_training() -> None:
    """Candidates with more multiply-accumulates are better, the noise is as large as the differences: 30 studies."""
    gains = []
    for seed in range(30):
        generator, candidates = np.random.default_rng(seed), drawn(40, seed)
        worth = np.log([count(candidate.architecture).macs for candidate in candidates])
        values = worth + generator.normal(0, worth.std(), 40)
        first = ranked(candidates, values)[0].first
        gains.append(worth[first] - worth[np.argmax(values)])
    assert np.mean(gains) > 2 * np.std(gains) / np.sqrt(len(gains))


def test_networks_of_three_and_four_stages_are_judged_together() -> None:
    """The expected accuracies know better than the noisy ones, with parameters that only four stages have."""
    study = SPECIFICATION.model_copy(update={"space": SearchSpace()})
    gains = []
    for seed in range(10):
        generator, candidates = np.random.default_rng(seed), drawn(40, seed, study.candidates)
        assert {candidate.architecture.num_stages for candidate in candidates} == {3, 4}
        worth = np.log([count(candidate.architecture).macs for candidate in candidates])
        values = worth + generator.normal(0, worth.std(), 40)
        scores = {candidates[entry.first].key: entry.expected for entry in ranked(candidates, values, study)}
        smooth = [scores[candidate.key] for candidate in candidates]
        gains.append(np.corrcoef(smooth, worth)[0, 1] - np.corrcoef(values, worth)[0, 1])
    assert np.mean(gains) > 0.05


def test_a_curved_rate_is_learnt_for_each_optimiser() -> None:
    """Good rates of Adam are bad ones of SGD, a hundredfold apart; the scores know better than the noisy accuracies."""
    gains = []
    for seed in range(10):
        generator, candidates = np.random.default_rng(seed), drawn(40, seed)
        best = {"sgd": -1.3, "adam": -3.0}
        recipes = [candidate.recipe for candidate in candidates]
        worth = np.array([-0.05 * (np.log10(recipe.learning_rate) - best[recipe.optimizer]) ** 2 for recipe in recipes])
        values = worth + generator.normal(0, 0.03, 40)
        scores = expected(candidates, values)
        smooth = [scores[candidate.key] for candidate in candidates]
        gains.append(np.corrcoef(smooth, worth)[0, 1] - np.corrcoef(values, worth)[0, 1])
    assert np.mean(gains) > 0.02


@pytest.mark.parametrize("worse", [0.45, 0.1, 0.0, -5.0])
def test_how_bad_a_diverged_training_is_does_not_matter(worse: float) -> None:
    candidates = drawn(25, seed=3)
    accuracies = [0.9 + 0.02 * random.Random(index).random() for index in range(25)]
    scores = [expected(candidates, [*accuracies[:7], lost, *accuracies[8:]]) for lost in (0.5, worse)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-12)
    order = [entry.first for entry in ranked(candidates, [*accuracies[:7], worse, *accuracies[8:]])]
    assert order.index(7) >= 20


def test_a_candidate_that_diverges_every_other_time_is_not_in_the_final() -> None:
    candidates = drawn(20, seed=4)
    accuracies = [0.85 + 0.002 * index for index in range(20)]
    assert 19 in [entry.first for entry in ranked(candidates, accuracies)[:2]]
    twice = ranked([*candidates, candidates[19]], [*accuracies, 0.1])
    assert 19 not in [entry.first for entry in twice[:2]]


def test_equal_candidates_are_ordered_by_fewer_parameters() -> None:
    for order in (POOL[:6], POOL[5::-1]):
        sizes = [size(order[entry.first]) for entry in ranked(order, [0.7] * 6)]
        assert sizes == sorted(sizes)


@pytest.mark.parametrize("accuracy", [float("nan"), float("inf")])
def test_an_accuracy_must_be_finite(accuracy: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        ranked(POOL[:2], [0.5, accuracy])


def test_a_diverged_training_does_not_change_the_top_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear trend, and a training of an average network at chance: the best three of 20 studies are as good."""

    def best_three(means: np.ndarray) -> np.ndarray:
        return np.argsort(-means)[:3]

    def lost(*, clipped: bool) -> float:
        losses = []
        for seed in range(20):
            generator = np.random.default_rng(seed)
            features = generator.normal(size=(40, 4))
            worth = 0.9 + 0.01 * (features @ np.array([1.0, 0.7, -0.5, 0.3]))
            values = worth + generator.normal(0, 0.003, 40)
            before = best_three(smooth(features, values, range(40)))
            values[np.argsort(worth)[20]] = 0.1
            with monkeypatch.context() as patch:
                if not clipped:
                    patch.setattr(winner, "clipped", lambda values, spreads: values)
                after = best_three(smooth(features, values, range(40)))
            losses.append(worth[before].mean() - worth[after].mean())
        return float(np.mean(losses))

    assert abs(lost(clipped=True)) < 0.0003
    assert lost(clipped=False) > 0.001, "it would without clipping"


def test_constant_and_repeated_columns_are_dropped() -> None:
    column = np.array([1.0, 2.0, 4.0, 3.0])
    features = np.stack([column, np.full(4, 0.1), 5 - 2 * column, column + 7], axis=1)
    assert winner._standardised(features).shape == (4, 1)


def test_the_gradient_of_the_loss_is_right() -> None:
    generator = np.random.default_rng(2)
    features, values = generator.normal(size=(9, 3)), generator.normal(size=9)
    model = winner._Model.of(features, values, np.array([0, 1, 2, 3, 3, 4, 5, 6, 6]), added=np.linspace(0, 1, 9))
    at = model.prior_mean + generator.normal(0, 0.5, 7)
    _, gradient = model._loss(at)
    for index, step in enumerate(np.eye(7) * 1e-6):
        rise = (model._loss(at + step)[0] - model._loss(at - step)[0]) / 2e-6
        assert gradient[index] == pytest.approx(rise, rel=1e-4, abs=1e-6)


def test_a_subset_of_many_trainings_decides_the_hyperparameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """All trainings are scored, and nearly as if all had decided."""
    generator = np.random.default_rng(7)
    features = generator.normal(size=(120, 3))
    values = features[:, 0] + generator.normal(0, 1, 120)
    every = smooth(features, values, range(120))
    monkeypatch.setattr(winner, "_MAX_FITTED", 60)
    subset = smooth(features, values, range(120))
    assert np.corrcoef(subset, every)[0, 1] > 0.95
    order = generator.permutation(120)
    assert (smooth(features[order], values[order], order) == subset[order]).all(), "in any order"


@pytest.mark.parametrize("seed", range(3))
def test_the_budget_sampler_recommends_the_same_winner(seed: int) -> None:
    """With repeats and pruned trials: from the records of the runs, and from the trials of the study."""
    generator, study = random.Random(seed), optuna.create_study(direction="maximize")
    distributions = search_ranges(SPACE).distributions
    candidates, trained = drawn(20, seed), []
    for candidate in [*candidates, *candidates[:6]]:
        params = SPACE.params_of(candidate)
        assert params is not None
        accuracy = 0.9 + generator.gauss(0, 0.01)
        complete, early = generator.random() < 0.8, accuracy - 0.1 + generator.gauss(0, 0.01)
        curve = (early, accuracy) if complete else (early,)
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                params=params,
                distributions={name: distributions[name] for name in params},
                value=accuracy if complete else None,
                intermediate_values=dict(enumerate(curve, 1)),
            )
        )
        trained.append(Trained(candidate, curve[-1], curve, complete))
    sampler = search_sampler(BUDGET, 0, SPACE, SPECIFICATION.budget, 50)
    assert hasattr(sampler, "recommend")
    recommended = SPACE.candidate(sampler.recommend(study).params)
    winner = best_first(SPECIFICATION, trained)[0]
    assert recommended == trained[winner.first].candidate
    complete_only = best_first(SPECIFICATION, [training for training in trained if training.complete])[0]
    assert trained[winner.first].complete and winner.expected != complete_only.expected, "pruned trials count"


@settings(max_examples=10, deadline=None)
@given(observed(), st.lists(st.booleans(), min_size=14, max_size=14))
def test_only_candidates_with_a_complete_training_are_ranked(
    trained: tuple[list[Candidate], list[float]], complete: list[bool]
) -> None:
    trainings = [
        Trained(candidate, accuracy, (accuracy - 0.1, accuracy) if whole else (accuracy - 0.1,), whole)
        for candidate, accuracy, whole in zip(*trained, complete, strict=False)
    ]
    found = best_first(SPECIFICATION, trainings)
    assert all(trainings[entry.first].complete for entry in found)
    ranked_keys = [trainings[entry.first].candidate.key for entry in found]
    assert sorted(ranked_keys) == sorted({training.candidate.key for training in trainings if training.complete})
    assert [entry.trainings for entry in found] == [
        sum(training.complete and training.candidate.key == key for training in trainings) for key in ranked_keys
    ]


def test_two_hundred_trainings_take_about_a_second() -> None:
    candidates = drawn(200, seed=6)
    accuracies = [random.Random(index).gauss(0.9, 0.01) for index in range(200)]
    ranked(candidates[:20], accuracies[:20])
    started = time.process_time()
    ranked(candidates, accuracies)
    assert time.process_time() - started < 3
