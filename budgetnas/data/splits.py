"""Stratified splits and subsets of images: exact in size, nested, and the same on every machine.

The subset of n images is part of the subset of n + 1, and for every n each class has its proportional share to within
an image (the chairman assignment problem, R. Tijdeman, Discrete Mathematics 32, 1980; solved by earliest deadline
first). The largest-remainder method has the same bound but is not nested: a class can lose an image when n grows (the
Alabama paradox).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from budgetnas.data.images import Images
from budgetnas.errors import InputError, plural


class Purpose(IntEnum):
    """What images are chosen for. Each purpose has its own random order, so that no choice affects another."""

    VALIDATION = 1
    SUBSET = 2
    EVALUATION = 3
    TEST = 4


def choose(labels: NDArray[np.int64], count: int, *, seed: int, purpose: Purpose) -> NDArray[np.int64]:
    """Choose ``count`` images, stratified by class.

    With the same seed and purpose, a choice of fewer images is part of a choice of more.

    Args:
        labels: Class indices, ``(N,)``.
        count: At least the number of distinct labels, at most N.
        seed: At least 0.
        purpose: What the choice is for.

    Returns:
        Indices into ``labels``, ascending, ``(count,)``.
    """
    sizes = np.bincount(labels)
    # The raw stream of PCG64 is fixed across versions and platforms; what Generator makes of it is not (NEP 19).
    draws = np.random.PCG64([seed, int(purpose)]).random_raw(len(labels))
    shuffled = np.lexsort((draws, labels))
    starts = np.cumsum(sizes) - sizes
    quotas = class_quotas(sizes.tolist(), count)
    chosen = [shuffled[start : start + quota] for start, quota in zip(starts, quotas, strict=True)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def hold_out(
    labels: NDArray[np.int64], count: int, *, seed: int, purpose: Purpose
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the images in two, stratified by class.

    Returns:
        The remaining indices and the ``count`` chosen ones, both ascending.
    """
    chosen = choose(labels, count, seed=seed, purpose=purpose)
    remaining = np.ones(len(labels), dtype=bool)
    remaining[chosen] = False
    return np.flatnonzero(remaining).astype(np.int64), chosen


def share_size(labels: NDArray[np.int64], parts: int) -> int:
    """Return the number of images in a split of 1/``parts``, rounded, but at least one image per class."""
    return max(round(len(labels) / parts), len(np.unique(labels)))


def class_quotas(sizes: Sequence[int], count: int) -> list[int]:
    """Return how many of ``count`` images come from each class.

    Every class that has images gives at least 1, and otherwise its proportional share to within an image. No class
    gives more images for n than for n + 1.

    Args:
        sizes: Number of images of each class.
        count: From the number of classes that have images to the sum of ``sizes``.
    """
    total = sum(sizes)
    quotas = [min(1, size) for size in sizes]
    assert sum(quotas) <= count <= total, (sizes, count)
    waiting = [(_release(1, size, total), index) for index, size in enumerate(sizes) if size]
    heapq.heapify(waiting)
    due: list[tuple[int, int]] = []
    for step in range(sum(quotas) + 1, count + 1):
        while waiting and waiting[0][0] <= step:
            _, index = heapq.heappop(waiting)
            heapq.heappush(due, (_deadline(quotas[index], sizes[index], total), index))
        _, index = heapq.heappop(due)
        quotas[index] += 1
        heapq.heappush(waiting, (_release(quotas[index], sizes[index], total), index))
    return quotas


def _release(given: int, size: int, total: int) -> int:
    """Return the first step at which a class that gave ``given`` images is below its proportional share."""
    return given * total // size + 1


def _deadline(given: int, size: int, total: int) -> int:
    """Return the first step at which a class that gave ``given`` images is a whole image below its share."""
    return -(-(given + 1) * total // size)


def subsample_training(images: Images, count: int | None, *, split_seed: int) -> Images:
    """Keep ``count`` training images, stratified (``--subset``), or all for None.

    Raises:
        InputError: If there are fewer images, or more classes.
    """
    return _subsample("--subset", images, count, split_seed, Purpose.SUBSET, "training")


def subsample_evaluation(images: Images, count: int | None, *, split_seed: int, split: str) -> Images:
    """Keep ``count`` images of the validation or test ``split``, stratified (``--subset-eval``), or all for None.

    Raises:
        InputError: If there are fewer images, or more classes.
    """
    return _subsample("--subset-eval", images, count, split_seed, Purpose.EVALUATION, split)


def _subsample(argument: str, images: Images, count: int | None, seed: int, purpose: Purpose, split: str) -> Images:
    if count is None:
        return images
    if count > len(images):
        rule = f"must be at most the {plural(len(images), 'image')} of the {split} split"
        raise InputError(argument, count, rule, "leave it out to use them all")
    classes = len(np.unique(images.labels))
    if count < classes:
        raise InputError(
            argument,
            count,
            f"must be at least {classes:,}, an image for each class of the {split} split",
            f"try {argument} {min(len(images), 20 * classes)}",
        )
    if count == len(images):
        return images
    return images.take(choose(images.labels, count, seed=seed, purpose=purpose))
