"""What lies in a folder of images, in torchvision's ``ImageFolder`` layout, before any of it is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from budgetnas.data.request import DataRequest
from budgetnas.data.splits import Purpose, hold_out, share_size
from budgetnas.data.wording import listed, plural
from budgetnas.errors import InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif"})
_TEST_PARTS = 5
_LAYOUT = "lay the images out as DIR/train/CLASS/image.jpg and DIR/test/CLASS/image.jpg"


class ImageFile(NamedTuple):
    """One image file.

    Attributes:
        relative: POSIX path relative to the folder.
        label: Class index.
        size_bytes: Length of the file.
        mtime_ns: Time of its last change.
    """

    relative: str
    label: int
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The images of a folder, parted into training and test.

    Attributes:
        root: Absolute path of the folder.
        classes: Names in sorted order.
        train: Training images by class, then path.
        test: Test images in the same order.
        test_seed: The seed that parted them; None when the folder has a ``test/`` of its own.
        notices: What was assumed or left out, in plain sentences.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    test_seed: int | None
    notices: tuple[str, ...]


def labels_of(files: Iterable[ImageFile]) -> NDArray[np.int64]:
    """Class indices of the files, ``(N,)``."""
    return np.fromiter((file.label for file in files), dtype=np.int64)


def list_folder(request: DataRequest) -> FolderListing:
    """List the images of a ``folder:`` request and part them into training and test.

    Raises:
        InputError: The folder is missing or unreadable, or its layout or classes cannot be used.
    """
    root = request.folder
    if not root.is_dir():
        rule = "is not a folder" if root.exists() else "does not exist"
        raise InputError("--data", request.name, f"{root} {rule}", "name the folder that holds train/ and test/")
    try:
        return _list(request, root)
    except OSError as error:
        reason = f"{error.filename} cannot be read ({error.strerror})"
        raise InputError("--data", request.name, reason, "check its permissions") from error


def _list(request: DataRequest, root: Path) -> FolderListing:
    folders = _subfolders(root)
    scan = _Scan(request.name, root)
    if "train" in folders:
        classes, train = scan.classes_in("train")
        if "test" in folders:
            test = scan.test_images(classes)
            return _listing(scan, classes, train, test, None, _unused(folders))
        return _without_test(request, scan, classes, train, _unused(folders))
    if "test" in folders:
        raise InputError("--data", request.name, f"{root} holds test/ but no train/", _LAYOUT)
    classes, images = scan.classes_in("")
    direct = "there is no train/ folder: the folders of the directory itself are taken as the classes"
    return _without_test(request, scan, classes, images, [direct])


def _unused(folders: list[str]) -> list[str]:
    others = [name for name in folders if name not in ("train", "test")]
    if not others:
        return []
    return [f"beside train/ and test/, {plural(len(others), 'folder')} not used: {listed(others)}"]


def _without_test(
    request: DataRequest, scan: _Scan, classes: tuple[str, ...], images: list[ImageFile], notices: list[str]
) -> FolderListing:
    """Set a fifth of the images aside as the test split."""
    labels = labels_of(images)
    for label, count in enumerate(np.bincount(labels)):
        if count < 3:
            raise InputError(
                "--data",
                request.name,
                f"class {classes[label]!r} has {plural(int(count), 'image')}, and needs at least 3 to be split "
                "into training, validation and test",
                "add images, or a test/ folder",
            )
    size = share_size(labels, _TEST_PARTS)
    kept, held = hold_out(labels, size, seed=request.split_seed, purpose=Purpose.TEST)
    notice = (
        f"there is no test/ folder: {len(held):,} of {plural(len(labels), 'image')} (20 %, stratified, split seed "
        f"{request.split_seed}) are set aside as the test split"
    )
    train, test = [images[index] for index in kept], [images[index] for index in held]
    return _listing(scan, classes, train, test, request.split_seed, [*notices, notice])


def _listing(
    scan: _Scan,
    classes: tuple[str, ...],
    train: list[ImageFile],
    test: list[ImageFile],
    test_seed: int | None,
    notices: list[str],
) -> FolderListing:
    every = (*notices, *scan.notices())
    return FolderListing(scan.root, classes, tuple(train), tuple(test), test_seed, every)


@dataclass(slots=True)
class _Scan:
    """Reads class folders and keeps count of what it passes over."""

    argument: str
    root: Path
    ignored: int = 0
    missing_in_test: list[str] = field(default_factory=list)

    def classes_in(self, part: str) -> tuple[tuple[str, ...], list[ImageFile]]:
        """The classes and images of the folder ``part`` ("" for the root itself)."""
        directory = self.root / part
        names = _subfolders(directory)
        if not names:
            raise self._error(f"{directory} holds no class folders", _LAYOUT)
        images: list[ImageFile] = []
        for label, name in enumerate(names):
            found = self._images(part, name, label)
            if not found:
                raise self._error(f"class {name!r} has no images ({directory / name})", "add images or remove it")
            images += found
        if len(names) < 2:
            raise self._error(f"there is only one class, {names[0]!r}; at least 2 are needed", _LAYOUT)
        self.ignored += _count_files(directory) if part else 0
        return tuple(names), images

    def test_images(self, classes: tuple[str, ...]) -> list[ImageFile]:
        """The images of ``test/``, labelled by the training classes."""
        names = _subfolders(self.root / "test")
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise self._error(
                f"test/ holds classes that train/ does not: {listed(unknown)}",
                "give both the same class folders",
            )
        images: list[ImageFile] = []
        for label, name in enumerate(classes):
            found = self._images("test", name, label) if name in names else []
            if not found:
                self.missing_in_test.append(name)
            images += found
        if not images:
            raise self._error(
                f"{self.root / 'test'} holds no images", "add images, or remove it to have a test split made"
            )
        self.ignored += _count_files(self.root / "test")
        return images

    def notices(self) -> Iterator[str]:
        """What was passed over, in plain sentences."""
        if self.missing_in_test:
            classes = "class" if len(self.missing_in_test) == 1 else "classes"
            yield (f"test/ has no images of {len(self.missing_in_test):,} {classes}: {listed(self.missing_in_test)}")
        if self.ignored:
            yield f"{plural(self.ignored, 'file')} ignored: not an image by suffix or place"

    def _images(self, part: str, name: str, label: int) -> list[ImageFile]:
        prefix = f"{part}/{name}" if part else name
        files = []
        for relative, stat in _walk(self.root / prefix, prefix, ()):
            if relative[relative.rfind(".") :].lower() in SUFFIXES:
                files.append(ImageFile(relative, label, stat.st_size, stat.st_mtime_ns))
            else:
                self.ignored += 1
        return sorted(files)

    def _error(self, rule: str, hint: str) -> InputError:
        return InputError("--data", self.argument, rule, hint)


def _subfolders(directory: Path) -> list[str]:
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())


def _count_files(directory: Path) -> int:
    with os.scandir(directory) as entries:
        return sum(entry.name[0] != "." and entry.is_file() for entry in entries)


def _walk(
    directory: Path, relative: str, ancestors: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, os.stat_result]]:
    """Every file under a folder that is not hidden; links are followed, but never round in a circle."""
    stat = directory.stat()
    here = (stat.st_dev, stat.st_ino)
    if here in ancestors:
        return
    with os.scandir(directory) as entries:
        for entry in entries:
            path = f"{relative}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(directory / entry.name, path, (*ancestors, here))
            elif entry.is_file():
                yield path, entry.stat()
