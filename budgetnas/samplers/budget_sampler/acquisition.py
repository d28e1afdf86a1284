"""Which candidate the next training is worth most for."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.stats import norm

from budgetnas.samplers.budget_sampler.encoding import Floats
from budgetnas.samplers.budget_sampler.surrogate import Belief, TermPrior

_TIMES: Final = (1, 2, 4, 8)
_RANGES: Final = 31
_OUTCOMES: Final = -_RANGES * np.diff(norm.pdf(norm.ppf(np.linspace(0, 1, _RANGES + 1))))
"""Outcomes of a training that stand for all, in standard deviations: the means of ranges of equal probability."""


def knowledge_gradient(belief: Belief, left: int = 1) -> Floats:
    """Return what a training of each candidate is worth: by how much the least expected value is expected to fall.

    The knowledge gradient for correlated beliefs (Frazier, Powell and Dayanik, INFORMS Journal on Computing 21(4),
    2009), with the expectation taken over 31 outcomes. A candidate that was trained is judged in the same way, so
    that it is repeated where this teaches more than another candidate would.

    One training of a candidate may be worth nothing where several are worth much: no single result would make it the
    one to take. So each is judged by the number of its trainings that is worth most for each of them, out of 1, 2, 4
    and so on (KG(*), Frazier and Powell, Decision Analysis 7(4), 2010).

    Args:
        belief: About the candidates.
        left: How many trainings are left.
    """
    values = [_gain(belief, times) / times for times in _TIMES if times <= max(left, 1)]
    return np.asarray(np.max(values, axis=0), dtype=np.float64)


def _gain(belief: Belief, times: int) -> Floats:
    """Return by how much some trainings of each candidate are expected to lower the least expected value."""
    effect = belief.covariance / np.sqrt(np.diag(belief.covariance) + belief.noise / times)
    least = sum((belief.mean[:, None] + outcome * effect).min(axis=0) for outcome in _OUTCOMES)
    gain: Floats = belief.mean.min() - least / len(_OUTCOMES)
    return gain


def most_informative(rows: Floats, known: Floats, others: Floats, prior: TermPrior) -> int:
    """Return which training leaves the least uncertain: the next one of a Bayesian I-optimal design.

    See Chaloner and Verdinelli, "Bayesian experimental design: a review", Statistical Science 10(3), 1995.

    Args:
        rows: Terms of the candidates to choose from.
        known: Terms of those that were chosen before.
        others: Terms of the candidates whose variance is to be small, on average.
        prior: What is believed of the weights before.
    """
    precision = np.diag(1.0 / prior.weights) + known.T @ known / prior.unexplained
    spread = rows @ np.linalg.inv(precision)
    variance = (spread * rows).sum(axis=1)
    lowered: Floats = ((others @ spread.T) ** 2).mean(axis=0) / (prior.unexplained + variance)
    return int(np.argmax(lowered))
