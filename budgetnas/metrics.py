"""The figures of an epoch, and confidence intervals for repeated measurements and draws."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

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
    eval_balanced_accuracy: float = math.nan  # mean of the accuracies of all classes in the same evaluation
    eval_correct: tuple[int, ...] = ()  # number of correct predictions of each class; empty without an evaluation


@dataclass(frozen=True, slots=True)
class Measure:
    """The accuracy by which candidates are compared."""

    name: str  # ``accuracy`` or ``balanced_accuracy``: the name of the figure in records

    @property
    def column(self) -> str:
        """Name of the figure in an epoch."""
        return f"eval_{self.name}"

    @property
    def words(self) -> str:
        """The measure in words."""
        return self.name.replace("_", " ")

    @property
    def where(self) -> str:
        """The words after a validation figure, e.g. ``on validation``."""
        return "on validation" if self == ACCURACY else f"{self.words} on validation"

    def on(self, split: str) -> str:
        """Return the measure on a split, e.g. ``balanced test accuracy``."""
        return self.words.replace("accuracy", f"{split} accuracy")

    def of(self, epoch: Epoch) -> float:
        """Return the figure of an epoch."""
        value: float = getattr(epoch, self.column)
        return value

    def of_one_class(self, counts: ClassCounts) -> float:
        """Return the figure of a network that always predicts the commonest class."""
        return counts.commonest[1] if self == ACCURACY else 1 / sum(number > 0 for number in counts.images)


ACCURACY: Final = Measure("accuracy")
BALANCED: Final = Measure("balanced_accuracy")


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """The accuracy of a class."""

    name: str
    images: int  # number of its images
    accuracy: float | None  # mean accuracy of some networks on them, a share of 1; None without images


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """The images of a split by class."""

    names: tuple[str, ...]  # class names; their positions are the labels
    images: tuple[int, ...]  # number of images of each class

    @property
    def commonest(self) -> tuple[str, float]:
        """The class with the most images and its share: the accuracy of always predicting it."""
        most = max(self.images)
        return self.names[self.images.index(most)], most / sum(self.images)

    @property
    def rarest(self) -> tuple[str, int]:
        """The class with the fewest images, and their number."""
        fewest = min(self.images)
        return self.names[self.images.index(fewest)], fewest

    def describe(self, of: str, measure: Measure = ACCURACY) -> str:
        """Return the commonest class in words; `of` names the images, e.g. ``the test images``.

        With another `measure` than accuracy, add what always predicting that class has by it.
        """
        name, share = self.commonest
        words = f"commonest class {name}: {share:.2%} of {of}"
        if measure == ACCURACY:
            return words
        return f"{words}; always predicting it: {measure.words} {measure.of_one_class(self):.2%}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        name, share = self.commonest
        images = dict(zip(self.names, self.images, strict=True))
        return {"images": images, "commonest_class": {"class": name, "share": share}}


def by_class(counts: ClassCounts | None, correct: Sequence[Sequence[int]]) -> tuple[ClassAccuracy, ...]:
    """Return the mean accuracy of each class over networks; empty where counts were not recorded.

    Args:
        counts: The images by class, or None.
        correct: For each network its correct predictions by class; empty for a network without an evaluation.
    """
    if counts is None or not correct or not all(correct):
        return ()
    return tuple(
        ClassAccuracy(name, images, statistics.fmean(hits) / images if images else None)
        for name, images, *hits in zip(counts.names, counts.images, *correct, strict=True)
    )


def balanced_accuracy(correct: Sequence[int], images: Sequence[int]) -> float:
    """Return the mean accuracy of all classes that have images, from the numbers of each class; NaN without any."""
    shares = [hits / number for hits, number in zip(correct, images, strict=True) if number]
    return statistics.fmean(shares) if shares else math.nan


def by_class_words(rows: Sequence[ClassAccuracy], most: int = 10) -> str:
    """Return the accuracy of each class on a line, or of the `most` with the lowest; then both means over all."""
    known = [(row, row.accuracy) for row in rows if row.accuracy is not None]
    if not known:
        return ""
    shown = known if len(known) <= most else sorted(known, key=lambda pair: pair[1])[:most]
    head = "by class" if len(known) <= most else f"lowest {most} of {len(known)} classes"
    mean, images = statistics.fmean(share for _, share in known), sum(row.images for row, _ in known)
    correct = sum(share * row.images for row, share in known)
    return (
        f"{head}: {', '.join(f'{row.name} {share:.1%} of {row.images:,}' for row, share in shown)}; "
        f"mean of classes {mean:.1%}, all images {correct / images:.1%}"
    )


@dataclass(frozen=True, slots=True)
class Int8Reading:
    """The evaluation of an int8 file on a test split."""

    sha256: str  # hash of the file
    accuracy: float  # accuracy over all images, whatever the objective, a share of 1
    float_accuracy: float | None = None  # that of the same network in float, or None if unknown

    def describe(self) -> str:
        """Return the accuracy as text, with that of the same network in float."""
        beside = "" if self.float_accuracy is None else f"; the same network in float has {self.float_accuracy:.2%}"
        return f"{self.accuracy:.2%}{beside}"


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
