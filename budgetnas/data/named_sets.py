"""The named sets: CIFAR-10, CIFAR-100 and Fashion-MNIST, read by torchvision, and the digits of scikit-learn."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from budgetnas.data.decoding import resized
from budgetnas.data.download import Archive, fetch
from budgetnas.data.identity import hash_files
from budgetnas.data.images import Images, Source, TrainingPart
from budgetnas.data.request import DataRequest
from budgetnas.data.splits import Purpose, hold_out, share_size
from budgetnas.errors import InputError, plural

_DIGITS_TOP_LEVEL = 16
_DIGITS_TEST_PARTS = 5
# The digits have no test split of their own; a fixed seed gives every user the same split.
_DIGITS_TEST_SEED = 20_240


@dataclass(frozen=True, slots=True)
class _Layout:
    """The files of a set as torchvision stores them."""

    dataset: Any  # the class in ``torchvision.datasets``
    folder: str  # folder of the extracted files, relative to the data directory
    files: tuple[str, ...]  # names of the extracted files that are read
    archives: tuple[Archive, ...]  # the downloaded files

    @property
    def relatives(self) -> list[str]:
        return [f"{self.folder}/{file}" for file in self.files]


def is_unpacked(request: DataRequest) -> bool:
    """Return whether the extracted files of a named set exist, so that nothing needs to be downloaded or unpacked."""
    return all(os.path.isfile(request.archive_dir / relative) for relative in _layout(request.name).relatives)


def archives_of(request: DataRequest) -> tuple[Archive, ...]:
    """Return the archives of a named set, whose paths are relative to the request's `archive_dir`."""
    return _layout(request.name).archives


class ArchiveSource(Source):
    """A named set that torchvision reads, downloaded if its files are missing.

    Raises:
        InputError: If the files are missing and cannot be downloaded, or are damaged.
    """

    def __init__(self, request: DataRequest) -> None:
        self.name = request.name
        self._root = request.archive_dir
        self._side = request.resolution
        self._layout = _layout(request.name)
        self.is_cifar10 = request.name == "cifar10" and request.resolution in (None, 32)

    def read_training(self) -> TrainingPart:
        """See :meth:`Source.read_training`."""
        dataset = self._open(train=True)
        images, notices = resized(self._images(dataset), self._side)
        content_hash = hash_files(self._root, self._layout.relatives)
        return TrainingPart(images, tuple(dataset.classes), content_hash, notices)

    def read_test(self) -> Images:
        """See :meth:`Source.read_test`."""
        return resized(self._images(self._open(train=False)), self._side)[0]

    def _open(self, *, train: bool) -> Any:
        if not all(os.path.isfile(self._root / relative) for relative in self._layout.relatives):
            return fetch(
                self.name,
                self._root,
                self._layout.archives,
                lambda: self._construct(train=train, download=True),
            )
        try:
            return self._construct(train=train, download=False)
        except Exception as error:  # whatever unpickling or parsing a damaged file raises
            raise self._damaged(error) from error

    def _construct(self, *, train: bool, download: bool) -> Any:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results alone
            return self._layout.dataset(self._root, train=train, download=download)

    def _images(self, dataset: Any) -> Images:
        pixels = np.asarray(dataset.data, dtype=np.uint8)
        # CIFAR comes as (N, H, W, 3), Fashion-MNIST as (N, H, W)
        pixels = pixels[:, np.newaxis] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        labels = np.asarray(dataset.targets).astype(np.int64)
        if len(pixels) != len(labels):
            raise self._damaged(f"{len(pixels):,} images, but {len(labels):,} labels")
        return Images(np.ascontiguousarray(pixels), labels)

    def _damaged(self, reason: object) -> InputError:
        folder = self._root / self._layout.folder
        hint = "delete that folder, so that it is unpacked or downloaded again"
        return InputError("--data", self.name, f"the files in {folder} are damaged ({reason})", hint)


def _layout(name: str) -> _Layout:
    from torchvision import datasets  # takes seconds to import, and brings torch

    if name == "fashion-mnist":
        return _fashion_layout(datasets.FashionMNIST)
    return _cifar_layout(datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100)


def _cifar_layout(dataset: Any) -> _Layout:
    """CIFAR-10 and CIFAR-100 (A. Krizhevsky, Learning multiple layers of features from tiny images, 2009)."""
    files = [file for file, _ in dataset.train_list + dataset.test_list]
    archive = Archive(dataset.filename, dataset.tgz_md5, dataset.url)
    return _Layout(dataset, dataset.base_folder, (*files, dataset.meta["filename"]), (archive,))


def _fashion_layout(dataset: Any) -> _Layout:
    """Fashion-MNIST (H. Xiao, K. Rasul and R. Vollgraf, arXiv:1708.07747, 2017)."""
    folder = f"{dataset.__name__}/raw"
    archives = tuple(Archive(f"{folder}/{file}", md5, dataset.mirrors[0] + file) for file, md5 in dataset.resources)
    return _Layout(dataset, folder, tuple(Path(file).stem for file, _ in dataset.resources), archives)


class DigitsSource(Source):
    """1,797 grey images of 8x8 pixels in 10 classes (E. Alpaydin and C. Kaynak, UCI repository, 1998)."""

    name = "digits"
    flip = False

    def __init__(self, resolution: int | None) -> None:
        self._resolution = resolution
        self._whole = _load_digits()

    def read_training(self) -> TrainingPart:
        """See :meth:`Source.read_training`."""
        whole = self._whole
        train, test = self._parts()
        images, notices = resized(whole.take(train), self._resolution)
        share = (
            f"digits has no test split of its own: {plural(len(test), 'image')} (20 %, stratified, always the same) "
            "are set aside"
        )
        classes = tuple(str(digit) for digit in range(10))
        content = whole.images.tobytes() + whole.labels.astype("<i8").tobytes()
        return TrainingPart(images, classes, hashlib.sha256(content).hexdigest(), (share, *notices))

    def read_test(self) -> Images:
        """See :meth:`Source.read_test`."""
        _, test = self._parts()
        return resized(self._whole.take(test), self._resolution)[0]

    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        labels = self._whole.labels
        return hold_out(labels, share_size(labels, _DIGITS_TEST_PARTS), seed=_DIGITS_TEST_SEED, purpose=Purpose.TEST)


def _load_digits() -> Images:
    """Return the digits from the file of scikit-learn, which takes a second to import and is not imported."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None, "scikit-learn is a dependency"
    rows = np.loadtxt(Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz", np.int64, delimiter=",")
    levels, labels = rows[:, :-1].reshape(-1, 1, 8, 8), rows[:, -1]
    scaled = (levels * 255 + _DIGITS_TOP_LEVEL // 2) // _DIGITS_TOP_LEVEL
    return Images(scaled.astype(np.uint8), np.ascontiguousarray(labels))
