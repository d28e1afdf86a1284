"""What data decide about a network, without loading them."""

from __future__ import annotations

from typing import Final

from budgetnas.data.folder import likely_side, list_folder
from budgetnas.data.request import DataRequest, check_request
from budgetnas.space.search_space import InputShape

NAMED_SHAPES: Final = {
    "cifar10": InputShape(in_channels=3, size=32, classes=10),
    "cifar100": InputShape(in_channels=3, size=32, classes=100),
    "fashion-mnist": InputShape(in_channels=1, size=28, classes=10),
    "digits": InputShape(in_channels=1, size=8, classes=10),
}
"""Shapes of the named sets, at their own resolution."""
_COLOURS: Final = 3


def data_shape(
    request: DataRequest, *, in_channels: int | None = None, size: int | None = None, classes: int | None = None
) -> tuple[InputShape, str]:
    """Return the shape of the images and the number of classes, and in words where they come from.

    Named sets have a known shape. A folder's classes are its class folders and its images have three channels, as a
    search makes them; their side is the commonest shorter side of 256 of them, from their headers, where a search
    takes that of all. What is given wins; a folder of which size and classes are given is not looked at.

    Args:
        request: Which data; its resolution wins over the data's own.
        in_channels: Channels of an image.
        size: Side of an image in pixels; wins over the resolution.
        classes: Number of classes.

    Raises:
        InputError: The request cannot be met, or the folder cannot be used.
    """
    check_request(request)
    side = size or request.resolution
    found, told = _folder_shape(request, side, classes) if request.is_folder else _named_shape(request, side)
    changes = {"in_channels": in_channels, "size": size, "classes": classes}
    return found.model_copy(update={name: one for name, one in changes.items() if one is not None}), told


def _named_shape(request: DataRequest, side: int | None) -> tuple[InputShape, str]:
    shape = NAMED_SHAPES[request.name]
    return shape.model_copy(update={"size": side or shape.size}), request.name


def _folder_shape(request: DataRequest, side: int | None, classes: int | None) -> tuple[InputShape, str]:
    if side is not None and classes is not None:
        return InputShape.model_construct(in_channels=_COLOURS, size=side, classes=classes), f"{request.name}, not read"
    listing = list_folder(request)
    told = request.name if side else f"{request.name}, side from the headers of at most 256 images"
    return InputShape(in_channels=_COLOURS, size=side or likely_side(listing), classes=len(listing.classes)), told
