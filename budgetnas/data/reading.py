"""Many image files at once: read, hash and decode in a pool of threads."""

from __future__ import annotations

import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from budgetnas.data.identity import ContentHash
from budgetnas.data.listing import ImageFile
from budgetnas.data.pixels import Change, UnreadableImageError, decode, shorter_side
from budgetnas.errors import InputError

_BATCH = 64
_BATCHES_AHEAD = 4
# Below this mean size most of the work is Python's own, and threads only fight for its lock: 10,000 JPEGs of
# 32x32 pixels took nearly 40 % longer in two threads than in one.
_MIN_MEAN_BYTES_FOR_THREADS = 8192

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Decoded:
    """Decoded files.

    Attributes:
        images: ``(N, 3, side, side)``, uint8, in the order the files were given in.
        content_hash: Over the decoded files and those that were only hashed, in hex.
        changes: How many images were changed, by kind.
        shorter_sides: How many images had which shorter side in pixels.
    """

    images: NDArray[np.uint8]
    content_hash: str
    changes: Counter[Change]
    shorter_sides: Counter[int]


def decode_files(
    root: Path, files: Sequence[ImageFile], side: int, *, only_hashed: Sequence[ImageFile] = ()
) -> Decoded:
    """Decode image files.

    Args:
        root: The folder the files' paths are relative to.
        files: The files to decode.
        side: Side of the square images in pixels.
        only_hashed: Further files that count in the hash, but are not decoded.

    Raises:
        InputError: A file cannot be read, or is not a whole image.
    """
    images = np.empty((len(files), 3, side, side), dtype=np.uint8)
    changes: Counter[Change] = Counter()
    sides: Counter[int] = Counter()

    def read(job: tuple[ImageFile, int | None]) -> tuple[str, bytes, list[Change], int]:
        file, row = job
        content = _content(root, file)
        if row is None:
            return file.relative, content, [], 0
        try:
            images[row], changed, shorter = decode(content, side)
        except UnreadableImageError as error:
            raise _unreadable(root, file, error) from error
        return file.relative, content, changed, shorter

    jobs: list[tuple[ImageFile, int | None]] = [(file, row) for row, file in enumerate(files)]
    jobs += [(file, None) for file in only_hashed]
    jobs.sort(key=lambda job: job[0].relative)
    content_hash = ContentHash()
    for relative, content, changed, shorter in _in_threads(read, jobs, _threads(files)):
        content_hash.add(relative, content)
        changes.update(changed)
        if shorter:
            sides[shorter] += 1
    return Decoded(images, content_hash.hexdigest(), changes, sides)


def count_shorter_sides(root: Path, files: Sequence[ImageFile]) -> Counter[int]:
    """How many of the images have which shorter side in pixels, by their headers; none is decoded.

    Raises:
        InputError: A file cannot be read, or is not an image.
    """

    def measure(file: ImageFile) -> int:
        try:
            return shorter_side(_content(root, file))
        except UnreadableImageError as error:
            raise _unreadable(root, file, error) from error

    return Counter(_in_threads(measure, files, _threads(files)))


def _content(root: Path, file: ImageFile) -> bytes:
    try:
        return (root / file.relative).read_bytes()
    except OSError as error:
        raise _unreadable(root, file, error.strerror or error) from error


def _unreadable(root: Path, file: ImageFile, reason: object) -> InputError:
    path = str(root / file.relative)
    return InputError("--data", path, f"cannot be read as an image ({reason})", "repair or remove it")


def _threads(files: Sequence[ImageFile]) -> int:
    if sum(file.size_bytes for file in files) < _MIN_MEAN_BYTES_FOR_THREADS * len(files):
        return 1
    return min(os.cpu_count() or 1, 16)


def _here(function: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> Iterator[_Result]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from map(function, jobs)


def _in_threads(function: Callable[[_Job], _Result], jobs: Sequence[_Job], threads: int) -> Iterator[_Result]:
    """Results in the order of the jobs; a bounded number of them is held at a time."""
    if threads == 1:
        yield from _here(function, jobs)
        return

    def run(batch: Sequence[_Job]) -> list[_Result]:
        return [function(job) for job in batch]

    batches = [jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH)]
    pending: deque[Future[list[_Result]]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of oddities in files that it reads all the same
        try:
            for batch in batches:
                pending.append(pool.submit(run, batch))
                if len(pending) >= threads * _BATCHES_AHEAD:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
