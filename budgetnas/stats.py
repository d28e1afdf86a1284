"""Intervals for what was measured or drawn a few times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval.

    Attributes:
        estimate: The estimate.
        low: Lower end.
        high: Upper end.
        n: Measurements that it comes from.
    """

    estimate: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean with Student's interval (Student 1908), for values that are independent of each other.

    Raises:
        ValueError: If there are fewer than two.
    """
    if len(values) < 2:
        raise ValueError(f"mean_interval: {len(values)} values have no spread; at least 2 are needed")
    from scipy import stats  # takes a second to import

    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Interval(mean, mean - reach, mean + reach, len(values))


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Return the geometric mean of paired ratios with the interval of the mean of their logarithms.

    Raises:
        ValueError: If there are fewer than two pairs, or not as many of one as of the other.
    """
    logs = [math.log(one / other) for one, other in zip(above, below, strict=True)]
    found = mean_interval(logs)
    return Interval(math.exp(found.estimate), math.exp(found.low), math.exp(found.high), found.n)


def difference_interval(some: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the mean of `some` less that of `others` with Welch's interval (Welch 1947): spreads may differ.

    Raises:
        ValueError: If either has fewer than two values.
    """
    if min(len(some), len(others)) < 2:
        raise ValueError(f"difference_interval: {len(some)} and {len(others)} values; at least 2 of each are needed")
    difference = statistics.fmean(some) - statistics.fmean(others)
    if len({*some}) == 1 == len({*others}):
        return Interval(difference, difference, difference, len(some) + len(others))
    from scipy import stats

    found = stats.ttest_ind(some, others, equal_var=False).confidence_interval(CONFIDENCE)
    return Interval(difference, float(found.low), float(found.high), len(some) + len(others))


def share_interval(successes: int, of: int) -> Interval:
    """Return a share with the interval of Clopper and Pearson (1934), for draws that are independent of each other.

    It holds the true share in at least 95 % of all cases, whatever that is; the usual intervals do not at the ends.

    Raises:
        ValueError: If there are no draws, or not from 0 to `of` successes.
    """
    if not 0 <= successes <= of or of < 1:
        raise ValueError(f"share_interval: {successes} of {of} is no share")
    from scipy.special import betaincinv

    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(successes, of - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, of - successes, 1 - tail)) if successes < of else 1.0
    return Interval(successes / of, low, high, of)
