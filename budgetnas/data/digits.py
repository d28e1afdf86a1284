"""The handwritten digits that scikit-learn ships: real data that need no network."""

from __future__ import annotations

import hashlib

import numpy as np

from budgetnas.data.images import Images
from budgetnas.data.pixels import resized
from budgetnas.data.sources import Source, TrainingPart
from budgetnas.data.splits import Purpose, hold_out, share_size
from budgetnas.data.wording import plural

_TOP_LEVEL = 16
_TEST_PARTS = 5
# The set has no test split of its own; with a seed that no option changes, everyone's is the same.
_TEST_SEED = 20_240


class DigitsSource(Source):
    """1,797 grey images of 8x8 pixels in 10 classes (E. Alpaydin and C. Kaynak, UCI repository, 1998).

    Args:
        resolution: Side in pixels; None: 8.
    """

    name = "digits"
    flip = False

    def __init__(self, resolution: int | None) -> None:
        self._resolution = resolution
        self._whole = _load()

    def read_training(self) -> TrainingPart:
        """See :meth:`Source.read_training`."""
        whole = self._whole
        kept, held = self._parts()
        images, notices = resized(whole.take(kept), self._resolution)
        share = (
            f"digits has no test split of its own: {plural(len(held), 'image')} (20 %, stratified, always the same) "
            "are set aside"
        )
        classes = tuple(str(digit) for digit in range(10))
        return TrainingPart(images, classes, _content_hash(whole), (share, *notices))

    def read_test(self) -> Images:
        """See :meth:`Source.read_test`."""
        _, held = self._parts()
        return resized(self._whole.take(held), self._resolution)[0]

    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        labels = self._whole.labels
        return hold_out(labels, share_size(labels, _TEST_PARTS), seed=_TEST_SEED, purpose=Purpose.TEST)


def _load() -> Images:
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    levels = bunch.images.astype(np.int64)
    scaled = (levels * 255 + _TOP_LEVEL // 2) // _TOP_LEVEL
    return Images(scaled.astype(np.uint8)[:, np.newaxis], bunch.target.astype(np.int64))


def _content_hash(whole: Images) -> str:
    labels = whole.labels.astype("<i8").tobytes()
    return hashlib.sha256(whole.images.tobytes() + labels).hexdigest()
