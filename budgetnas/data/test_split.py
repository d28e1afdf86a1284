"""The test split, in its own module, which a search must not import."""

from __future__ import annotations

from budgetnas.data.contents import describe_difference
from budgetnas.data.identity import DataIdentity
from budgetnas.data.images import Images
from budgetnas.data.load import open_source
from budgetnas.data.request import DataRequest, check_request
from budgetnas.data.splits import subsample_evaluation
from budgetnas.errors import InputError


def load_test(request: DataRequest, expected: DataIdentity | None = None) -> Images:
    """Load the test split, subsampled by ``subset_eval`` only.

    Args:
        request: The data.
        expected: Identity of the data that were loaded for training, or None to compare nothing.

    Raises:
        InputError: If the request cannot be met, or a folder has changed since its training images were loaded.
    """
    check_request(request)
    source = open_source(request)
    if expected is not None and request.is_folder:
        _require_unchanged(request, expected.content_hash, source.read_content_hash())
    images = source.read_test()
    return subsample_evaluation(images, request.subset_eval, split_seed=request.split_seed, split="test")


def _require_unchanged(request: DataRequest, before: str, now: str) -> None:
    """Check that the content hash of a folder is the one of the images that were trained on.

    Raises:
        InputError: If it is not.
    """
    if now == before:
        return
    changed = describe_difference(before, now) or "its files differ"
    hint = "restore it and repeat the command: finished trainings are kept, and the test split was not used"
    raise InputError("--data", request.name, f"has changed since its training images were loaded: {changed}", hint)
