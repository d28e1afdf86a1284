"""The winner of a search and the finalists of its final: the candidates with the best expected accuracy.

A training's accuracy is the candidate's expected accuracy plus noise from its seed, and the noise is as large as the
differences between good candidates. So candidates are ranked by the accuracy that all trainings of the study together
predict. `BudgetSampler.recommend` uses the same rule and names the same winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from budgetnas.architecture import count
from budgetnas.metrics import Epoch, Measure
from budgetnas.space.candidates import Candidate
from budgetnas.space.specification import StudySpecification


@dataclass(frozen=True, slots=True)
class Trained:
    """A training of a search."""

    candidate: Candidate
    accuracy: float  # validation accuracy after its last epoch, as a share of 1
    curve: tuple[float, ...] = ()  # validation accuracy after each of its epochs; only pruning needs it
    complete: bool = True  # False if it was pruned


def trained_of(candidate: Candidate, curve: Sequence[Epoch], measure: Measure, *, complete: bool) -> Trained:
    """Return a training with at least one epoch, judged by `measure`."""
    accuracies = tuple(measure.of(epoch) for epoch in curve)
    return Trained(candidate, accuracies[-1], accuracies, complete)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A trained candidate."""

    first: int  # index of its first complete training
    expected: float  # accuracy that all trainings of the study predict for it; it may lie outside the observed ones
    mean: float  # mean accuracy of its complete trainings
    trainings: int  # number of its complete trainings


def best_first(specification: StudySpecification, trained: Sequence[Trained]) -> tuple[Ranked, ...]:
    """Return the distinct candidates with a complete training by expected accuracy, the winner first.

    Ties are broken by fewer parameters, then by the lower digests, so the order of the trainings does not matter.

    A repeated candidate appears several times in `trained`. Pruned trainings count for the expected accuracies.

    Raises:
        ValueError: If an accuracy is not finite.
    """
    indexes: dict[tuple[str, str], list[int]] = {}
    for index, training in enumerate(trained):
        if training.complete:
            indexes.setdefault(training.candidate.key, []).append(index)
    expected = _expected(specification, trained)
    ranked = []
    for key, own in indexes.items():
        mean = fmean(trained[index].accuracy for index in own)
        ranked.append(Ranked(own[0], expected.get(key, mean), mean, len(own)))

    def order(ranked: Ranked) -> tuple[float, int, tuple[str, str]]:
        candidate = trained[ranked.first].candidate
        return -ranked.expected, count(candidate.architecture).params, candidate.key

    return tuple(sorted(ranked, key=order))


def _expected(specification: StudySpecification, trained: Sequence[Trained]) -> dict[tuple[str, str], float]:
    """Return the expected accuracy of each candidate in the study's search space."""
    from budgetnas.samplers.budget_sampler.encoding import Encoding  # slow to import: Optuna
    from budgetnas.samplers.budget_sampler.observed import Training, key_of
    from budgetnas.samplers.budget_sampler.winner import expected_values
    from budgetnas.samplers.distributions import budget_share, search_ranges

    space = specification.candidates
    every = {training.candidate.key: space.params_of(training.candidate) for training in trained}
    known = {key: params for key, params in every.items() if params is not None}
    trainings = [
        Training(
            known[training.candidate.key],
            {epoch: -accuracy for epoch, accuracy in enumerate(training.curve, 1)},
            -training.accuracy if training.complete else None,
        )
        for training in trained
        if training.candidate.key in known
    ]
    encoding = Encoding.of(search_ranges(space).distributions)
    expected = expected_values(trainings, encoding, budget_share(space, specification.budget))
    return {key: -expected[key_of(params)] for key, params in known.items() if key_of(params) in expected}
