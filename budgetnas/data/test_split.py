"""The test split, in a module of its own: a search must not import it."""

from __future__ import annotations

from budgetnas.data.images import Images
from budgetnas.data.opening import open_source
from budgetnas.data.request import DataRequest, check_request
from budgetnas.data.thinning import thin_evaluation


def load_test(request: DataRequest) -> Images:
    """Load the test split: whole, unless the request has ``subset_eval``.

    Args:
        request: The same request as for :func:`budgetnas.data.load_data`.

    Raises:
        InputError: The request cannot be met; names the argument, the rule and a way out.
    """
    check_request(request)
    images = open_source(request).read_test()
    return thin_evaluation(images, request.subset_eval, split_seed=request.split_seed, split="test")
