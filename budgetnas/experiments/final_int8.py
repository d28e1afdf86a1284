"""The evaluation of the int8 file of a final's network on the test split, once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from budgetnas.data import DataIdentity, DataRequest
from budgetnas.data.test_split import load_test
from budgetnas.metrics import Int8Reading
from budgetnas.storage import Records, Run

Classes = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
"""Returns the predicted classes of images, (N, C, side, side), 0 to 255."""


def evaluate_int8(
    records: Records, final: int, run: Run, request: DataRequest, identity: DataIdentity, sha256: str, classes: Classes
) -> Int8Reading:
    """Evaluate an int8 file on the test split, and record it.

    Args:
        records: The storage.
        final: Number of the final.
        run: The run whose network the file has.
        request: The study's data.
        identity: Identity of the data that the file was calibrated on.
        sha256: Hash of the file.
        classes: The file's predictions.

    Raises:
        InputError: If the test split cannot be read, or the data have changed since they were loaded.
    """
    test = load_test(request, identity)
    reading = Int8Reading(sha256, float((classes(test.images) == test.labels).mean()))
    records.record_int8_reading(final, run, reading)
    return reading
