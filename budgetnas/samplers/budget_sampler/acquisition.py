"""Which candidate to train next: chosen by Bayesian experimental design at first, later by knowledge gradient."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.stats import norm

from budgetnas.samplers.budget_sampler.encoding import Floats
from budgetnas.samplers.budget_sampler.surrogate import Belief, TermPrior

_REPEATS: Final = (1, 2, 4, 8)
_INTERVALS: Final = 31
_OUTCOMES: Final = -_INTERVALS * np.diff(norm.pdf(norm.ppf(np.linspace(0, 1, _INTERVALS + 1))))
"""Outcomes of a training, in standard deviations: the means of intervals of equal probability."""


def knowledge_gradient(belief: Belief, left: int = 1) -> Floats:
    """Return the value of training each candidate: the expected decrease of the lowest expected value.

    The knowledge gradient for correlated beliefs (Frazier, Powell and Dayanik, INFORMS Journal on Computing 21(4),
    2009), with the expectation over 31 outcomes. Trained candidates are judged in the same way, so a candidate is
    repeated where that teaches more than another candidate would.

    If no result of a single training would change the choice, that training has no value, although several trainings
    may have one. So a candidate's value is its highest value per training, over 1, 2, 4 and 8 trainings (KG(*), Frazier
    and Powell, Decision Analysis 7(4), 2010).
    """
    values = [_gain(belief, repeats) / repeats for repeats in _REPEATS if repeats <= max(left, 1)]
    return np.asarray(np.max(values, axis=0), dtype=np.float64)


def _gain(belief: Belief, repeats: int) -> Floats:
    """Return the expected decrease of the lowest expected value by `repeats` trainings of each candidate."""
    effect = belief.covariance / np.sqrt(np.diag(belief.covariance) + belief.noise / repeats)
    lowest = sum((belief.mean[:, None] + outcome * effect).min(axis=0) for outcome in _OUTCOMES)
    gain: Floats = belief.mean.min() - lowest / len(_OUTCOMES)
    return gain


def naming_gradient(belief: Belief, complete: int, left: int = 1) -> Floats:
    """Return the value of a complete training of each candidate if only those with a complete training can be named.

    That is the knowledge gradient plus what a candidate that could not be named before is expected to be better by.

    Args:
        belief: The belief; its first candidates are those with a complete training.
        complete: Number of these candidates, at least 1.
        left: Number of trainings that are left.
    """
    variances, best = np.diag(belief.covariance), belief.mean[:complete].min()
    values = []
    for repeats in (repeats for repeats in _REPEATS if repeats <= max(left, 1)):
        deviations = np.sqrt(variances + belief.noise / repeats)
        effect, own = belief.covariance[:complete] / deviations, variances / deviations
        lowest = sum(
            np.minimum((belief.mean[:complete, None] + outcome * effect).min(axis=0), belief.mean + outcome * own)
            for outcome in _OUTCOMES
        )
        values.append((best - lowest / len(_OUTCOMES)) / repeats)
    return np.asarray(np.max(values, axis=0), dtype=np.float64)


def most_informative(rows: Floats, known: Floats, others: Floats, prior: TermPrior) -> int:
    """Return the index of the training that leaves the least variance: the next of a Bayesian I-optimal design.

    See Chaloner and Verdinelli, "Bayesian experimental design: a review", Statistical Science 10(3), 1995.

    Args:
        rows: Terms of the candidates to choose from.
        known: Terms of the candidates chosen before.
        others: Terms of the candidates whose mean variance is minimised.
        prior: The prior of the weights.
    """
    precision = np.diag(1.0 / prior.weights) + known.T @ known / prior.unexplained
    spread = rows @ np.linalg.inv(precision)
    variance = (spread * rows).sum(axis=1)
    decrease: Floats = ((others @ spread.T) ** 2).mean(axis=0) / (prior.unexplained + variance)
    return int(np.argmax(decrease))
