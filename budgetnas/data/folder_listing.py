"""The image files of a user's folder, by class and split, found without opening them."""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from budgetnas.data.decoding import ImageFile
from budgetnas.data.request import DataRequest
from budgetnas.data.splits import Purpose, hold_out, share_size
from budgetnas.errors import InputError, listed, plural

Part = Literal["train", "test", "validation"]

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif", ".avif"}
)
_SPELLINGS: Final[dict[str, Part]] = {
    "train": "train",
    "training": "train",
    "trains": "train",
    "trainset": "train",
    "test": "test",
    "tests": "test",
    "testing": "test",
    "testset": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "valset": "validation",
}
"""Folder names of splits in lower case, as users and public data sets spell them."""
_ORDER: Final[tuple[Part, ...]] = ("train", "validation", "test")
_NOT_THE_USERS: Final = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
"""Folders that archive and file managers leave behind."""
_TEST_PARTS = 5
_MAX_SUFFIXES = 3
_LAYOUT = "lay the images out as DIR/train/CLASS/image.jpg and DIR/test/CLASS/image.jpg"


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The images of a folder, by split."""

    root: Path  # absolute path of the folder
    classes: tuple[str, ...]  # names in sorted order
    train: tuple[ImageFile, ...]  # training images by class, then path
    test: tuple[ImageFile, ...]  # test images in the same order
    validation: tuple[ImageFile, ...]  # the folder's own validation images in the same order; empty without any
    test_seed: int | None  # seed of the test split, or None if the folder has its own test folder
    notices: tuple[str, ...]  # sentences on what was assumed or left out


def labels_of(files: Iterable[ImageFile]) -> NDArray[np.int64]:
    """Return the class indices of the files, ``(N,)``."""
    return np.fromiter((file.label for file in files), dtype=np.int64)


def list_folder(request: DataRequest, skipped: Collection[str] = ()) -> FolderListing:
    """List the images of a ``folder:`` request and split them into training and test.

    Args:
        request: A checked request.
        skipped: Files to leave out, by path relative to the folder.

    Raises:
        InputError: If the folder is missing or unreadable, or its layout or classes cannot be used.
    """
    root = request.folder
    try:
        if not root.is_dir():
            rule = "is not a folder" if root.exists() else "does not exist"
            raise InputError("--data", request.name, f"{root} {rule}", "name the folder that contains train/ and test/")
        return _list(request, _Scan(request.name, root, frozenset(skipped)))
    except OSError as error:
        reason = f"{error.filename} cannot be read ({error.strerror})"
        raise InputError("--data", request.name, reason, "check its permissions") from error


def _list(request: DataRequest, scan: _Scan) -> FolderListing:
    folders = _subfolders(scan.root)
    parts = scan.parts(folders)
    scan.count_loose("", files=False)
    train = parts.get("train")
    if train is None:
        return _list_classes(request, scan, folders, parts)
    scan.require_no_nested_splits(train)
    classes, images = scan.classes_in(train)
    validation = scan.images_of(parts["validation"], train, classes) if "validation" in parts else []
    notices = _unused(folders, parts)
    if validation:
        notices.append(f"{parts['validation']}/ is the validation split ({plural(len(validation), 'image')})")
    if "test" not in parts:
        return _without_test(request, scan, classes, images, validation, notices)
    test = scan.images_of(parts["test"], train, classes)
    return _listing(scan, classes, (images, test, validation), None, notices)


def _list_classes(request: DataRequest, scan: _Scan, folders: list[str], parts: dict[Part, str]) -> FolderListing:
    """List a folder without a training folder: its folders are the classes."""
    if parts:
        there = listed(f"{name}/" for name in parts.values())
        raise InputError("--data", request.name, f"{scan.root} has {there} but no train/", _LAYOUT)
    scan.require_no_splits(folders)
    classes, images = scan.classes_in("")
    direct = "without a train/ folder, the folders of the directory itself are taken as the classes"
    return _without_test(request, scan, classes, images, [], [direct])


def _unused(folders: list[str], parts: dict[Part, str]) -> list[str]:
    others = [name for name in folders if name not in parts.values()]
    if not others:
        return []
    *first, last = (f"{parts.get(part, part)}/" for part in _ORDER if part in parts or part != "validation")
    return [f"{plural(len(others), 'folder')} other than {', '.join(first)} and {last} not used: {listed(others)}"]


def _without_test(
    request: DataRequest,
    scan: _Scan,
    classes: tuple[str, ...],
    images: list[ImageFile],
    validation: list[ImageFile],
    notices: list[str],
) -> FolderListing:
    """Split off a fifth of the images as the test split."""
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
    train_rows, test_rows = hold_out(labels, size, seed=request.split_seed, purpose=Purpose.TEST)
    notice = (
        f"without a test/ folder, {len(test_rows):,} of {plural(len(labels), 'image')} (20 %, stratified, split seed "
        f"{request.split_seed}) are set aside as the test split"
    )
    train, test = [images[row] for row in train_rows], [images[row] for row in test_rows]
    return _listing(scan, classes, (train, test, validation), request.split_seed, [*notices, notice])


def _listing(
    scan: _Scan,
    classes: tuple[str, ...],
    splits: tuple[list[ImageFile], list[ImageFile], list[ImageFile]],
    test_seed: int | None,
    notices: list[str],
) -> FolderListing:
    train, test, validation = map(tuple, splits)
    return FolderListing(scan.root, classes, train, test, validation, test_seed, (*notices, *scan.notices()))


@dataclass(slots=True)
class _Scan:
    """Lists class folders, and counts what it ignores."""

    argument: str
    root: Path
    skipped: frozenset[str]
    ignored: Counter[str] = field(default_factory=Counter)  # number of ignored files, by suffix
    odd: list[str] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)

    def parts(self, folders: Iterable[str]) -> dict[Part, str]:
        """Return the folders that are splits by their names, in any case and usual spelling.

        Raises:
            InputError: If two folders are spellings of the same split.
        """
        parts: dict[Part, str] = {}
        for name in folders:
            part = _SPELLINGS.get(name.lower())
            if part is None:
                continue
            if part in parts:
                rule = f"{self.root} has two folders for the {part} split: {parts[part]}/ and {name}/"
                raise self._error(rule, "keep one of them")
            parts[part] = name
        return parts

    def require_no_splits(self, folders: list[str]) -> None:
        """Raise `InputError` if folders about to be taken as classes are splits, or contain some."""
        splits = [name for name in folders if _split_words(name)]
        if len({part for name in splits for part in _split_words(name)}) > 1:
            rule = f"the folders look like splits, not like classes: {listed(splits)}"
            raise self._error(rule, "rename them train/ and test/, with the class folders inside")
        for name in folders:
            inner = self.parts(_subfolders(self.root / name))
            if "train" in inner or len(inner) > 1:
                inside = listed([f"{name}/{folder}" for folder in inner.values()])
                hint = f"pass folder:{self.root / name}" if len(folders) == 1 else _LAYOUT
                raise self._error(f"the splits are inside a class folder: {inside}", hint)

    def require_no_nested_splits(self, train: str) -> None:
        """Check that the folders in the training folder are not all splits.

        Raises:
            InputError: If they are, as in ``train/train`` and ``train/val``.
        """
        names = _subfolders(self.root / train)
        inner = [_SPELLINGS.get(name.lower()) for name in names]
        if "train" in inner and None not in inner:
            inside = listed([f"{train}/{name}" for name in names])
            raise self._error(f"the splits are inside {train}/: {inside}", f"pass folder:{self.root / train}")

    def classes_in(self, part: str) -> tuple[tuple[str, ...], list[ImageFile]]:
        """Return the classes and images of the folder ``part`` ("" for the root itself)."""
        directory = self.root / part
        names = _subfolders(directory)
        if not names:
            raise self._error(f"{directory} has no class folders", _LAYOUT)
        for name in names:
            if not name.isprintable():
                rule = f"the name of the class folder {name!r} has characters that are not printable, or is not UTF-8"
                raise self._error(rule, "rename it")
        images: list[ImageFile] = []
        for label, name in enumerate(names):
            found = self._images(part, name, label)
            if not found:
                self._require_undamaged(f"{part}/{name}" if part else name)
                raise self._error(f"class {name!r} has no images ({directory / name})", self._hint(directory / name))
            images += found
        if len(names) < 2:
            raise self._error(f"there is a single class, {names[0]!r}; at least 2 are needed", _LAYOUT)
        if part:
            self.count_loose(part)
        return tuple(names), images

    def images_of(self, part: str, train: str, classes: tuple[str, ...]) -> list[ImageFile]:
        """Return the images of the test or validation folder ``part``, labelled by the training classes."""
        directory = self.root / part
        names = _subfolders(directory)
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise self._error(
                f"{part}/ has classes that {train}/ does not: {listed(unknown)}",
                f"give both the same class folders, or move {part}/ elsewhere to have a split made",
            )
        images: list[ImageFile] = []
        for label, name in enumerate(classes):
            found = self._images(part, name, label) if name in names else []
            if not found:
                self.missing.setdefault(part, []).append(name)
            images += found
        if not images:
            self._require_undamaged(part)
            loose = sum(_is_image(entry.name) for entry in _entries(directory))
            unlabelled = f", but {plural(loose, 'image')} outside of class folders" if loose else ""
            hint = f"lay them out as {part}/CLASS/image.jpg, or move {part}/ elsewhere to have a split made"
            raise self._error(f"{directory} has no images in class folders{unlabelled}", hint)
        self.count_loose(part)
        return images

    def count_loose(self, part: str, *, files: bool = True) -> None:
        """Count what is next to the folders in ``part``: entries that are neither files nor folders, and `files`."""
        for entry in _entries(self.root / part):
            if _is_dir(entry):
                continue
            if _file_stat(entry) is None:
                self.odd.append(f"{part}/{entry.name}" if part else entry.name)
            elif files:
                self.ignored[_suffix(entry.name)] += 1

    def notices(self) -> Iterator[str]:
        """Yield sentences on missing classes and ignored entries."""
        for part, names in self.missing.items():
            classes = "class" if len(names) == 1 else "classes"
            yield f"{part}/ has no images of {len(names):,} {classes}: {listed(names)}"
        if self.ignored:
            suffixes = sorted(self.ignored, key=lambda suffix: (-self.ignored[suffix], suffix))
            kinds = listed((suffix or "no suffix" for suffix in suffixes), _MAX_SUFFIXES)
            yield f"{plural(self.ignored.total(), 'file')} ignored: not an image by suffix or place ({kinds})"
        if self.odd:
            entries = "entry" if len(self.odd) == 1 else "entries"
            yield (
                f"{len(self.odd):,} {entries} ignored, such as links that lead nowhere or back to a folder above: "
                f"{listed(self.odd)}"
            )

    def _images(self, part: str, name: str, label: int) -> list[ImageFile]:
        prefix = f"{part}/{name}" if part else name
        files = []
        for entry in walk(self.root / prefix, prefix, self._above(part)):
            if entry.stat is None:
                self.odd.append(entry.relative)
            elif entry.relative in self.skipped:
                continue
            elif _is_image(entry.relative):
                files.append(ImageFile.of(entry.relative, label, entry.stat))
            else:
                self.ignored[_suffix(entry.relative)] += 1
        return sorted(files)

    def _require_undamaged(self, prefix: str) -> None:
        damaged = sum(path.startswith(f"{prefix}/") for path in self.skipped)
        if damaged:
            rule = f"all images in {prefix}/ are damaged ({plural(damaged, 'file')})"
            raise self._error(rule, f"repair them, or remove {prefix}/")

    def _above(self, part: str) -> tuple[tuple[int, int], ...]:
        """Return the folders above the class folders of `part`, as `walk` takes them."""
        above = (self.root / part, self.root, *self.root.resolve().parents)
        return tuple(_place(folder) for folder in above)

    def _hint(self, directory: Path) -> str:
        suffixes = {_suffix(entry.name) for entry in _entries(directory)}
        others = sorted(suffixes - SUFFIXES - {""})
        convert = f"; its {listed(others)} files are not read: convert them to JPEG or PNG" if others else ""
        return f"add images or remove it{convert}"

    def _error(self, rule: str, hint: str) -> InputError:
        return InputError("--data", self.argument, rule, hint)


def _split_words(name: str) -> set[Part]:
    """Return the splits that the words of a folder's name mean: ``seg_train`` and ``trainImages`` mean train."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return {_SPELLINGS[word.lower()] for word in words if word.lower() in _SPELLINGS}


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _NOT_THE_USERS]


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        _require_loop(error)
        return False


def _file_stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the facts of the file system about a file, or None for anything else."""
    try:
        return entry.stat() if entry.is_file() else None
    except OSError as error:
        _require_loop(error)
        return None


def _require_loop(error: OSError) -> None:
    """Raise the error again, unless it is that of a link that leads to itself."""
    if error.errno != errno.ELOOP:
        raise error


def _place(directory: Path) -> tuple[int, int]:
    """Return what is the same for every path of a folder."""
    stat = directory.stat()
    return stat.st_dev, stat.st_ino


def _subfolders(directory: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(directory) if _is_dir(entry))


def _is_image(name: str) -> bool:
    return name[name.rfind(".") :].lower() in SUFFIXES  # faster than `_suffix`, for every image at every start


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


class Entry(NamedTuple):
    """A file below a folder, or with `stat` None something that is neither a file nor a folder."""

    relative: str
    stat: os.stat_result | None


def walk(directory: Path, relative: str, ancestors: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
    """Yield every entry under a folder except hidden ones. Links are followed, except to a folder above them."""
    here = _place(directory)
    if here in ancestors:
        yield Entry(relative, None)
        return
    for entry in _entries(directory):
        path = f"{relative}/{entry.name}"
        if _is_dir(entry):
            yield from walk(directory / entry.name, path, (*ancestors, here))
        else:
            yield Entry(path, _file_stat(entry))
