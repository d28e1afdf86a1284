"""Images that a program has in memory, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.data.decoding import resized
from budgetnas.data.identity import ARRAYS, ContentHash
from budgetnas.data.images import Images, Source, TrainingPart, describe_copies
from budgetnas.data.request import MAX_RESOLUTION, MIN_RESOLUTION
from budgetnas.data.splits import Purpose, hold_out, share_size
from budgetnas.errors import InputError, plural

_TEST_PARTS: Final = 5
_FEWEST: Final = 3
_MOST: Final = 100_000  # classes of a network
_NUMBER: Final = "classes, labels = np.unique(labels, return_inverse=True) numbers them"


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
        names = _class_names(self.classes, int(train.labels.max()) + 1)
        for name, part in parts.items():
            if part.images.shape[1:] != train.images.shape[1:]:
                rule = f"has images of another shape than the training images, {_shape(train)}"
                raise InputError(name, _shape(part), rule)
            if part.labels.max() >= len(names):
                rule = f"is not one of the {len(names):,} classes of the training labels, numbered from 0"
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
            (*([share] if len(test) else []), *notices, *self._describe_copies()),
            validation=validation,
        )

    def read_test(self) -> Images:
        """See :meth:`Source.read_test`."""
        parts = self._arrays.parts
        test = parts["test"] if "test" in parts else parts["train"].take(self._split()[1])
        return resized(test, self._resolution)[0]

    def _describe_copies(self) -> tuple[str, ...]:
        """A final trains on the validation images too, so copies of them count."""
        parts, (train, test) = self._arrays.parts, self._split()
        whole = parts["train"]
        tested, trained = (whole.take(test), [whole.take(train)]) if len(test) else (parts["test"], [whole])
        trained += [parts["validation"]] if "validation" in parts else []
        return describe_copies(tested.copies_in(*trained), len(tested), "test")

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
    argument = _argument(name, "images")
    pixels, labels = _array(argument, part[0]), _array(_argument(name, "labels"), part[1])
    if pixels.dtype != np.uint8:
        raise InputError(argument, str(pixels.dtype), "must be uint8, from 0 to 255", _how_to_convert(pixels))
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
    if not len(pixels):
        raise InputError(argument, shape, "has no images")
    if labels.shape != pixels.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        given = f"{labels.dtype} of shape {labels.shape}"
        rule = f"must be {len(pixels):,} whole numbers, one for each image"
        raise InputError(_argument(name, "labels"), given, rule, _how_to_number(labels, len(pixels)))
    if labels.min() < 0 or labels.max() >= _MOST:
        worst = int(labels.min() if labels.min() < 0 else labels.max())
        raise InputError(_argument(name, "labels"), worst, f"must be from 0 to {_MOST - 1:,}", _NUMBER)
    return Images(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), labels.astype(np.int64))


def _class_names(given: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        InputError: If there are not two classes, or the names do not fit.
    """
    if classes < 2:
        raise InputError("labels", None, "have a single class", "a search needs at least two")
    if given is None:
        return tuple(map(str, range(classes)))
    names = () if isinstance(given, str) else tuple(map(str, given))
    if len(names) < classes or len(set(names)) < len(names) or not all(names):
        rule = f"must be at least {classes} different names, for the labels 0 to {classes - 1}"
        shown = given if isinstance(given, str) else str(list(given))
        raise InputError("classes", shown, rule, "leave it out for numbers")
    return names


def _array(argument: str, given: Any) -> NDArray[Any]:
    """Return what the user gave as an array, tensors too, wherever they are; raise `InputError` if it is none."""
    try:
        return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        rule = f"cannot be read as an array ({str(error).splitlines()[0]})"
        hint = "images must all have the same size; those of a folder may differ (folder:DIR)"
        raise InputError(argument, type(given).__name__, rule, hint) from None


def _how_to_convert(pixels: NDArray[Any]) -> str:
    """Return how images of another type become uint8."""
    if not pixels.size or not (np.issubdtype(pixels.dtype, np.number) or pixels.dtype == np.bool_):
        return "give an array of numbers, N x H x W x C"
    if np.issubdtype(pixels.dtype, np.complexfloating) or not np.isfinite(pixels).all():
        return "they have values that are not finite real numbers"
    low, high = pixels.min(), pixels.max()
    if low < 0:
        return f"they reach from {low:g} to {high:g}; scale them to 0 to 255 first"
    if high <= 1:
        return "images from 0 to 1 become (images * 255).round().astype('uint8')"
    if high <= 255 and (pixels == np.round(pixels)).all() and high > 16:
        return "images.astype('uint8') converts whole numbers from 0 to 255"
    return f"they reach to {high:g}; if that is white, (images / {high:g} * 255).round().astype('uint8')"


def _how_to_number(labels: NDArray[Any], images: int) -> str:
    """Return how labels of another type or shape become whole numbers."""
    if labels.shape == (images, 1):
        return "labels.ravel() has one for each image"
    if labels.ndim == 2 and len(labels) == images:
        return "labels.argmax(axis=1) numbers one-hot labels"
    if labels.shape != (images,):
        return ""
    whole = np.issubdtype(labels.dtype, np.floating) and (labels == np.round(labels)).all()
    return "labels.astype(int) has whole numbers" if whole else _NUMBER


def _argument(part: str, name: str) -> str:
    return name if part == "train" else f"{part} {name}"


def _shape(part: Images) -> str:
    return " x ".join(map(str, part.images.shape[1:]))


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")
