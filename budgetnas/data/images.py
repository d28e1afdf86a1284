"""Images in memory, their channel statistics, and the base class of their sources."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from budgetnas.errors import InputError, plural
from budgetnas.metrics import ClassCounts

_LEVELS = 256
_CHUNK = 1024


@dataclass(frozen=True)
class Images:
    """A decoded split."""

    images: NDArray[np.uint8]  # pixels, ``(N, C, H, W)``, uint8
    labels: NDArray[np.int64]  # class indices, ``(N,)``, int64

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Images:
        """Return a copy of the images at ``indices``, in that order."""
        return Images(self.images[indices], self.labels[indices])

    def class_counts(self, classes: tuple[str, ...]) -> ClassCounts:
        """Return the number of images of each class; `classes` are the names."""
        return ClassCounts(classes, tuple(np.bincount(self.labels, minlength=len(classes)).tolist()))

    def copies_in(self, *others: Images) -> int:
        """Return how many of these images have exactly the pixels of an image in the others."""
        known = {hash(image.tobytes()) for other in others for image in other.images}
        return sum(hash(image.tobytes()) in known for image in self.images)

    def joined_with(self, other: Images) -> Images:
        """Return these images followed by the others."""
        images = np.concatenate([self.images, other.images])
        return Images(images, np.concatenate([self.labels, other.labels]))


def empty_images(count: int, channels: int, side: int) -> NDArray[np.uint8]:
    """Return an array for the pixels of images, ``(count, channels, side, side)``.

    Raises:
        InputError: If the images need more memory than the machine has.
    """
    # Twice: training and validation images are copied out of the whole.
    needed, there = 2 * count * channels * side * side, psutil.virtual_memory().total
    try:
        if needed > there:  # Linux grants more memory than there is, and kills the process that uses it
            raise MemoryError
        return np.empty((count, channels, side, side), dtype=np.uint8)
    except MemoryError:
        rule = f"{plural(count, 'image')} of {side}x{side} pixels need about {needed / 2**30:,.1f} GiB of memory"
        raise InputError("--resolution", side, rule, "give a smaller resolution, or fewer images") from None


def describe_copies(copies: int, of: int, split: str) -> tuple[str, ...]:
    """Return the notice that some of the images of a split are training images too; none without copies."""
    if not copies:
        return ()
    them = "is a copy of a training image" if copies == 1 else "are copies of training images"
    return (f"{copies:,} of {plural(of, f'{split} image')} {them}, so {split} accuracies are too high",)


@dataclass(frozen=True)
class TrainingPart:
    """The decoded training part of a data set, before the validation images are split off."""

    images: Images  # ``(N, C, side, side)`` with their labels
    classes: tuple[str, ...]  # class names; their positions are the labels
    content_hash: str  # hash of the whole data set, test split included, in hex
    notices: tuple[str, ...]  # sentences on what was converted, assumed or left out
    skipped: tuple[str, ...] = ()  # damaged files that were left out, by path
    bit_depth: int | None = None  # bits of the levels in 16-bit images, or None for 16, or without such images
    validation: Images | None = None  # the user's own validation split, which is no part of `images`


class Source(ABC):
    """A data set at a resolution."""

    name: str  # its name in identities
    flip: bool = True  # whether an image flipped left to right keeps its meaning
    is_cifar10: bool = False  # whether these are the original pixels of CIFAR-10

    @abstractmethod
    def read_training(self) -> TrainingPart:
        """Decode the training part. Test images may be hashed and checked, but their pixels are not kept.

        Raises:
            InputError: If the data are missing or cannot be used.
        """

    def read_content_hash(self) -> str:
        """Return the content hash of `read_training`, from the cache if it is there.

        Raises:
            InputError: If the data are missing or cannot be used.
        """
        return self.read_training().content_hash

    @abstractmethod
    def read_test(self) -> Images:
        """Decode the test split.

        Raises:
            InputError: If the data are missing or cannot be used.
        """


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and population standard deviation of each channel, with pixels scaled to [0, 1].

    Both come from integer histograms, so their bits depend neither on the order of the images nor on the machine.

    Args:
        images: ``(N, C, H, W)``, uint8, at least one pixel.

    Returns:
        The means and the standard deviations, C of each. The deviation of a constant channel is returned as 1, so that
        it can be divided by.

    Raises:
        ValueError: If the array is empty.
    """
    if not images.size:
        raise ValueError("channel_statistics: the array is empty")
    moments = [_moments(histogram) for histogram in _histograms(images)]
    return tuple(mean for mean, _ in moments), tuple(std or 1.0 for _, std in moments)


def _histograms(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixels of each level: ``(C, 256)``."""
    channels = images.shape[1]
    counts = np.zeros((channels, _LEVELS), dtype=np.int64)
    for start in range(0, len(images), _CHUNK):  # bincount widens its input eightfold
        for channel in range(channels):
            levels = images[start : start + _CHUNK, channel].ravel()
            counts[channel] += np.bincount(levels, minlength=_LEVELS)
    return counts


def _moments(histogram: NDArray[np.int64]) -> tuple[float, float]:
    counts = [int(count) for count in histogram]
    pixels = sum(counts)
    total = sum(level * count for level, count in enumerate(counts))
    squares = sum(level * level * count for level, count in enumerate(counts))
    top = _LEVELS - 1
    mean = total / (pixels * top)
    std = math.sqrt((pixels * squares - total * total) / (pixels * pixels)) / top
    return mean, std
