"""What data decide about a network, without loading them."""

from __future__ import annotations

from typing import Final

from budgetnas.data.folder import likely_side
from budgetnas.data.listing import list_folder
from budgetnas.data.request import DataRequest, check_request
from budgetnas.space import InputShape

NAMED_SHAPES: Final = {
    "cifar10": InputShape(in_channels=3, size=32, classes=10),
    "cifar100": InputShape(in_channels=3, size=32, classes=100),
    "fashion-mnist": InputShape(in_channels=1, size=28, classes=10),
    "digits": InputShape(in_channels=1, size=8, classes=10),
}
"""Shapes of the named sets, at their own resolution."""
_COLOURS: Final = 3


def data_shape(
    request: DataRequest, *, in_channels: int | None = None, classes: int | None = None
) -> tuple[InputShape, str]:
    """Return the shape of the images and the number of classes, and in words where they come from.

    Named sets have a known shape. A folder's classes are its class folders and its images have three channels, as a
    search makes them; their side is the commonest shorter side of 256 of them, from their headers, where a search
    takes that of all. A folder is not looked at if `request` has the resolution and `classes` is given.

    Args:
        request: Which data; its resolution wins over the data's own.
        in_channels: Channels that win over the data's.
        classes: A number of classes that wins over theirs.

    Raises:
        InputError: The request cannot be met, or the folder cannot be used.
    """
    check_request(request)
    found, told = _folder_shape(request, classes) if request.is_folder else _named_shape(request)
    changes = {"in_channels": in_channels, "classes": classes}
    return found.model_copy(update={name: one for name, one in changes.items() if one is not None}), told


def _named_shape(request: DataRequest) -> tuple[InputShape, str]:
    shape = NAMED_SHAPES[request.name]
    return shape.model_copy(update={"size": request.resolution or shape.size}), request.name


def _folder_shape(request: DataRequest, classes: int | None) -> tuple[InputShape, str]:
    if request.resolution is not None and classes is not None:
        told = f"{request.name}, not looked at"
        return InputShape(in_channels=_COLOURS, size=request.resolution, classes=classes), told
    listing = list_folder(request)
    side = request.resolution or likely_side(listing)
    told = request.name if request.resolution else f"{request.name}, side from the headers of at most 256 images"
    return InputShape(in_channels=_COLOURS, size=side, classes=len(listing.classes)), told
