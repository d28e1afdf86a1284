"""The belief about every candidate after some noisy trainings: Bayesian linear regression with averaged scales.

A candidate's value is a weighted sum of its terms plus a random effect of the candidate, which no term explains. A
training adds noise. Weights, random effects and noise are normal. The prior scales of the groups of terms and of the
random effects, relative to the noise, are averaged over rather than fitted: a fixed set of scales is drawn from wide
priors, and each draw is weighted by its marginal likelihood. The noise variance is integrated out.

See Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2 and 5; O'Hagan and Forster,
"Bayesian Inference" (2004), chapter 11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def of(self, candidates: Sequence[int]) -> Belief:
        """Return the belief about some of the candidates."""
        return Belief(self.mean[candidates], self.covariance[np.ix_(candidates, candidates)], self.noise)


@dataclass(frozen=True, slots=True)
class Posterior:
    """The posterior after the trainings.

    The leading axis of `share` to `trust` runs over the draws of scales with the highest marginal likelihood.
    """

    terms: Floats  # rows of the trained candidates
    means: Floats  # mean of each trained candidate's trainings, minus the centre
    centre: float  # mean of all trainings
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

    def joint(self, terms: Floats) -> Belief:
        """Return the joint belief about the trained candidates, in order, followed by the candidates of `terms`."""
        rows = np.concatenate([self.terms, terms])
        trained = len(self.terms)
        covariance = np.zeros((len(rows), len(rows)))
        for share, weights, own, trust in zip(self.share, self.covariance, self.own, self.trust, strict=True):
            left = np.ones(len(rows))
            left[:trained] -= trust
            scaled = rows * left[:, None]
            covariance += share * (scaled @ weights @ scaled.T)
            covariance[np.diag_indices(len(rows))] += share * own * left
        return Belief(np.concatenate([self.trained(), self.untrained(terms)]), covariance, self.noise)


def posterior(
    terms: Floats, groups: NDArray[np.intp], which: NDArray[np.intp], values: Floats, scales: Mapping[str, Floats]
) -> Posterior:
    """Return the posterior after trainings.

    Args:
        terms: One row of terms per distinct trained candidate.
        groups: The group of each term.
        which: The row of each training's candidate; each row has at least one training.
        values: The result of each training.
        scales: The result of `prior_scales`.
    """
    times = np.bincount(which, minlength=len(terms)).astype(np.float64)
    centre = float(values.mean())
    centred = values - centre
    means = np.bincount(which, centred, minlength=len(terms)) / times
    within = float(((centred - means[which]) ** 2).sum())

    own = scales[OWN][:, None] ** 2
    variances = own + 1.0 / times
    prior = _prior_variances(groups, scales)
    weighted = terms[None] / variances[:, :, None]
    precision = np.swapaxes(weighted, 1, 2) @ terms
    precision[:, np.arange(len(groups)), np.arange(len(groups))] += 1.0 / prior
    towards = np.swapaxes(weighted, 1, 2) @ means
    weights = np.asarray(np.linalg.solve(precision, towards[:, :, None])[:, :, 0], dtype=np.float64)

    between = (means**2 / variances).sum(axis=1) - (towards * weights).sum(axis=1)
    shape = _NOISE_SHAPE + len(values) / 2.0
    floor = _NOISE_SHAPE * (0.5 * max(float(centred.std()), 1e-9)) ** 2
    sums = floor + (within + np.maximum(between, 0.0)) / 2.0
    logdet = np.linalg.slogdet(precision)[1]
    evidence = -0.5 * (np.log(variances).sum(axis=1) + np.log(prior).sum(axis=1) + logdet) - shape * np.log(sums)

    kept = np.argsort(-evidence)[:_KEPT]
    share = np.exp(evidence[kept] - evidence[kept[0]])
    share /= share.sum()
    noise = sums[kept] / shape
    return Posterior(
        terms=terms,
        means=means,
        centre=centre,
        share=share,
        weights=weights[kept],
        covariance=np.linalg.inv(precision[kept]) * noise[:, None, None],
        own=noise * own[kept, 0],
        trust=own[kept] / variances[kept],
        noise=float(share @ noise),
    )


def _prior_variances(groups: NDArray[np.intp], scales: Mapping[str, Floats]) -> Floats:
    constant = np.full(len(scales[OWN]), _CONSTANT_VARIANCE)
    by_group = np.stack([*(scales[name] ** 2 for name in GROUPS), constant], axis=1)
    variances: Floats = by_group[:, np.where(groups == CONSTANT, len(GROUPS), groups)]
    return variances
