"""Predictions compared with known labels: accuracy, accuracy of each class, confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from budgetnas.metrics import ClassCounts, Interval, balanced_accuracy, share_interval


@dataclass(frozen=True, slots=True)
class Scores:
    """Counts of predictions by class."""

    classes: tuple[str, ...]  # class names
    confusion: NDArray[np.int64]  # (classes, classes): images by label (row) and prediction (column)

    @classmethod
    def of(cls, classes: tuple[str, ...], labels: Sequence[int], predicted: Sequence[int]) -> Scores:
        """Return the counts of predictions for images with these labels, both as class indices."""
        confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(confusion, (np.asarray(labels, dtype=np.int64), np.asarray(predicted, dtype=np.int64)), 1)
        return cls(classes, confusion)

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """Number of images whose prediction is their label."""
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> Interval:
        """Share of correct predictions, with its 95 % interval."""
        return share_interval(self.correct, self.images)

    @property
    def commonest(self) -> tuple[str, float]:
        """The class with the most images and its share: the accuracy of always predicting it."""
        return ClassCounts(self.classes, tuple(self.confusion.sum(axis=1).tolist())).commonest

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the accuracies of all classes that have images."""
        return balanced_accuracy(self.confusion.diagonal().tolist(), self.confusion.sum(axis=1).tolist())

    def by_class(self) -> list[tuple[str, int, int]]:
        """Return name, number of images and number of correct predictions of each class."""
        counts = self.confusion.sum(axis=1).tolist()
        return list(zip(self.classes, counts, self.confusion.diagonal().tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the accuracy of a class without images is None."""
        name, share = self.commonest
        return {
            "images": self.images,
            "correct": self.correct,
            "accuracy": asdict(self.accuracy),
            "balanced_accuracy": self.balanced_accuracy,
            "commonest_class": {"class": name, "share": share},
            "by_class": [
                {"class": name, "images": images, "correct": correct, "accuracy": correct / images if images else None}
                for name, images, correct in self.by_class()
            ],
            "confusion": self.confusion.tolist(),
        }
