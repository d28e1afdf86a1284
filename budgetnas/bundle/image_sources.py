"""Images to predict, from the arguments of a command: image files, folders, arrays and pickles."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from budgetnas.bundle.contents import Preprocessing
from budgetnas.bundle.plain_pickles import read_plain_pickle
from budgetnas.data.folder_listing import SUFFIXES, walk
from budgetnas.errors import InputError, listed, plural

Ids = Literal["path", "name", "stem", "number"]

_NPY: Final = b"\x93NUMPY"
_PICKLES: Final = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_PICKLE_SUFFIXES: Final = (".pkl", ".pickle")
_SHAPES: Final = "(N, H, W), (N, H, W, 3), (N, 3, H, W), (N, 1, H, W), (H, W) or (H, W, 3)"


class Item(NamedTuple):
    """An image to predict."""

    name: str  # as results and messages show it
    id: str  # path relative to its folder, the file's own id, or its number in an array
    image: str | NDArray[np.uint8]  # path, or pixels (H, W) or (H, W, 3)
    size_bytes: int
    label: int | None = None  # class index, if it is known


@dataclass(frozen=True, slots=True)
class ImageSources:
    """The images of all arguments, in order."""

    items: tuple[Item, ...]
    only_files: bool  # whether every argument is an image file
    notices: tuple[str, ...]  # sentences on what was left out

    def ids(self, kind: Ids) -> list[str]:
        """Return the id of each image."""
        if kind == "number":
            return [str(number) for number in range(len(self.items))]
        if kind == "path":
            return [item.id for item in self.items]
        paths = (PurePosixPath(item.id) for item in self.items)
        return [path.name if kind == "name" else path.stem for path in paths]


def read_sources(arguments: Sequence[str], preprocessing: Preprocessing) -> ImageSources:
    """Return the images that the arguments name; image files are not opened yet.

    Raises:
        InputError: If a folder has no images, or an array or pickle cannot be used. An image file that cannot be read
            is not an error here.
    """
    items: list[Item] = []
    notices: list[str] = []
    only_files = True
    for argument in arguments:
        if not argument:
            raise InputError("IMAGE", argument, "is empty", "name a file or a folder, e.g. . for the current folder")
        kind = _kind(argument)
        only_files = only_files and kind == "image"
        if kind == "folder":
            items += _folder(argument, preprocessing.classes, notices)
        elif kind == "array":
            items += _array_items(argument, pixels_of(argument, _load(argument), preprocessing))
        elif kind == "pickle":
            items += _pickle(argument, preprocessing, notices)
        else:
            items.append(Item(argument, argument, argument, _size(argument)))
    return ImageSources(tuple(items), only_files, tuple(notices))


def _kind(argument: str) -> Literal["folder", "array", "pickle", "image"]:
    """Return what an argument is, by its first bytes: the CIFAR files have no suffix."""
    path = Path(argument)
    if os.path.isdir(path):
        return "folder"
    head = b""
    if os.path.isfile(path):  # not from a pipe, whose first bytes would be lost
        try:
            with path.open("rb") as file:
                head = file.read(len(_NPY))
        except OSError:
            return "image"  # reported as an image that cannot be read
    if head.startswith(_NPY) or argument.lower().endswith((".npy", ".npz")):
        return "array"
    is_pickle = head.startswith(_PICKLES) or argument.lower().endswith(_PICKLE_SUFFIXES)
    return "pickle" if is_pickle else "image"


def _size(argument: str) -> int:
    try:
        status = os.stat(argument)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _folder(argument: str, classes: Sequence[str], notices: list[str]) -> list[Item]:
    try:
        entries = sorted(walk(Path(argument), ".", ()))
    except OSError as error:
        raise InputError("IMAGE", argument, f"{error.filename} cannot be read ({error.strerror})") from error
    images = [
        (entry.relative.removeprefix("./"), entry.stat.st_size)
        for entry in entries
        if entry.stat is not None and PurePosixPath(entry.relative).suffix.lower() in SUFFIXES
    ]
    if not images:
        known = ", ".join(sorted(SUFFIXES))
        raise InputError("IMAGE", argument, "is a folder without images", f"their suffixes must be among {known}")
    if ignored := len(entries) - len(images):
        reason = "not an image by suffix, or a link that leads nowhere"
        notices.append(f"{plural(ignored, 'file')} of {argument} ignored: {reason}")
    labels = _folder_labels(argument, [path for path, _ in images], classes, notices)
    return [
        Item(os.path.join(argument, path), path, os.path.join(argument, path), size, label)
        for (path, size), label in zip(images, labels, strict=True)
    ]


def _folder_labels(
    argument: str, paths: Sequence[str], classes: Sequence[str], notices: list[str]
) -> Sequence[int | None]:
    """Return the class of each image, if the first folder in every path is a class."""
    firsts = [path.partition("/")[0] if "/" in path else "" for path in paths]
    others = sorted(set(firsts) - set(classes))
    if not others:
        index = {name: label for label, name in enumerate(classes)}
        return [index[first] for first in firsts]
    if others != [""]:
        places = listed(f"{name}/" if name else "images outside of folders" for name in others)
        part = f"; {os.path.join(argument, 'test')} may have labels" if "test" in others else ""
        notices.append(f"the folders of {argument} are not taken as labels: not among the classes are {places}{part}")
    return [None] * len(paths)


def _load(argument: str) -> NDArray[Any]:
    try:
        loaded = np.load(argument, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError("IMAGE", argument, f"cannot be read: {error.strerror or error}", "check the file") from None
    except (ValueError, EOFError) as error:
        rule = f"cannot be read as a NumPy array ({error})"
        raise InputError("IMAGE", argument, rule, "save an array of uint8 with numpy.save") from None
    if not isinstance(loaded, np.ndarray):
        rule = f"is an archive of arrays ({listed(loaded.files)})"
        raise InputError("IMAGE", argument, rule, "save one of them with numpy.save")
    return loaded


def pixels_of(argument: str, array: object, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return an array of images as (N, H, W) or (N, H, W, 3).

    Raises:
        InputError: If it is not of images.
    """
    side, channels = preprocessing.resolution, preprocessing.channels
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        rule = f"is of {kind}; images must be an array of uint8, with values from 0 to 255"
        is_float = isinstance(array, np.ndarray) and array.dtype.kind == "f"
        of_unit = "if its values are 0 to 1, convert it with (255 * images).round().astype('uint8')"
        raise InputError("IMAGE", argument, rule, of_unit if is_float else "scale it as the training images")
    shape = array.shape
    if array.ndim == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    elif array.ndim == 2 and shape[0] != shape[1] == channels * side * side:
        rule = f"has the shape {shape}: {shape[0]:,} rows of {channels} x {side} x {side} values, or a grey image"
        hint = f"reshape rows to (N, {channels}, {side}, {side}); for an image add an axis: array[None]"
        raise InputError("IMAGE", argument, rule, hint)
    elif array.ndim == 2 or (array.ndim == 3 and shape[2] == 3):
        array = array[np.newaxis]
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3) or not array.size:
        raise InputError("IMAGE", argument, f"has the shape {shape}", f"images must be {_SHAPES}")
    if array.ndim == 3 and len(array) == 3 and channels == 3:
        rule = f"has the shape {shape}, which is a colour image or three grey images"
        raise InputError("IMAGE", argument, rule, "add an axis: array[None] for an image, array[..., None] for three")
    return array


def _pickle(argument: str, preprocessing: Preprocessing, notices: list[str]) -> list[Item]:
    content = read_plain_pickle(Path(argument))
    if "data" not in content:
        rule = f"has no 'data' among its keys ({listed(content) or 'it is empty'})"
        raise InputError("IMAGE", argument, rule, "name it as the CIFAR files do")
    array = content["data"]
    if isinstance(array, np.ndarray) and array.ndim == 2:
        array = _rows_as_images(argument, array)
    pixels = pixels_of(argument, array, preprocessing)
    ids = _of_each(argument, content, ("ids", "filenames"), len(pixels))
    labels = _of_each(argument, content, ("labels", "fine_labels"), len(pixels))
    return _array_items(
        argument, pixels, ids and [_id_text(value) for value in ids], _known(argument, labels, preprocessing, notices)
    )


def _rows_as_images(argument: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Return images (N, 3, side, side) from rows of all red, all green, then all blue values."""
    side = round((rows.shape[1] / 3) ** 0.5)
    if rows.shape[1] != 3 * side * side:
        rule = f"has 'data' of shape {rows.shape}"
        raise InputError(
            "IMAGE", argument, rule, "rows must have 3 x side x side values, e.g. 3,072 for 32 x 32 pixels"
        )
    return rows.reshape(len(rows), 3, side, side)


def _of_each(argument: str, content: dict[str, Any], keys: Iterable[str], count: int) -> list[Any] | None:
    """Return the values of the first key that is there, one for each image."""
    key = next((key for key in keys if content.get(key) is not None), None)
    if key is None:
        return None
    values = content[key]
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple) or len(values) != count:
        given = f"{len(values):,}" if isinstance(values, list | tuple) else type(values).__name__
        raise InputError("IMAGE", argument, f"has {given} in {key!r} for {plural(count, 'image')}", "give one for each")
    return list(values)


def _id_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _known(
    argument: str, labels: list[Any] | None, preprocessing: Preprocessing, notices: list[str]
) -> list[int] | None:
    if labels is None or all(type(label) is int and 0 <= label < len(preprocessing.classes) for label in labels):
        return labels
    last = len(preprocessing.classes) - 1
    notices.append(f"the labels of {argument} are not used: they are not all indices of the classes, 0 to {last}")
    return None


def _array_items(
    argument: str,
    pixels: NDArray[np.uint8],
    ids: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
) -> list[Item]:
    size = pixels[0].size
    return [
        Item(
            f"{argument}[{number}]",
            str(number) if ids is None else ids[number],
            image,
            size,
            None if labels is None else labels[number],
        )
        for number, image in enumerate(pixels)
    ]


def repeated(ids: Iterable[str]) -> list[str]:
    """Return the ids that are there more than once."""
    return [name for name, count in Counter(ids).items() if count > 1]
