"""The belief about every candidate after some noisy trainings: Bayesian linear regression with averaged scales.

A candidate's value is a weighted sum of its terms plus a random effect of the candidate, which no term explains. A
training adds noise. Weights, random effects and noise are normal. The prior scales of the groups of terms and of the
random effects, relative to the noise, are averaged over rather than fitted: a fixed set of scales is drawn from wide
priors, and each draw is weighted by its marginal likelihood. The noise variance is integrated out.

See Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2 and 5; O'Hagan and Forster,
"Bayesian Inference" (2004), chapter 11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.samplers.budget_sampler.encoding import CONSTANT, GROUPS, Floats

OWN: Final = "own"
PRIOR: Final[Mapping[str, tuple[float, float]]] = {
    "common": (1.0, 1.0),
    "linear": (0.4, 0.8),
    "curved": (0.2, 0.8),
    "paired": (0.1, 0.8),
    OWN: (0.6, 0.5),
}
"""For each scale, in units of the noise between two trainings of a candidate: the median and the standard deviation of
its logarithm. A parameter is assumed to matter about as much as the noise or less, squares and pairs half and a quarter
as much; the spread leaves room for a factor of ten."""
_SCALES: Final = 64
_KEPT: Final = 8
_CONSTANT_VARIANCE: Final = 100.0
_NOISE_SHAPE: Final = 1.5


@cache
def prior_scales() -> dict[str, Floats]:
    """Return the scales that are averaged over: evenly spread draws from `PRIOR`, the same in every study."""
    from scipy.stats import norm, qmc  # slow to import

    names = (*GROUPS, OWN)
    spread = norm.ppf(qmc.Sobol(len(names), seed=0).random(_SCALES))
    return {name: PRIOR[name][0] * np.exp(PRIOR[name][1] * spread[:, column]) for column, name in enumerate(names)}


@dataclass(frozen=True, slots=True)
class TermPrior:
    """The prior, in units of the noise."""

    weights: Floats  # variance of the weight of each term
    unexplained: float  # variance of a training around the sum of its terms: random effect plus noise

    @classmethod
    def of(cls, groups: NDArray[np.intp]) -> TermPrior:
        """Return the prior of terms of these groups, with all scales at their medians."""
        middle = {name: np.array([median]) for name, (median, _) in PRIOR.items()}
        return cls(_prior_variances(groups, middle)[0], 1.0 + PRIOR[OWN][0] ** 2)


@dataclass(frozen=True, slots=True)
class Belief:
    """A joint normal belief about candidates."""

    mean: Floats  # expected value of each candidate
    covariance: Floats  # covariance of the candidates' values
    noise: float  # variance of a training around its candidate's value


@dataclass(frozen=True, slots=True)
class Posterior:
    """The posterior after the trainings.

    The leading axis of `share` to `trust` runs over the draws of scales with the highest marginal likelihood.
    """

    terms: Floats  # rows of the trained candidates
    means: Floats  # weighted mean of each trained candidate's trainings, minus the centre
    centre: float  # weighted mean of all trainings
    share: Floats  # weight of each draw of scales; they sum to 1
    weights: Floats  # expected weights of the terms
    covariance: Floats  # covariance of the weights
    own: Floats  # variance of the candidates' random effects
    # Shrinkage of each trained candidate: 0 for the regression alone, 1 for the mean of its trainings alone.
    trust: Floats
    noise: float  # variance of a training around its candidate's value, averaged

    def trained(self) -> Floats:
        """Return the expected value of each trained candidate."""
        explained = self.weights @ self.terms.T
        followed = (1.0 - self.trust) * explained + self.trust * self.means
        expected: Floats = self.centre + self.share @ followed
        return expected

    def untrained(self, terms: Floats) -> Floats:
        """Return the expected value of candidates that were never trained."""
        expected: Floats = self.centre + terms @ (self.share @ self.weights)
        return expected

    def spread(self, terms: Floats) -> Floats:
        """Return the standard deviation of candidates that were never trained."""
        explained = np.einsum("np,hpq,nq,h->n", terms, self.covariance, terms, self.share, optimize=True)
        spread: Floats = np.sqrt(explained + self.share @ self.own)
        return spread

    def joint(self, trained: NDArray[np.intp], terms: Floats) -> Belief:
        """Return the joint belief about some trained candidates, given as indexes, then the candidates of `terms`."""
        number = len(trained)
        rows = np.concatenate([self.terms[trained], terms])
        covariance = np.zeros((len(rows), len(rows)))
        for share, weights, own, trust in zip(self.share, self.covariance, self.own, self.trust, strict=True):
            left = np.ones(len(rows))
            left[:number] -= trust[trained]
            scaled = rows * left[:, None]
            covariance += share * (scaled @ weights @ scaled.T)
            covariance[np.diag_indices(len(rows))] += share * own * left
        mean = np.concatenate([self.trained()[trained], self.untrained(terms)])
        return Belief(mean, covariance, self.noise)


def posterior(
    terms: Floats,
    groups: NDArray[np.intp],
    which: NDArray[np.intp],
    values: Floats,
    scales: Mapping[str, Floats],
    weights: Floats | None = None,
    expected: Floats | None = None,
) -> Posterior:
    """Return the posterior after trainings.

    Args:
        terms: One row of terms per distinct trained candidate.
        groups: The group of each term.
        which: The row of each training's candidate; each row has at least one training.
        values: The result of each training.
        scales: The result of `prior_scales`.
        weights: How much each training counts: 1 for a training with the variance of the noise, 0.5 for one with twice
            that. None if all count equally.
        expected: The prior mean of each term's weight, in standard deviations of the results. None if all are 0.
    """
    counted = np.ones(len(values)) if weights is None else weights
    times: Floats = np.bincount(which, counted, minlength=len(terms)).astype(np.float64)
    centre = float((counted * values).sum() / counted.sum())
    centred = values - centre
    means = np.bincount(which, counted * centred, minlength=len(terms)) / times
    within = float((counted * (centred - means[which]) ** 2).sum())
    spread = max(_spread(centred, counted), 1e-9)
    before = np.zeros(len(groups)) if expected is None else spread * expected

    own = scales[OWN][:, None] ** 2
    variances = own + 1.0 / times
    prior = _prior_variances(groups, scales)
    solve = _solved_by_candidates if len(terms) <= len(groups) else _solved_by_terms
    solution = solve(terms, times, means - terms @ before, prior, variances)

    shape = _NOISE_SHAPE + len(values) / 2.0
    floor = _NOISE_SHAPE * (0.5 * spread) ** 2
    sums = floor + (within + np.maximum(solution.between, 0.0)) / 2.0
    evidence = -0.5 * solution.log_determinant - shape * np.log(sums)

    kept = np.argsort(-evidence)[:_KEPT]
    share = np.exp(evidence[kept] - evidence[kept[0]])
    share /= share.sum()
    noise = sums[kept] / shape
    return Posterior(
        terms=terms,
        means=means,
        centre=centre,
        share=share,
        weights=before + solution.weights[kept],
        covariance=solution.covariance(kept) * noise[:, None, None],
        own=noise * own[kept, 0],
        trust=own[kept] / variances[kept],
        noise=float(share @ noise),
    )


def _spread(values: Floats, counted: Floats) -> float:
    """Return the weighted standard deviation; with equal weights its bits are those of `numpy.std`."""
    deviations = values - (counted * values).sum() / counted.sum()
    return float(np.sqrt((counted * (deviations * deviations)).sum() / counted.sum()))


@dataclass(frozen=True, slots=True)
class _Solution:
    """The regression with each draw of scales, in units of the noise."""

    weights: Floats  # expected weights of the terms, minus their prior means
    between: Floats  # square of the candidates' means around their prior means, in standard deviations
    log_determinant: Floats  # of the covariance of the candidates' means
    covariance: Callable[[NDArray[np.intp]], Floats]  # covariance of the weights with some of the draws


def _solved_by_candidates(terms: Floats, times: Floats, means: Floats, prior: Floats, variances: Floats) -> _Solution:
    """Solve the regression in the space of the candidates: fast if there are fewer candidates than terms."""
    number = np.arange(len(terms))
    # Terms of a group have the same prior, so each group's part of the covariance is computed once.
    distinct, group = np.unique(prior, axis=1, return_inverse=True)
    group = group.ravel()  # numpy 2.0 gives it the shape (1, terms)
    of_group = [terms[:, group == index] for index in range(distinct.shape[1])]
    parts = np.stack([part @ part.T for part in of_group])
    covariances = np.tensordot(distinct, parts, axes=1)
    covariances[:, number, number] += variances
    factors = np.asarray(np.linalg.cholesky(covariances), dtype=np.float64)
    solved = np.linalg.solve(covariances, means[:, None])[:, :, 0]

    def covariance(draws: NDArray[np.intp]) -> Floats:
        known = np.linalg.solve(factors[draws], terms[None] * prior[draws, None])
        left = -np.swapaxes(known, 1, 2) @ known
        left[:, np.arange(terms.shape[1]), np.arange(terms.shape[1])] += prior[draws]
        return np.asarray(left, dtype=np.float64)

    return _Solution(prior * (solved @ terms), solved @ means, _log_determinant(factors), covariance)


def _solved_by_terms(terms: Floats, times: Floats, means: Floats, prior: Floats, variances: Floats) -> _Solution:
    """Solve the regression in the space of the terms: fast if there are fewer terms than candidates."""
    number = np.arange(terms.shape[1])
    # Candidates whose trainings count equally have the same variance, so their squares are computed once.
    distinct, first, group = np.unique(times, return_index=True, return_inverse=True)
    squares = np.stack([terms[group == index].T @ terms[group == index] for index in range(len(distinct))])
    precision = np.tensordot(1.0 / variances[:, first], squares, axes=1)
    precision[:, number, number] += 1.0 / prior
    factors = np.asarray(np.linalg.cholesky(precision), dtype=np.float64)
    towards = (means / variances) @ terms
    weights = np.asarray(np.linalg.solve(precision, towards[:, :, None])[:, :, 0], dtype=np.float64)
    between = (means**2 / variances).sum(axis=1) - (towards * weights).sum(axis=1)
    log_determinant = np.log(variances).sum(axis=1) + np.log(prior).sum(axis=1) + _log_determinant(factors)
    return _Solution(weights, between, log_determinant, lambda draws: np.linalg.inv(precision[draws]))


def _log_determinant(factors: Floats) -> Floats:
    """Return the logarithm of the determinant of each matrix, given its Cholesky factor."""
    determinant: Floats = 2.0 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    return determinant


def _prior_variances(groups: NDArray[np.intp], scales: Mapping[str, Floats]) -> Floats:
    constant = np.full(len(scales[OWN]), _CONSTANT_VARIANCE)
    by_group = np.stack([*(scales[name] ** 2 for name in GROUPS), constant], axis=1)
    variances: Floats = by_group[:, np.where(groups == CONSTANT, len(GROUPS), groups)]
    return variances
