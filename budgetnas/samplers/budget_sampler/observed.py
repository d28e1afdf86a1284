"""The trainings of a study that the model learns from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from budgetnas.samplers.budget_sampler.curves import Curve, Prediction, predicted
from budgetnas.samplers.budget_sampler.encoding import Floats, Params, Ranges

Key = tuple[tuple[str, Any], ...]
_SMALLEST: Final = 1e-12
_OUTLIER: Final = 5.0
"""Results are clipped at this many robust standard deviations above the median."""
_SLIGHTLY: Final = 1e-3


def key_of(params: Mapping[str, Any]) -> Key:
    """Return a key that is equal for equal candidates."""
    return tuple(sorted(params.items()))


@dataclass(frozen=True, slots=True)
class Training:
    """A training that ended; lower results are better."""

    params: Params
    curve: Curve  # its results after some of its epochs; may be empty
    result: float | None  # its last result; None if it ended early


@dataclass(frozen=True, slots=True)
class Result:
    """A candidate's parameters and the result of a training; lower is better."""

    params: Params
    value: float
    variance: float = 0.0  # of the result around `value`, if that is a prediction


@dataclass(frozen=True, slots=True)
class Observed:
    """Trainings of candidates; lower is better."""

    candidates: tuple[Params, ...]  # the distinct candidates, with all of their parameters
    which: NDArray[np.intp]  # the candidate of each training, as an index
    values: Floats  # the result of each training
    variances: Floats  # variance of each training's result around its value; 0 for a complete training
    waiting: tuple[Params, ...] = ()  # candidates whose training has not ended

    @classmethod
    def of(
        cls, trainings: Sequence[Training], waiting: Iterable[Params] = (), failed: Iterable[Params] = ()
    ) -> Observed:
        """Group trainings by candidate.

        A training that ended early counts with its predicted result. Without a prediction it counts as no better than
        the median of the complete trainings, with their variance. A result far above all others, such as that of a
        diverged training, is clipped: it would hide the differences between the others.

        A training that failed counts as a diverged one: a model that learned nothing from it would propose the same
        again. While no training is complete, none counts. Candidates `waiting` have a training that has not ended.
        """
        complete = [Result(training.params, training.result) for training in trainings if training.result is not None]
        if not complete:
            return _grouped([], (*waiting, *failed))
        values = [result.value for result in complete]
        median, spread = float(np.median(values)), max(float(np.var(values)), _SMALLEST)
        early = [
            Result(training.params, max(median, _last(training.curve, otherwise=median)), spread)
            if prediction is None
            else Result(training.params, prediction.value, prediction.variance)
            for training, prediction in predictions(trainings)
        ]
        worst = _diverged(np.array(values))
        diverged = [Result(params, worst, _SMALLEST) for params in failed]  # a variance of 0 would mean complete
        return _grouped([*complete, *early, *diverged], tuple(waiting))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def complete_trainings(self) -> int:
        """Number of trainings that did not end early and did not fail."""
        return int((self.variances == 0).sum())

    def is_complete(self) -> NDArray[np.bool_]:
        """Return for each candidate whether it has a complete training."""
        return np.bincount(self.which[self.variances == 0], minlength=len(self.candidates)) > 0

    def complete(self) -> Observed:
        """Return the complete trainings, with no candidate waiting."""
        results = [result for result in self._results() if not result.variance]
        return _grouped(results, ())

    def with_expected(self, expected: Iterable[float]) -> Observed:
        """Return the trainings as if the waiting candidates had ended with these results."""
        return _grouped([*self._results(), *map(Result, self.waiting, expected)], ())

    def _results(self) -> list[Result]:
        rows = zip(self.which, self.values, self.variances, strict=True)
        return [Result(self.candidates[index], float(value), float(variance)) for index, value, variance in rows]


def predictions(trainings: Sequence[Training]) -> list[tuple[Training, Prediction | None]]:
    """Return the trainings that ended early, each with what it would have come to; None if that is unknown."""
    complete = [(training.curve, training.result) for training in trainings if training.result is not None]
    return [(training, predicted(training.curve, complete)) for training in trainings if training.result is None]


def observe(
    study: Study, ranges: Ranges, fits: Callable[[Params], bool], *, except_trial: int | None = None
) -> Observed:
    """Return the trainings of a study's candidates that have the parameters of `ranges`.

    Args:
        study: The study.
        ranges: The parameters.
        fits: Whether a candidate is within the limit. A failed trial counts only if it is: others were never trained.
        except_trial: Number of a trial to leave out.
    """
    every = study.get_trials(deepcopy=False)
    trials = [trial for trial in every if trial.number != except_trial and ranges.complete(trial.params)]
    # An enqueued value outside the search space is refused, but stays in its trial.
    waiting = [trial.params for trial in trials if trial.state is TrialState.RUNNING and ranges.contains(trial.params)]
    trainings = trainings_of(trials, study.direction)
    # A candidate that is trained elsewhere, or was, has not failed: that trial was refused as a second one.
    known = {key_of(params) for params in (*waiting, *(training.params for training in trainings))}
    failed = [
        trial.params
        for trial in trials
        if (trial.state is TrialState.FAIL or _is_infinite(trial))
        and key_of(trial.params) not in known
        and ranges.contains(trial.params)
        and fits(trial.params)
    ]
    return Observed.of(trainings, waiting, failed)


def trainings_of(trials: Iterable[FrozenTrial], direction: StudyDirection) -> list[Training]:
    """Return the trainings of the complete and the pruned trials; one whose value is infinite says nothing."""
    sign = 1.0 if direction == StudyDirection.MINIMIZE else -1.0
    trainings = []
    for trial in trials:
        curve = {step: sign * value for step, value in trial.intermediate_values.items()}
        if _is_infinite(trial):
            continue
        if trial.state is TrialState.COMPLETE and trial.value is not None:
            trainings.append(Training(trial.params, curve, sign * float(trial.value)))
        elif trial.state is TrialState.PRUNED:
            trainings.append(Training(trial.params, curve, None))
    return trainings


def _is_infinite(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.COMPLETE and trial.value is not None and math.isinf(trial.value)


def _last(curve: Curve, *, otherwise: float) -> float:
    """Return the last result; `otherwise` if there is none, or it is not finite."""
    last = curve[max(curve)] if curve else otherwise
    return last if math.isfinite(last) else otherwise


def _grouped(results: Sequence[Result], waiting: tuple[Params, ...]) -> Observed:
    indexes: dict[object, int] = {}
    candidates: list[Params] = []
    which = []
    for result in results:
        index = indexes.setdefault(key_of(result.params), len(candidates))
        if index == len(candidates):
            candidates.append(dict(result.params))
        which.append(index)
    values = np.array([result.value for result in results], dtype=np.float64)
    variances = np.array([result.variance for result in results], dtype=np.float64)
    return Observed(tuple(candidates), np.array(which, dtype=np.intp), clipped(values, _OUTLIER), variances, waiting)


def clipped(values: Floats, spreads: float) -> Floats:
    """Return `values`, at most `spreads` robust standard deviations (1.4826 median deviations) above the median."""
    if len(values) == 0:
        return values
    highest = _highest(values, spreads)
    return np.minimum(values, highest) if highest > np.median(values) else values


def _diverged(values: Floats) -> float:
    """Return the result that a failed training counts as, above all complete `values`."""
    highest = _highest(values, _OUTLIER)
    if highest > values.max():
        return highest
    # At least half of them are equal, such as the only one, or diverged ones are among them.
    return float(values.max() + (values.std() or max(abs(values.max()), 1.0) * _SLIGHTLY))


def _highest(values: Floats, spreads: float) -> float:
    median = np.median(values)
    return float(median + spreads * (1.4826 * np.median(np.abs(values - median))))
