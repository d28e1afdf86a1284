"""A folder of the user's own images, in the layout of torchvision's ``ImageFolder``."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from budgetnas.data.cache import FORMAT_VERSION, CacheEntry, Manifest
from budgetnas.data.decoding import Decoded, ImageFile, count_shorter_sides, decode_files, describe_changes
from budgetnas.data.identity import folder_name
from budgetnas.data.images import Images, Source, TrainingPart
from budgetnas.data.request import MIN_RESOLUTION, DataRequest
from budgetnas.data.splits import Purpose, hold_out, share_size
from budgetnas.errors import InputError, listed, plural

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif"})
_TEST_PARTS = 5
_LAYOUT = "lay the images out as DIR/train/CLASS/image.jpg and DIR/test/CLASS/image.jpg"
_MAX_DEFAULT_RESOLUTION = 64
_SAMPLE = 256


class FolderSource(Source):
    """The images of a ``folder:`` request, decoded once and cached.

    Raises:
        InputError: If the folder or its layout cannot be used.
    """

    def __init__(self, request: DataRequest) -> None:
        self.name = folder_name(request.folder)
        self._resolution = request.resolution
        self._listing = list_folder(request)

    def read_training(self) -> TrainingPart:
        """See :meth:`Source.read_training`."""
        part = self._cached_training()
        if part is None:
            with self._entry.locked():
                part = self._cached_training() or self._decode_training()
        return part

    def read_test(self) -> Images:
        """See :meth:`Source.read_test`."""
        manifest = self._entry.read_manifest()
        side = manifest.resolution if manifest else self._side_by_headers()
        images = self._cached_test(side)
        if images is None:
            with self._entry.locked():
                images = self._cached_test(side)
                if images is None:
                    images = decode_files(self._listing.root, self._listing.test, side).images
                    self._entry.write_images("test", images)
        return Images(images, labels_of(self._listing.test))

    @cached_property
    def _entry(self) -> CacheEntry:
        return CacheEntry(_cache_key(self._listing, self._resolution))

    def _cached_training(self) -> TrainingPart | None:
        manifest = self._entry.read_manifest()
        if manifest is None:
            return None
        side = manifest.resolution
        images = self._entry.read_images("train", (len(self._listing.train), 3, side, side))
        if images is None:
            return None
        return self._part(Images(images, labels_of(self._listing.train)), manifest)

    def _cached_test(self, side: int) -> NDArray[np.uint8] | None:
        return self._entry.read_images("test", (len(self._listing.test), 3, side, side))

    def _decode_training(self) -> TrainingPart:
        decoded, side = self._decode_at_own_side()
        notices = tuple(describe_changes(decoded.changes, side))
        manifest = Manifest(
            content_hash=decoded.content_hash, classes=self._listing.classes, notices=notices, resolution=side
        )
        self._entry.write_images("train", decoded.images)
        self._entry.write_manifest(manifest)
        return self._part(Images(decoded.images, labels_of(self._listing.train)), manifest)

    def _part(self, images: Images, manifest: Manifest) -> TrainingPart:
        notices = (*self._listing.notices, *manifest.notices)
        return TrainingPart(images, self._listing.classes, manifest.content_hash, notices)

    def _decode_at_own_side(self) -> tuple[Decoded, int]:
        """Decode the training images at the requested resolution, else at their most common shorter side.

        The most common side is known only after reading all images, so it is guessed from a sample. A right guess saves
        a first pass over all headers; a wrong guess costs a second pass over all images.
        """
        listing = self._listing
        side = self._resolution or likely_side(listing)
        decoded = decode_files(listing.root, listing.train, side, only_hashed=listing.test)
        actual = self._resolution or _most_common(decoded.shorter_sides)
        if actual != side:
            decoded = decode_files(listing.root, listing.train, actual, only_hashed=listing.test)
        return decoded, actual

    def _side_by_headers(self) -> int:
        return self._resolution or _most_common(count_shorter_sides(self._listing.root, self._listing.train))


def likely_side(listing: FolderListing) -> int:
    """Return the most common side of a sample of the training images, from their headers.

    Raises:
        InputError: If a file cannot be read, or is not an image.
    """
    step = -(-len(listing.train) // _SAMPLE)
    return _most_common(count_shorter_sides(listing.root, listing.train[::step]))


def _most_common(shorter_sides: Counter[int]) -> int:
    """Return the most common side (of equally common ones the smallest), within the allowed range."""
    side = min(shorter_sides, key=lambda pixels: (-shorter_sides[pixels], pixels))
    return min(max(side, MIN_RESOLUTION), _MAX_DEFAULT_RESOLUTION)


def _cache_key(listing: FolderListing, resolution: int | None) -> str:
    head = [FORMAT_VERSION, str(listing.root), resolution, listing.test_seed, listing.classes]
    key = hashlib.sha256(json.dumps(head).encode())
    for files in (listing.train, listing.test):
        key.update(_stamp(files))
    return key.hexdigest()


def _stamp(files: tuple[ImageFile, ...]) -> bytes:
    stamps = (f"{file.relative}\0{file.size_bytes}\0{file.mtime_ns}\0" for file in sorted(files))
    return ("".join(stamps) + "\0").encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The images of a folder, split into training and test."""

    root: Path  # absolute path of the folder
    classes: tuple[str, ...]  # names in sorted order
    train: tuple[ImageFile, ...]  # training images by class, then path
    test: tuple[ImageFile, ...]  # test images in the same order
    test_seed: int | None  # seed of the test split, or None if the folder has its own ``test/``
    notices: tuple[str, ...]  # sentences on what was assumed or left out


def labels_of(files: Iterable[ImageFile]) -> NDArray[np.int64]:
    """Return the class indices of the files, ``(N,)``."""
    return np.fromiter((file.label for file in files), dtype=np.int64)


def list_folder(request: DataRequest) -> FolderListing:
    """List the images of a ``folder:`` request and split them into training and test.

    Raises:
        InputError: If the folder is missing or unreadable, or its layout or classes cannot be used.
    """
    root = request.folder
    if not root.is_dir():
        rule = "is not a folder" if root.exists() else "does not exist"
        raise InputError("--data", request.name, f"{root} {rule}", "name the folder that contains train/ and test/")
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
        raise InputError("--data", request.name, f"{root} has test/ but no train/", _LAYOUT)
    classes, images = scan.classes_in("")
    direct = "without a train/ folder, the folders of the directory itself are taken as the classes"
    return _without_test(request, scan, classes, images, [direct])


def _unused(folders: list[str]) -> list[str]:
    others = [name for name in folders if name not in ("train", "test")]
    if not others:
        return []
    return [f"{plural(len(others), 'folder')} other than train/ and test/ not used: {listed(others)}"]


def _without_test(
    request: DataRequest, scan: _Scan, classes: tuple[str, ...], images: list[ImageFile], notices: list[str]
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
    """Lists class folders, and counts the files that it ignores."""

    argument: str
    root: Path
    ignored: int = 0
    missing_in_test: list[str] = field(default_factory=list)

    def classes_in(self, part: str) -> tuple[tuple[str, ...], list[ImageFile]]:
        """Return the classes and images of the folder ``part`` ("" for the root itself)."""
        directory = self.root / part
        names = _subfolders(directory)
        if not names:
            raise self._error(f"{directory} has no class folders", _LAYOUT)
        images: list[ImageFile] = []
        for label, name in enumerate(names):
            found = self._images(part, name, label)
            if not found:
                raise self._error(f"class {name!r} has no images ({directory / name})", "add images or remove it")
            images += found
        if len(names) < 2:
            raise self._error(f"there is a single class, {names[0]!r}; at least 2 are needed", _LAYOUT)
        self.ignored += _count_files(directory) if part else 0
        return tuple(names), images

    def test_images(self, classes: tuple[str, ...]) -> list[ImageFile]:
        """Return the images of ``test/``, labelled by the training classes."""
        names = _subfolders(self.root / "test")
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise self._error(
                f"test/ has classes that train/ does not: {listed(unknown)}",
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
                f"{self.root / 'test'} has no images", "add images, or remove it to have a test split made"
            )
        self.ignored += _count_files(self.root / "test")
        return images

    def notices(self) -> Iterator[str]:
        """Yield sentences on missing classes and ignored files."""
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
    """Yield every file under a folder except hidden ones. Links are followed, except to a folder above them."""
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
