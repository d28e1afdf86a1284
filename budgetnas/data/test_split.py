"""The test split, in its own module, which a search must not import."""

from __future__ import annotations

from budgetnas.data.images import Images
from budgetnas.data.load import open_source
from budgetnas.data.request import DataRequest, check_request
from budgetnas.data.splits import subsample_evaluation


def load_test(request: DataRequest) -> Images:
    """Load the test split, subsampled by ``subset_eval`` only.

    Raises:
        InputError: If the request cannot be met.
    """
    check_request(request)
    images = open_source(request).read_test()
    return subsample_evaluation(images, request.subset_eval, split_seed=request.split_seed, split="test")
