"""The figures of an epoch, and confidence intervals for repeated measurements and draws."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Epoch:
    """The figures of an epoch; accuracies are shares of 1."""

    epoch: int  # number, from 1
    # Mean training loss over the epoch's augmented images, with the recipe's label smoothing, while the weights
    # changed.
    train_loss: float
    train_accuracy: float  # accuracy on the same images
    # Mean loss on the evaluation split (validation in a search, test in a replay) after the epoch, without label
    # smoothing; NaN without an evaluation.
    eval_loss: float
    eval_accuracy: float  # accuracy in the same evaluation
    learning_rate: float  # learning rate of the epoch
    seconds: float  # time of training and evaluation


@dataclass(frozen=True, slots=True)
class Int8Reading:
    """The evaluation of an int8 file on a test split."""

    sha256: str  # hash of the file
    accuracy: float  # a share of 1


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval.

    Attributes:
        estimate: The estimate.
        low: Lower end.
        high: Upper end.
        n: Number of measurements.
    """

    estimate: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values with Student's interval (Student 1908).

    Raises:
        ValueError: If there are fewer than two.
    """
    if len(values) < 2:
        raise ValueError(f"mean_interval: {len(values)} values have no spread; at least 2 are needed")
    from scipy import stats  # slow to import

    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Interval(mean, mean - reach, mean + reach, len(values))


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Return the geometric mean of paired ratios with the interval of the mean of their logarithms.

    Raises:
        ValueError: If there are fewer than two pairs, or the lengths differ.
    """
    mean = mean_interval([math.log(top / bottom) for top, bottom in zip(above, below, strict=True)])
    return Interval(math.exp(mean.estimate), math.exp(mean.low), math.exp(mean.high), mean.n)


def difference_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the mean of `first` minus that of `second` with Welch's interval (Welch 1947), for unequal variances.

    Raises:
        ValueError: If either has fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"difference_interval: {len(first)} and {len(second)} values; at least 2 of each are needed")
    difference = statistics.fmean(first) - statistics.fmean(second)
    if len({*first}) == 1 == len({*second}):
        return Interval(difference, difference, difference, len(first) + len(second))
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # equal values on one side: their variance is 0 but for rounding
        interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(CONFIDENCE)
    return Interval(difference, float(interval.low), float(interval.high), len(first) + len(second))


def share_interval(successes: int, of: int) -> Interval:
    """Return a share of independent draws with the interval of Clopper and Pearson (1934).

    Its coverage is at least 95 % for every share, also near 0 and 1.

    Raises:
        ValueError: If `of` is below 1, or `successes` is not from 0 to `of`.
    """
    if not 0 <= successes <= of or of < 1:
        raise ValueError(f"share_interval: {successes} of {of} is not a share")
    from scipy.special import betaincinv

    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(successes, of - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, of - successes, 1 - tail)) if successes < of else 1.0
    return Interval(successes / of, low, high, of)
