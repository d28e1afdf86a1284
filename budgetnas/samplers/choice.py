"""The winner of a search and the finalists of its final: the candidates with the best expected accuracy.

A training's accuracy is the candidate's worth plus the luck of its seed, and the luck is as large as the differences
that matter. So candidates are ranked by the accuracy that all trainings of the study together predict. The model is
that of `BudgetSampler`, so `BudgetSampler.recommend` names the same winner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from budgetnas.architecture import count
from budgetnas.space.search_space import Candidate
from budgetnas.space.specification import StudySpecification

if TYPE_CHECKING:
    from budgetnas.samplers.budget_sampler.observed import Result


@dataclass(frozen=True, slots=True)
class Trained:
    """A training of a search.

    Attributes:
        candidate: The trained candidate.
        accuracy: Validation accuracy after its last epoch, as a share of 1.
        complete: False if the training was pruned: it counts as no better than the median, and cannot win.
    """

    candidate: Candidate
    accuracy: float
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate with a complete training.

    Attributes:
        first: Index of its first complete training.
        expected: Accuracy that all trainings of the study predict for it; it may lie outside the observed ones.
        mean: Mean accuracy of its complete trainings.
        trainings: Number of its complete trainings.
    """

    first: int
    expected: float
    mean: float
    trainings: int


def best_first(specification: StudySpecification, trained: Sequence[Trained]) -> tuple[Ranked, ...]:
    """Return the distinct candidates by expected accuracy, the winner first.

    Among equal expected accuracies the candidate with fewer parameters comes first, then the lower
    digests, so the order of the trainings does not matter.

    Args:
        specification: The study's search space and budget.
        trained: Every training; a repeated candidate appears several times.

    Raises:
        ValueError: If an accuracy is not finite.
    """
    if not all(math.isfinite(training.accuracy) for training in trained):
        raise ValueError("best_first: every accuracy must be finite")
    indexes: dict[tuple[str, str], list[int]] = {}
    for index, training in enumerate(trained):
        if training.complete:
            indexes.setdefault(training.candidate.key, []).append(index)
    if not indexes:
        return ()
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
    from budgetnas.samplers.budget_sampler.model import ValueModel  # slow to import: Optuna
    from budgetnas.samplers.budget_sampler.observed import Observed, key_of
    from budgetnas.samplers.distributions import budget_share, search_ranges

    space = specification.candidates
    params = {training.candidate.key: space.params_of(training.candidate) for training in trained}

    def results(*, complete: bool) -> Iterator[Result]:
        for training in trained:
            values = params[training.candidate.key]
            if values is not None and training.complete == complete:
                yield values, -training.accuracy

    observed = Observed.of([*results(complete=True)], [*results(complete=False)])
    if not len(observed):
        return {}
    model = ValueModel.of(search_ranges(space), budget_share(space, specification.budget))
    expected = dict(zip(map(key_of, observed.candidates), -model.expected(observed), strict=True))
    return {key: float(expected[key_of(values)]) for key, values in params.items() if values is not None}
