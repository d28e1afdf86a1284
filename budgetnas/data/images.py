"""Images in memory, and what normalisation needs to know of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEVELS = 256
_CHUNK = 1024


@dataclass(frozen=True)
class Images:
    """One split, decoded.

    Attributes:
        images: Pixels, ``(N, C, H, W)``, uint8.
        labels: Class indices, ``(N,)``, int64.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Images:
        """Copy the chosen images, in the order of ``indices``."""
        return Images(self.images[indices], self.labels[indices])


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel, pixels scaled to [0, 1].

    Both come from integer histograms, so that neither the order of the images nor the machine changes a bit.

    Args:
        images: ``(N, C, H, W)``, uint8, at least one pixel.

    Returns:
        The means and the standard deviations, C of each. The deviation of a constant channel is given as 1, so
        that it can be divided by.

    Raises:
        ValueError: There are no pixels.
    """
    if not images.size:
        raise ValueError("channel_statistics: there are no pixels")
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
