"""The trainings of a study that the model learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from budgetnas.samplers.budget_sampler.encoding import Floats, Params, Ranges

Key = tuple[tuple[str, Any], ...]
Result = tuple[Params, float]
"""A candidate's parameters and the result of a training; lower is better."""
_OUTLIER: Final = 5.0
"""Results are clipped at this many robust standard deviations above the median."""


def key_of(params: Mapping[str, Any]) -> Key:
    """Return a key that is equal for equal candidates."""
    return tuple(sorted(params.items()))


@dataclass(frozen=True, slots=True)
class Observed:
    """Trainings of candidates; lower is better."""

    candidates: tuple[Params, ...]  # the distinct candidates, with all of their parameters
    which: NDArray[np.intp]  # the candidate of each training, as an index
    values: Floats  # the result of each training
    waiting: tuple[Params, ...] = ()  # candidates whose training has not ended

    @classmethod
    def of(cls, complete: Sequence[Result], pruned: Sequence[Result] = (), waiting: Iterable[Params] = ()) -> Observed:
        """Group trainings by candidate.

        A pruned training counts as no better than the median of the complete trainings. A result far above all others,
        such as that of a diverged training, is clipped: it would hide the differences between the others.

        Args:
            complete: Trainings that ended.
            pruned: Trainings that ended early, with their last results; ignored while no training is complete.
            waiting: Candidates whose training has not ended.
        """
        if not complete:
            return _grouped([], tuple(waiting))
        median = float(np.median([value for _, value in complete]))
        bounded = [(params, max(median, value)) for params, value in pruned]
        return _grouped([*complete, *bounded], tuple(waiting))

    def __len__(self) -> int:
        return len(self.values)

    def with_expected(self, expected: Iterable[float]) -> Observed:
        """Return the trainings as if the waiting candidates had ended with these results."""
        ended = [(self.candidates[index], float(value)) for index, value in zip(self.which, self.values, strict=True)]
        return _grouped([*ended, *zip(self.waiting, expected, strict=True)], ())


def observe(study: Study, ranges: Ranges, *, except_trial: int | None = None) -> Observed:
    """Return the trainings of a study's candidates that have the parameters of `ranges`.

    The trial with the number `except_trial` is left out.
    """
    every = study.get_trials(deepcopy=False)
    trials = [trial for trial in every if trial.number != except_trial and ranges.complete(trial.params)]
    sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
    complete = [
        (trial.params, sign * float(trial.value))
        for trial in trials
        if trial.state is TrialState.COMPLETE and trial.value is not None
    ]
    ended = [trial for trial in trials if trial.state is TrialState.PRUNED]
    pruned = [(trial.params, sign * _last(trial, -sign * np.inf)) for trial in ended]
    waiting = (trial.params for trial in trials if trial.state is TrialState.RUNNING)
    return Observed.of(complete, pruned, waiting)


def _last(trial: FrozenTrial, default: float) -> float:
    return default if not trial.intermediate_values else trial.intermediate_values[max(trial.intermediate_values)]


def _grouped(results: Sequence[Result], waiting: tuple[Params, ...]) -> Observed:
    indexes: dict[object, int] = {}
    candidates: list[Params] = []
    which = []
    for params, _ in results:
        index = indexes.setdefault(key_of(params), len(candidates))
        if index == len(candidates):
            candidates.append(dict(params))
        which.append(index)
    values = np.array([value for _, value in results], dtype=np.float64)
    return Observed(tuple(candidates), np.array(which, dtype=np.intp), clipped(values, _OUTLIER), waiting)


def clipped(values: Floats, spreads: float) -> Floats:
    """Return `values`, at most `spreads` robust standard deviations (1.4826 median deviations) above the median."""
    if len(values) == 0:
        return values
    median = np.median(values)
    deviation = 1.4826 * np.median(np.abs(values - median))
    return np.minimum(values, median + spreads * deviation) if deviation > 0 else values
