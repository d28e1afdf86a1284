"""The winner: the candidate with the best expected value after all trainings of a study.

A training's result is the candidate's value plus noise from its seed. So candidates are compared by the posterior mean
of a Gaussian process over all trainings. This model is more flexible than the regression behind the proposals, but too
slow for the inner loop of a sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from budgetnas.samplers.budget_sampler.encoding import Encoding, Floats, Params
from budgetnas.samplers.budget_sampler.observed import Key, Result, Training, clipped, key_of, predictions

FEWEST_TRAININGS: Final = 5
"""With fewer trainings there is nothing to fit: a candidate's expected value is the mean of its own trainings."""
_MAX_FITTED: Final = 300
"""Largest number of trainings that the hyperparameters are fitted to; of more, a subset from the worst to the best."""
_SAME: Final = 1e-9
"""Values that differ by no more than this are equal."""
_SPREADS: Final = 3.0
"""Results are clipped at this many robust standard deviations on the bad side of the median."""
_CONSTANT: Final = 10.0
"""Prior variance of the mean value, in variances of the results: vague."""
_VARIANCE: Final = 0.5
"""Prior median of each part's variance, in variances of the results: the same for all parts."""
_BOUND: Final = 5.0
"""Range of a hyperparameter, in standard deviations of its prior."""


def expected_values(
    trainings: Sequence[Training], encoding: Encoding, cost: Callable[[Params], float]
) -> dict[Key, float]:
    """Return the expected value of each distinct candidate; the winner is the lowest with a complete training.

    The features of a candidate are its coded parameters and the logarithm of its cost. Trainings that ended early count
    with their predicted results, whose variance is added to the noise. Those without a prediction do not count, and
    with fewer than `FEWEST_TRAININGS` trainings in all only the complete ones do.

    A repeated candidate appears several times in the trainings.

    Raises:
        ValueError: If a result is not finite.
    """
    complete = [Result(training.params, training.result) for training in trainings if training.result is not None]
    early = [
        Result(training.params, prediction.value, prediction.variance)
        for training, prediction in predictions(trainings)
        if prediction is not None
    ]
    results = [*complete, *early] if len(complete) + len(early) >= FEWEST_TRAININGS else complete
    candidates = [result.params for result in results]
    keys = [key_of(params) for params in candidates]
    indexes = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    costs = np.array([cost(params) for params in candidates], dtype=np.float64)
    logs = np.log(np.maximum(costs, np.finfo(np.float64).tiny))
    features = np.column_stack([encoding.code(candidates), logs])
    values, variances = [-result.value for result in results], [result.variance for result in results]
    means = smooth(features, values, [indexes[key] for key in keys], variances)
    return {key: -float(mean) for key, mean in zip(keys, means, strict=True)}


def smooth(
    features: Floats, values: Sequence[float] | Floats, groups: Sequence[int], variances: Sequence[float] | None = None
) -> Floats:
    """Return the posterior mean of each training's group under a Gaussian process over `features`; higher is better.

    The value of a training is a constant, plus a part linear in the features, plus a smooth part (squared exponential
    with a length scale per feature), plus a random effect of the group, plus noise.

    Variances and length scales maximise the posterior density: the marginal likelihood times weak priors (Rasmussen and
    Williams 2006, "Gaussian processes for machine learning", sections 2.2, 2.7 and 5.4.1). Length scales have the prior
    of Hvarfner, Hellsten and Nardi 2024, "Vanilla Bayesian optimization performs great in high dimensions", which grows
    with the number of features.

    Values far below the median are clipped at three robust standard deviations (1.4826 times the median absolute
    deviation), so that a diverged training counts as a bad training and no more.

    Args:
        features: One row per training; constant and repeated columns are dropped.
        values: The value of each training.
        groups: The candidate of each training, as a number.
        variances: What is added to the noise of each training, as a variance; None to add nothing.

    Raises:
        ValueError: If the lengths differ or a value is not finite.
    """
    observed, members = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if not len(features) == len(observed) == len(members):
        raise ValueError(f"smooth: {len(features)} rows, {len(observed)} values and {len(members)} groups")
    if not np.isfinite(observed).all():
        raise ValueError("smooth: every value must be finite")
    kept = -clipped(-observed, _SPREADS)
    added = np.zeros(len(observed)) if variances is None else np.asarray(variances, dtype=np.float64)
    if len(observed) < FEWEST_TRAININGS or np.ptp(kept) <= _SAME:
        return _group_means(kept, members)
    order = np.lexsort((*features.T, kept))
    means = np.empty_like(kept)
    means[order] = _posterior(_standardised(features[order]), kept[order], members[order], added[order])
    return _group_means(means, members)


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


def _posterior(features: Floats, values: Floats, groups: NDArray[Any], variances: Floats) -> Floats:
    middle, spread = float(values.mean()), float(values.std())
    scaled, added = (values - middle) / spread, variances / spread**2
    subset = np.unique(np.linspace(0, len(values) - 1, _MAX_FITTED).round().astype(np.int64))
    logs = _Model.of(features[subset], scaled[subset], groups[subset], added[subset]).fitted()
    return middle + spread * _Model.of(features, scaled, groups, added).posterior_mean(logs)


@dataclass(frozen=True, slots=True)
class _Model:
    """The parts of the kernel and the priors of its hyperparameters.

    The hyperparameters are logarithms: of the variances of the linear part, the smooth part, the groups' random effects
    and the noise, then of the length scale of each feature.
    """

    values: Floats
    linear: Floats
    squares: Floats
    same: Floats
    added: Floats  # what is known to be added to the noise of each training
    prior_mean: Floats
    prior_spread: Floats

    @classmethod
    def of(cls, features: Floats, values: Floats, groups: NDArray[Any], added: Floats) -> _Model:
        num = features.shape[1]
        differences = features.T[:, :, None] - features.T[:, None, :]
        scale = math.sqrt(2) + math.log(max(num, 1)) / 2
        return cls(
            values=values,
            linear=features @ features.T / max(num, 1),
            squares=differences**2,
            same=(groups[:, None] == groups[None, :]).astype(np.float64),
            added=np.diag(added),
            prior_mean=np.concatenate([np.full(4, math.log(_VARIANCE)), np.full(num, scale)]),
            prior_spread=np.concatenate([np.full(4, 1.5), np.full(num, math.sqrt(3))]),
        )

    def fitted(self) -> Floats:
        reach = _BOUND * self.prior_spread
        bounds = list(zip(self.prior_mean - reach, self.prior_mean + reach, strict=True))
        optimum = minimize(self._loss, self.prior_mean, jac=True, method="L-BFGS-B", bounds=bounds)
        return np.asarray(optimum.x, dtype=np.float64)

    def posterior_mean(self, logs: Floats) -> Floats:
        signal = self._signal(logs)
        noise = np.exp(logs[3]) * np.eye(len(signal)) + self.added
        return np.asarray(signal @ cho_solve(cho_factor(signal + noise, lower=True), self.values))

    def _signal(self, logs: Floats) -> Floats:
        linear, smooth_, group = np.exp(logs[:3])
        return np.asarray(_CONSTANT + linear * self.linear + smooth_ * self._smooth_part(logs) + group * self.same)

    def _smooth_part(self, logs: Floats) -> Floats:
        return np.asarray(np.exp(-0.5 * np.tensordot(np.exp(-2 * logs[4:]), self.squares, axes=1)))

    def _loss(self, logs: Floats) -> tuple[float, Floats]:
        linear, smooth_, group, noise = np.exp(logs[:4])
        smooth_part = smooth_ * self._smooth_part(logs)
        eye = np.eye(len(smooth_part))
        signal = _CONSTANT + linear * self.linear + smooth_part + group * self.same
        factor = cho_factor(signal + noise * eye + self.added, lower=True)
        weights = cho_solve(factor, self.values)
        slope = 0.5 * (cho_solve(factor, eye) - np.outer(weights, weights))
        parts = [np.sum(slope * part) for part in (linear * self.linear, smooth_part, group * self.same, noise * eye)]
        scales = np.tensordot(self.squares, slope * smooth_part, axes=2) * np.exp(-2 * logs[4:])
        deviation = (logs - self.prior_mean) / self.prior_spread
        loss = 0.5 * self.values @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * deviation @ deviation
        return float(loss), np.concatenate([parts, scales]) + deviation / self.prior_spread
