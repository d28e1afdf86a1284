"""The shape of the inputs and the number of classes, without loading the data."""

from __future__ import annotations

from typing import Final

from budgetnas.data.folder import likely_side
from budgetnas.data.folder_listing import list_folder
from budgetnas.data.request import DataRequest, check_request
from budgetnas.space.search_space import InputShape

NAMED_SHAPES: Final = {
    "cifar10": InputShape(in_channels=3, size=32, classes=10),
    "cifar100": InputShape(in_channels=3, size=32, classes=100),
    "fashion-mnist": InputShape(in_channels=1, size=28, classes=10),
    "digits": InputShape(in_channels=1, size=8, classes=10),
}
"""Shapes of the named data sets, at their own resolution."""
_COLOURS: Final = 3


def data_shape(
    request: DataRequest, *, in_channels: int | None = None, size: int | None = None, classes: int | None = None
) -> tuple[InputShape, str]:
    """Return the shape of the images and the number of classes, and a description of their source.

    Named data sets have a known shape. A folder's classes are its class folders, and its images have three channels, as
    in a search. Their side is the most common shorter side of 256 images, from their headers; a search uses all images.
    Arguments override the data. A folder is not read if both size and classes are given.

    Args:
        request: Which data; its resolution overrides that of the data.
        in_channels: Channels of an image.
        size: Side of an image in pixels; overrides the resolution.
        classes: Number of classes.

    Raises:
        InputError: If the request is invalid or the folder cannot be used.
    """
    check_request(request)
    side = size or request.resolution
    shape, source = _folder_shape(request, side, classes) if request.is_folder else _named_shape(request, side)
    changes = {"in_channels": in_channels, "size": size, "classes": classes}
    return shape.model_copy(update={name: value for name, value in changes.items() if value is not None}), source


def _named_shape(request: DataRequest, side: int | None) -> tuple[InputShape, str]:
    shape = NAMED_SHAPES[request.name]
    return shape.model_copy(update={"size": side or shape.size}), request.name


def _folder_shape(request: DataRequest, side: int | None, classes: int | None) -> tuple[InputShape, str]:
    if side is not None and classes is not None:
        return InputShape.model_construct(in_channels=_COLOURS, size=side, classes=classes), f"{request.name}, not read"
    listing = list_folder(request)
    source = request.name if side else f"{request.name}, side from the headers of at most 256 images"
    return InputShape(in_channels=_COLOURS, size=side or likely_side(listing), classes=len(listing.classes)), source
