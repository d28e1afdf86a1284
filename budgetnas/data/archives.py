"""The named sets that torchvision reads from archives: CIFAR-10, CIFAR-100 and Fashion-MNIST."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from budgetnas.data.download import Archive, fetch
from budgetnas.data.identity import hash_files
from budgetnas.data.images import Images
from budgetnas.data.pixels import resized
from budgetnas.data.request import DataRequest
from budgetnas.data.sources import Source, TrainingPart
from budgetnas.errors import InputError


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where torchvision keeps a set.

    Attributes:
        dataset: The class in ``torchvision.datasets``.
        folder: The extracted files' folder, relative to the data directory.
        files: The extracted files that are read, in that folder.
        archives: What is downloaded.
    """

    dataset: Any
    folder: str
    files: tuple[str, ...]
    archives: tuple[Archive, ...]

    @property
    def relatives(self) -> list[str]:
        return [f"{self.folder}/{file}" for file in self.files]


def is_unpacked(request: DataRequest) -> bool:
    """Return whether the files of a named set are there, so that reading it downloads and unpacks nothing."""
    return all((request.archive_dir / relative).is_file() for relative in _layout(request.name).relatives)


def archives_of(request: DataRequest) -> tuple[Archive, ...]:
    """Return what a named set is unpacked from, below the request's `archive_dir`."""
    return _layout(request.name).archives


class ArchiveSource(Source):
    """A named set read by torchvision, downloaded when its files are not there.

    Args:
        request: A checked request for one of these sets.

    Raises:
        InputError: The files are missing and cannot be downloaded, or are damaged.
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
        if not all((self._root / relative).is_file() for relative in self._layout.relatives):
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
        hint = "delete that folder to have it unpacked or downloaded anew"
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
