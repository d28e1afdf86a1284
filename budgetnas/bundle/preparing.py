"""Preprocessing of images, exactly as for the training images."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from budgetnas.bundle.contents import Preprocessing
from budgetnas.data.decoding import UnreadableImageError, decode, square
from budgetnas.data.request import FULL_DEPTH
from budgetnas.errors import InputError
from budgetnas.training.device import Normaliser

AnyImage = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file's path, a Pillow image, or an array (H, W) or (H, W, 3) of uint8."""


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Callable that turns an image into the network's input: (1, C, side, side), normalised float32."""

    preprocessing: Preprocessing
    _normalise: Normaliser = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        normalise = Normaliser.of(self.preprocessing.normalisation, torch.device("cpu"), torch.contiguous_format)
        object.__setattr__(self, "_normalise", normalise)

    def __call__(self, image: AnyImage) -> Tensor:
        """Return the network's input.

        Raises:
            InputError: If the image cannot be read.
        """
        return self.normalised(self.pixels(image)[np.newaxis])

    def normalised(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return pixels (N, C, side, side), 0 to 255, normalised."""
        return self._normalise(torch.from_numpy(pixels))

    def pixels(self, image: AnyImage) -> NDArray[np.uint8]:
        """Return the image's pixels after cropping and resizing, (C, side, side), 0 to 255.

        Raises:
            InputError: If the image cannot be read.
        """
        side, channels = self.preprocessing.resolution, self.preprocessing.channels
        if isinstance(image, np.ndarray) and image.dtype == np.uint8:
            if image.shape == (side, side):  # grey as it is, in each channel
                return np.array(np.broadcast_to(image, (channels, side, side)))
            if image.shape == (side, side, 3) and channels == 3:
                return np.array(image.transpose(2, 0, 1))
        colours = _rgb(image, side, self.preprocessing.bit_depth or FULL_DEPTH)
        if channels == 3:
            return np.array(colours)
        grey = Image.fromarray(np.ascontiguousarray(colours.transpose(1, 2, 0))).convert("L")
        return np.array(grey)[np.newaxis]


def _rgb(image: AnyImage, side: int, bit_depth: int) -> NDArray[np.uint8]:
    if isinstance(image, Image.Image | np.ndarray):
        name = f"{type(image).__name__} {getattr(image, 'shape', None) or getattr(image, 'size', '')}"
        try:
            return square(_opened(image), side, bit_depth)
        except UnreadableImageError as error:
            raise _unreadable(name, str(error)) from error
    if not isinstance(image, str | os.PathLike):
        raise InputError("IMAGE", type(image).__name__, "must be a path, a Pillow image or an array of uint8")
    try:
        return decode(Path(image).read_bytes(), side, bit_depth).pixels
    except OSError as error:
        raise _unreadable(str(image), error.strerror or str(error)) from error
    except UnreadableImageError as error:
        raise _unreadable(str(image), str(error)) from error


def _opened(image: Image.Image | NDArray[np.uint8]) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or not image.size:
        shape = f"{image.dtype} {image.shape}"
        raise InputError("IMAGE", shape, "must be an array (H, W) or (H, W, 3) of uint8", "one image at a time")
    return Image.fromarray(np.ascontiguousarray(image))


def _unreadable(name: str, reason: str) -> InputError:
    return InputError(
        "IMAGE", name, f"cannot be read: {reason}", "give a JPEG, PNG, BMP, PPM, PGM, WebP, TIFF, GIF or AVIF file"
    )
