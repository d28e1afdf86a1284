"""What a study has seen of candidates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from budgetnas.samplers.budget_sampler.encoding import Floats
from budgetnas.samplers.budget_sampler.pool import key_of
from budgetnas.samplers.budget_sampler.ranges import Params, Ranges

_OUTLIER: Final = 5.0
"""Standard deviations beyond the median at which a bad result is cut off; told from the median deviation."""
_NORMAL: Final = 1.4826


@dataclass(frozen=True, slots=True)
class Observed:
    """Trainings of candidates, the less the better.

    Attributes:
        candidates: The distinct ones, all of their parameters.
        which: For each training, its candidate.
        values: The result of each training.
        waiting: Candidates whose training has not ended.
    """

    candidates: tuple[Params, ...]
    which: NDArray[np.intp]
    values: Floats
    waiting: tuple[Params, ...] = ()

    def __len__(self) -> int:
        return len(self.values)


def observe(study: Study, ranges: Ranges, *, but: int | None = None) -> Observed:
    """Return what a study has seen of candidates that have the parameters of `ranges`.

    A pruned trial is taken to be no better than the median of those that are complete. A result far worse than all
    others, as of a training that came to nothing, is cut off: it would hide the differences between the others.

    Args:
        study: The study.
        ranges: The parameters.
        but: Number of a trial to leave out.
    """
    trials = [one for one in study.get_trials(deepcopy=False) if one.number != but and ranges.complete(one.params)]
    sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
    trained = [(one.params, sign * float(one.value)) for one in trials if is_complete(one) and one.value is not None]
    if trained:
        median = float(np.median([value for _, value in trained]))
        cut = [one for one in trials if one.state is TrialState.PRUNED]
        trained += [(one.params, max(median, sign * _last(one, sign * median))) for one in cut]
    waiting = tuple(one.params for one in trials if one.state is TrialState.RUNNING)
    return _grouped(trained, waiting)


def is_complete(trial: FrozenTrial) -> bool:
    """Return whether a trial has a result."""
    return trial.state is TrialState.COMPLETE


def with_expected(seen: Observed, expected: Iterable[float]) -> Observed:
    """Return `seen` as if the trainings that it waits for had ended with these results."""
    results = [(seen.candidates[index], float(value)) for index, value in zip(seen.which, seen.values, strict=True)]
    return _grouped([*results, *zip(seen.waiting, expected, strict=True)], ())


def _grouped(trained: list[tuple[dict[str, Any], float]], waiting: tuple[Params, ...]) -> Observed:
    places: dict[object, int] = {}
    candidates: list[Params] = []
    which = []
    for params, _ in trained:
        place = places.setdefault(key_of(params), len(candidates))
        if place == len(candidates):
            candidates.append(dict(params))
        which.append(place)
    values = np.array([value for _, value in trained], dtype=np.float64)
    return Observed(tuple(candidates), np.array(which, dtype=np.intp), _cut_off(values), waiting)


def _cut_off(values: Floats) -> Floats:
    if len(values) == 0:
        return values
    median = float(np.median(values))
    deviation = _NORMAL * float(np.median(np.abs(values - median)))
    return np.minimum(values, median + _OUTLIER * deviation) if deviation > 0 else values


def _last(trial: FrozenTrial, otherwise: float) -> float:
    return otherwise if not trial.intermediate_values else trial.intermediate_values[max(trial.intermediate_values)]
