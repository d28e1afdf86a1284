"""Images that a program has in memory, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.data.decoding import resized
from budgetnas.data.identity import ARRAYS, ContentHash
from budgetnas.data.images import Images, Source, TrainingPart
from budgetnas.data.request import MAX_RESOLUTION, MIN_RESOLUTION
from budgetnas.data.splits import Purpose, hold_out, share_size
from budgetnas.errors import InputError, plural

_TEST_PARTS: Final = 5
_FEWEST: Final = 3
_MOST: Final = 100_000  # classes of a network


@dataclass(frozen=True, slots=True, eq=False)
class ImageArrays:
    """Images in memory, for ``data=``. They are checked when this is made, and must not change afterwards.

    Attributes:
        images: Training images: uint8, N x H x W x C with 1 or 3 channels, or N x H x W; square.
        labels: Their classes, N whole numbers from 0.
        validation: Images and labels of a validation split; None to set aside a tenth of the training images.
        test: Images and labels of a test split; None to set aside a fifth of the training images.
        classes: Names of the classes; None for their numbers.
        flip: Whether an image flipped left to right keeps its meaning, so that training may flip it.
    """

    images: Any
    labels: Any
    validation: tuple[Any, Any] | None = None
    test: tuple[Any, Any] | None = None
    classes: Sequence[str] | None = None
    flip: bool = True
    parts: dict[str, Images] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool | np.bool_):
            raise InputError("flip", self.flip, "must be True or False")
        given = {"train": (self.images, self.labels), "validation": self.validation, "test": self.test}
        parts = {name: _part(name, part) for name, part in given.items() if part is not None}
        train = parts["train"]
        names = tuple(map(str, range(int(train.labels.max()) + 1) if self.classes is None else self.classes))
        for name, part in parts.items():
            if part.images.shape[1:] != train.images.shape[1:]:
                rule = f"has images of another shape than the training images, {_shape(train)}"
                raise InputError(name, _shape(part), rule)
            if part.labels.max() >= len(names):
                rule = f"has a class that is not one of {len(names):,} classes, numbered from 0"
                raise InputError(_argument(name, "labels"), int(part.labels.max()), rule)
        fewest = 1 if self.validation and self.test else _FEWEST
        for name, count in zip(names, np.bincount(train.labels, minlength=len(names)).tolist(), strict=True):
            if count < fewest:
                rule = f"class {name!r} has {plural(count, 'training image')}, and needs at least {fewest}"
                raise InputError("labels", None, rule, "number the classes from 0 without gaps, or add images")
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "classes", names)

    def content_hash(self) -> str:
        """Return the hash of all pixels, labels, shapes and class names, in hex."""
        content = ContentHash()
        content.add("classes", "\0".join(self.classes or ()).encode())
        for name, part in sorted(self.parts.items()):
            content.add(f"{name}/images {_shape(part)}", _bytes(part.images))
            content.add(f"{name}/labels", _bytes(part.labels.astype("<i8")))
        return content.hexdigest()


DataArgument = str | ImageArrays | tuple[Any, Any]
"""A name, arrays, or a pair (images, labels)."""


def as_data(data: DataArgument | None) -> str | ImageArrays | None:
    """Return ``data=`` as a name or arrays.

    Raises:
        InputError: If it is neither a name nor arrays.
    """
    if data is None or isinstance(data, str | ImageArrays):
        return data
    if not isinstance(data, tuple | list) or len(data) != 2:
        hint = 'a folder is data="folder:DIR"'
        raise InputError("--data", type(data).__name__, "must be a name, a pair (images, labels) or ImageArrays", hint)
    return ImageArrays(*data)


def named_or_arrays(data: str | ImageArrays | None, default: str) -> tuple[str, ImageArrays | None]:
    """Return the name and the arrays of a request for `data`."""
    return (ARRAYS, data) if isinstance(data, ImageArrays) else (data or default, None)


class ArraySource(Source):
    """The source of arrays.

    Args:
        arrays: The images.
        resolution: Side of the images in pixels, or None for their own.
        split_seed: Seed of the test split, if they have none.
    """

    name = ARRAYS

    def __init__(self, arrays: ImageArrays, resolution: int | None, split_seed: int) -> None:
        self.flip = arrays.flip
        self._arrays = arrays
        self._resolution = resolution
        self._split_seed = split_seed

    def read_training(self) -> TrainingPart:
        """See :meth:`Source.read_training`."""
        whole, parts = self._arrays.parts["train"], self._arrays.parts
        train, test = self._split()
        images, notices = resized(whole.take(train) if len(test) else whole, self._resolution)
        share = (
            f"without a test split, {len(test):,} of {plural(len(whole), 'image')} (20 %, stratified, split seed "
            f"{self._split_seed}) are set aside as the test split"
        )
        validation = resized(parts["validation"], self._resolution)[0] if "validation" in parts else None
        return TrainingPart(
            images,
            tuple(self._arrays.classes or ()),
            self._arrays.content_hash(),
            (*([share] if len(test) else []), *notices),
            validation=validation,
        )

    def read_test(self) -> Images:
        """See :meth:`Source.read_test`."""
        parts = self._arrays.parts
        test = parts["test"] if "test" in parts else parts["train"].take(self._split()[1])
        return resized(test, self._resolution)[0]

    def _split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the indices of the training images, and of those set aside as the test split."""
        labels = self._arrays.parts["train"].labels
        if "test" in self._arrays.parts:
            return np.arange(len(labels)), np.empty(0, dtype=np.int64)
        return hold_out(labels, share_size(labels, _TEST_PARTS), seed=self._split_seed, purpose=Purpose.TEST)


def _part(name: str, part: tuple[Any, Any]) -> Images:
    """Return a split as images (N, C, H, W).

    Raises:
        InputError: If it is not a pair, or the dtype, the shape or a label breaks a rule.
    """
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise InputError(name, type(part).__name__, "must be a pair (images, labels)")
    pixels, labels = np.asarray(part[0]), np.asarray(part[1])
    argument = _argument(name, "images")
    if pixels.dtype != np.uint8:
        hint = "images from 0 to 1 become (images * 255).round().astype('uint8')"
        raise InputError(argument, str(pixels.dtype), "must be uint8, from 0 to 255", hint)
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    shape = " x ".join(map(str, pixels.shape))
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
        swapped = pixels.ndim == 4 and pixels.shape[1] in (1, 3)
        hint = "move the channels with images.transpose(0, 2, 3, 1)" if swapped else ""
        raise InputError(argument, shape, "must be N x H x W x C with 1 or 3 channels, or N x H x W", hint)
    if pixels.shape[1] != pixels.shape[2] or not MIN_RESOLUTION <= pixels.shape[1] <= MAX_RESOLUTION:
        rule = f"must be square, with sides from {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels"
        raise InputError(argument, shape, rule, "crop or pad them")
    if labels.shape != pixels.shape[:1] or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        given = f"{labels.dtype} of shape {labels.shape}"
        raise InputError(_argument(name, "labels"), given, f"must be {len(pixels):,} whole numbers, one for each image")
    if labels.min() < 0:
        raise InputError(_argument(name, "labels"), int(labels.min()), "must be at least 0")
    if labels.max() >= _MOST:
        hint = "np.unique(labels, return_inverse=True) numbers them"
        raise InputError(_argument(name, "labels"), int(labels.max()), f"must be below {_MOST:,}", hint)
    return Images(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), labels.astype(np.int64))


def _argument(part: str, name: str) -> str:
    return name if part == "train" else f"{part} {name}"


def _shape(part: Images) -> str:
    return " x ".join(map(str, part.images.shape[1:]))


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")
