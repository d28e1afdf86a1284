"""Stratified choices of images: exact in size, nested, and the same on every machine.

The quotas of the classes are a fair sequence: the choice of n + 1 images is the choice of n and one more, and at
every n each class holds its proportional share to within one image (the chairman assignment problem, R. Tijdeman,
Discrete Mathematics 32, 1980; solved by earliest deadline first). The largest-remainder method gives the same
bound but is not nested: a class can lose an image when n grows (the Alabama paradox).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What a choice is for: each has a random order of its own, so that none changes another."""

    VALIDATION = 1
    SUBSET = 2
    EVALUATION = 3
    TEST = 4


def choose(labels: NDArray[np.int64], count: int, *, seed: int, purpose: Purpose) -> NDArray[np.int64]:
    """Choose ``count`` images, stratified by class.

    For one seed and purpose, the choice of fewer images is contained in the choice of more.

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
    """Part the images in two, stratified by class.

    Returns:
        The indices that are kept and the ``count`` that are held out, both ascending.
    """
    held = choose(labels, count, seed=seed, purpose=purpose)
    kept = np.ones(len(labels), dtype=bool)
    kept[held] = False
    return np.flatnonzero(kept).astype(np.int64), held


def share_size(labels: NDArray[np.int64], parts: int) -> int:
    """Size of a split of one in ``parts`` images, rounded, with room for every class.

    Args:
        labels: Class indices, ``(N,)``.
        parts: 10 for 10 %, 5 for 20 %.
    """
    return max(round(len(labels) / parts), len(np.unique(labels)))


def class_quotas(sizes: Sequence[int], count: int) -> list[int]:
    """How many of ``count`` images each class gives.

    Every class that has images gives at least one. Beyond that each gives its proportional share to within one
    image. ``class_quotas(sizes, n)`` is nowhere larger than ``class_quotas(sizes, n + 1)``.

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
    """First step at which a class that gave ``given`` images is below its proportional share."""
    return given * total // size + 1


def _deadline(given: int, size: int, total: int) -> int:
    """First step at which such a class would be a whole image below it."""
    return -(-(given + 1) * total // size)
