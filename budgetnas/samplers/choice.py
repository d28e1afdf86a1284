"""Which candidates go to the final: by what all trainings say of each, not by its luckiest one.

A training's accuracy is what its candidate is worth plus what its seed did, and after a search the second is as large
as the differences that matter. So each candidate's score is the posterior mean of its accuracy under a model of all
trainings of the study.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from budgetnas.architecture import count as counts_of
from budgetnas.space.search_space import Candidate

Floats = NDArray[np.float64]

FEWEST_TRAININGS: Final = 5
"""With fewer there is nothing to learn a model from: a candidate's score is the mean of its own trainings."""
_MOST_FITTED: Final = 300
"""Of more trainings so many, evenly spread from the worst to the best, decide the variances and length scales."""
_SAME: Final = 1e-9
"""Accuracies no farther apart are equal."""
_OF_THE_OPTIMIZER: Final = ("learning_rate", "weight_decay")
"""Fields of a recipe that mean something else under another optimiser."""
_SPREADS: Final = 3.0
"""How many robust standard deviations below the median a training still counts as what it is."""
_CONSTANT: Final = 10.0
"""Variance of the mean accuracy, in variances of the accuracies: vague."""
_VARIANCE: Final = 0.5
"""Median of the prior of each part's variance, in variances of the accuracies: none is preferred to another."""
_BOUND: Final = 5.0
"""How many standard deviations of its prior a hyperparameter may move."""


def smoothed_scores(candidates: Sequence[Candidate], accuracies: Sequence[float]) -> tuple[float, ...]:
    """Return, for each observed training, the posterior mean accuracy of its candidate.

    What is known of a candidate before training is taken from its dumped values: every number, choice and switch in
    which the candidates differ, beside parameters and multiply-accumulates. Numbers are taken on a log scale;
    the learning rate and weight decay of each optimiser are columns of their own. The model is that of `smooth`.

    Args:
        candidates: What was trained; a candidate trained twice stands here twice.
        accuracies: What each training reached.

    Returns:
        As many scores, in the same order, equal for equal candidates. A score may lie outside of what was observed.

    Raises:
        ValueError: If there are not as many of one as of the other, or an accuracy is not finite.
    """
    keys = {key: index for index, key in enumerate(dict.fromkeys(one.key for one in candidates))}
    groups = [keys[one.key] for one in candidates]
    return tuple(float(score) for score in smooth(candidate_features(candidates), accuracies, groups))


def finalists(candidates: Sequence[Candidate], accuracies: Sequence[float], count: int) -> tuple[int, ...]:
    """Return where the `count` best distinct candidates stand first, by their smoothed scores, the best first.

    Of equal scores the one with fewer parameters comes first, then the one with the lesser digests, so that the order
    in which the trainings were recorded decides nothing.

    Args:
        candidates: What was trained; a candidate trained twice stands here twice.
        accuracies: What each training reached.
        count: How many to return; fewer if there are no more.

    Raises:
        ValueError: If `count` is below 1, the lengths differ, or an accuracy is not finite.
    """
    if count < 1:
        raise ValueError(f"finalists: {count} finalists; at least 1 is needed")
    return rank(candidates, smoothed_scores(candidates, accuracies))[:count]


def rank(candidates: Sequence[Candidate], scores: Sequence[float]) -> tuple[int, ...]:
    """Return where each distinct candidate stands first, the highest score first; ties as in `finalists`."""
    first = {one.key: index for index, one in reversed(list(enumerate(candidates)))}

    def place(index: int) -> tuple[float, int, tuple[str, str]]:
        return -scores[index], counts_of(candidates[index].architecture).params, candidates[index].key

    return tuple(sorted(first.values(), key=place))


def candidate_features(candidates: Sequence[Candidate]) -> Floats:
    """Return one row of numbers for each candidate: all that differs between them and is known before training."""
    facts = [dict(_facts(one)) for one in candidates]
    names = sorted({name for one in facts for name in one})
    columns = [column for name in names for column in _columns([one.get(name) for one in facts])]
    return np.array(columns, dtype=np.float64).reshape(len(columns), len(facts)).T


def smooth(features: Floats, values: Sequence[float] | Floats, groups: Sequence[int]) -> Floats:
    """Return the posterior mean of each training's group under a Gaussian process over `features`.

    The value of a training is a constant, plus a part linear in the features, plus a smooth part (squared exponential
    with a length scale for each feature), plus what is its group's own, plus noise. The variances and length scales
    have the greatest posterior density, that is the greatest marginal likelihood times weak priors (Rasmussen and
    Williams 2006, "Gaussian processes for machine learning", sections 2.2, 2.7 and 5.4.1). Length scales have the prior
    of Hvarfner, Hellsten and Nardi 2024, "Vanilla Bayesian optimization performs great in high dimensions": they grow
    with the number of features.

    Values far below the median are moved up to three robust standard deviations (1.4826 times the median absolute
    deviation) below it, so that a diverged training counts as a bad one and not as more. Where that deviation is 0,
    none is moved.

    Args:
        features: One row for each training; constant and repeated columns are left out.
        values: What each training reached, more being better.
        groups: A number for each training, equal for trainings of the same thing.

    Raises:
        ValueError: If the lengths differ or a value is not finite.
    """
    observed, members = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if not len(features) == len(observed) == len(members):
        raise ValueError(f"smooth: {len(features)} rows, {len(observed)} values and {len(members)} groups")
    if not np.isfinite(observed).all():
        raise ValueError("smooth: every value must be finite")
    raised = _raised(observed)
    if len(observed) < FEWEST_TRAININGS or np.ptp(raised) <= _SAME:
        return _group_means(raised, members)
    order = np.lexsort((*features.T, raised))
    scores = np.empty_like(raised)
    scores[order] = _posterior(_standardised(features[order]), raised[order], members[order])
    return _group_means(scores, members)


def _raised(values: Floats) -> Floats:
    if len(values) == 0:
        return values
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    return np.maximum(values, middle - _SPREADS * spread) if spread > 0 else values


def _group_means(values: Floats, groups: NDArray[Any]) -> Floats:
    _, inverse = np.unique(groups, return_inverse=True)
    means: Floats = np.bincount(inverse, weights=values) / np.bincount(inverse)
    return means[inverse]


def _standardised(features: Floats) -> Floats:
    kept: dict[bytes, Floats] = {}
    for column in features.T:
        centred = column - column.mean()
        spread = float(centred.std())
        if spread > 1e-9 * max(1.0, float(np.abs(column).max())):
            scaled = centred / spread
            sign = math.copysign(1.0, scaled[np.argmax(np.abs(scaled) > 1e-6)])
            kept.setdefault((np.round(sign * scaled, 6) + 0.0).tobytes(), scaled)
    return np.array(list(kept.values())).reshape(len(kept), len(features)).T


def _posterior(features: Floats, values: Floats, groups: NDArray[Any]) -> Floats:
    middle, spread = float(values.mean()), float(values.std())
    scaled = (values - middle) / spread
    some = np.unique(np.linspace(0, len(values) - 1, _MOST_FITTED).round().astype(np.int64))
    logs = _Model.of(features[some], scaled[some], groups[some]).fitted()
    return middle + spread * _Model.of(features, scaled, groups).posterior_mean(logs)


@dataclass(frozen=True, slots=True)
class _Model:
    """The kernel's parts, and the priors of the hyperparameters.

    These are logarithms: of the variances of the linear part, the smooth part, the group's own and noise, then of the
    length scale of each feature.
    """

    values: Floats
    linear: Floats
    squares: Floats
    same: Floats
    prior_mean: Floats
    prior_spread: Floats

    @classmethod
    def of(cls, features: Floats, values: Floats, groups: NDArray[Any]) -> _Model:
        num = features.shape[1]
        differences = features.T[:, :, None] - features.T[:, None, :]
        scale = math.sqrt(2) + math.log(max(num, 1)) / 2
        return cls(
            values=values,
            linear=features @ features.T / max(num, 1),
            squares=differences**2,
            same=(groups[:, None] == groups[None, :]).astype(np.float64),
            prior_mean=np.concatenate([np.full(4, math.log(_VARIANCE)), np.full(num, scale)]),
            prior_spread=np.concatenate([np.full(4, 1.5), np.full(num, math.sqrt(3))]),
        )

    def fitted(self) -> Floats:
        reach = _BOUND * self.prior_spread
        bounds = list(zip(self.prior_mean - reach, self.prior_mean + reach, strict=True))
        found = minimize(self._loss, self.prior_mean, jac=True, method="L-BFGS-B", bounds=bounds)
        return np.asarray(found.x, dtype=np.float64)

    def posterior_mean(self, logs: Floats) -> Floats:
        signal = self._signal(logs)
        noise = np.exp(logs[3]) * np.eye(len(signal))
        return np.asarray(signal @ cho_solve(cho_factor(signal + noise, lower=True), self.values))

    def _signal(self, logs: Floats) -> Floats:
        linear, smooth_, group = np.exp(logs[:3])
        return np.asarray(_CONSTANT + linear * self.linear + smooth_ * self._bell(logs) + group * self.same)

    def _bell(self, logs: Floats) -> Floats:
        return np.asarray(np.exp(-0.5 * np.tensordot(np.exp(-2 * logs[4:]), self.squares, axes=1)))

    def _loss(self, logs: Floats) -> tuple[float, Floats]:
        linear, smooth_, group, noise = np.exp(logs[:4])
        bell = smooth_ * self._bell(logs)
        eye = np.eye(len(bell))
        factor = cho_factor(_CONSTANT + linear * self.linear + bell + group * self.same + noise * eye, lower=True)
        weights = cho_solve(factor, self.values)
        slope = 0.5 * (cho_solve(factor, eye) - np.outer(weights, weights))
        parts = [np.sum(slope * part) for part in (linear * self.linear, bell, group * self.same, noise * eye)]
        scales = np.tensordot(self.squares, slope * bell, axes=2) * np.exp(-2 * logs[4:])
        off = (logs - self.prior_mean) / self.prior_spread
        loss = 0.5 * self.values @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        return float(loss), np.concatenate([parts, scales]) + off / self.prior_spread


def _facts(candidate: Candidate) -> Iterator[tuple[str, Any]]:
    counts = counts_of(candidate.architecture)
    recipe = candidate.recipe.model_dump(mode="json")
    own = {name: recipe.pop(name) for name in _OF_THE_OPTIMIZER}
    yield from _flat("recipe", recipe)
    yield from _flat(f"recipe.{candidate.recipe.optimizer}", own)
    yield from _flat("architecture", candidate.architecture.to_dict())
    yield from (("params", counts.params), ("macs", counts.macs))


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _flat(f"{name}.{key}", one)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, one in enumerate(value):
            yield from _flat(f"{name}.{index}", one)
    else:
        yield name, value


def _columns(values: Sequence[Any]) -> Iterator[list[float]]:
    """Yield a column for the numbers, and one for each further thing that the values may be instead."""
    numbers = [value for value in values if _is_number(value)]
    if numbers:
        yield _on_a_log_scale(values, numbers)
    kinds = ["a number" if _is_number(value) else repr(value) for value in values]
    for kind in sorted(set(kinds))[1:]:
        yield [float(one == kind) for one in kinds]


def _on_a_log_scale(values: Sequence[Any], numbers: Sequence[float]) -> list[float]:
    """Return logs, or the numbers where one is negative.

    Zero stands for half of the lowest number above it, and what is no number for the mean.
    """
    lowest = min((one for one in numbers if one > 0), default=1.0) / 2
    logs = min(numbers) >= 0
    known = [math.log(max(one, lowest)) if logs else float(one) for one in numbers]
    mean, taken = math.fsum(known) / len(known), iter(known)
    return [next(taken) if _is_number(value) else mean for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
