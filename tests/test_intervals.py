from __future__ import annotations

import math
import random
import statistics

import pytest
from scipy import stats

from budgetnas.metrics import difference_interval, mean_interval, ratio_interval, share_interval


def test_the_interval_of_a_mean_is_scipy_s() -> None:
    values = [2.1, 3.4, 2.9, 3.3, 2.5]
    found = mean_interval(values)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.estimate, found.n) == (pytest.approx(statistics.fmean(values)), 5)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_claimed() -> None:
    chance = random.Random(0)
    intervals = [mean_interval([chance.gauss(7.0, 2.0) for _ in range(4)]) for _ in range(4_000)]
    held = sum(one.low <= 7.0 <= one.high for one in intervals)
    assert abs(held / 4_000 - 0.95) < 0.014  # four standard errors


def test_a_ratio_that_is_always_the_same_has_no_width() -> None:
    found = ratio_interval([3.0, 6.0, 12.0], [1.5, 3.0, 6.0])
    assert (found.estimate, found.low, found.high) == (pytest.approx(2.0),) * 3


def test_ratios_are_averaged_as_ratios() -> None:
    found = ratio_interval([4.0, 1.0], [1.0, 4.0])
    assert found.estimate == pytest.approx(1.0)
    assert found.low * found.high == pytest.approx(1.0)
    assert math.log(found.high) == pytest.approx(12.706 * math.log(4), rel=1e-4)  # Student's t, one degree of freedom


@pytest.mark.parametrize("values", [[], [1.0]])
def test_one_value_has_no_spread(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval(values)


def test_the_interval_of_a_difference_is_welch_s() -> None:
    """Against the formulas written out, for spreads and numbers that differ."""
    some, others = [0.61, 0.64, 0.60, 0.66, 0.63], [0.58, 0.50, 0.66]
    found = difference_interval(some, others)
    parts = [statistics.variance(one) / len(one) for one in (some, others)]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 2)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    assert found.estimate == pytest.approx(statistics.fmean(some) - statistics.fmean(others))
    assert (found.high - found.low) / 2 == pytest.approx(reach)
    assert (found.high + found.low) / 2 == pytest.approx(found.estimate)
    assert found.n == 8


def test_a_difference_without_spread_has_no_width() -> None:
    found = difference_interval([0.5, 0.5], [0.4, 0.4])
    assert (found.low, found.high) == (found.estimate, found.estimate)


def test_equal_values_on_one_side_make_no_warning() -> None:
    found = difference_interval([1 / 3, 1 / 3, 1 / 3 + 1e-17], [0.25, 0.35])
    assert found.low < found.estimate < found.high


def test_a_difference_needs_two_of_each() -> None:
    with pytest.raises(ValueError, match="at least 2 of each"):
        difference_interval([0.5, 0.6], [0.4])


@pytest.mark.parametrize(("successes", "of"), [(0, 1), (1, 1), (0, 50), (3, 50), (25, 50), (50, 50), (9_999, 10_000)])
def test_the_interval_of_a_share_is_scipy_s_exact_one(successes: int, of: int) -> None:
    found, exact = share_interval(successes, of), stats.binomtest(successes, of).proportion_ci(0.95, "exact")
    assert (found.estimate, found.n) == (successes / of, of)
    assert (found.low, found.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.1, 0.37, 0.5, 0.9, 0.999, 1.0])
def test_the_interval_of_a_share_covers_any_share_often_enough(share: float) -> None:
    """Every outcome of 60 draws, each with its chance: an exact sum, no simulation."""
    intervals = [share_interval(successes, 60) for successes in range(61)]
    chances = stats.binom.pmf(range(61), 60, share)
    held = sum(
        chance for one, chance in zip(intervals, chances, strict=True) if one.low - 1e-12 <= share <= one.high + 1e-12
    )
    assert held >= 0.95 - 1e-9


@pytest.mark.parametrize(("successes", "of"), [(-1, 5), (6, 5), (0, 0)])
def test_values_that_are_not_shares(successes: int, of: int) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        share_interval(successes, of)
