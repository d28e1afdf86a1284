"""A user's request for data, and the checks that need no data."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

import platformdirs

from budgetnas.errors import InputError

if TYPE_CHECKING:
    from budgetnas.data.arrays import ImageArrays

NAMED_SETS = ("cifar10", "cifar100", "fashion-mnist", "digits")
FOLDER_PREFIX = "folder:"
MIN_RESOLUTION = 4
MAX_RESOLUTION = 512
BIT_DEPTHS = (8, 10, 12, 14, 16)  # of cameras and scanners, whose images files store with 16 bits
FULL_DEPTH = 16


@dataclass(frozen=True, slots=True)
class DataRequest:
    """A data set and how much of it, checked when it is loaded."""

    name: str  # one of ``cifar10``, ``cifar100``, ``fashion-mnist``, ``digits``, or ``folder:DIR``
    data_dir: Path | None = None  # folder of a named set's archive, or None for the user's data directory
    # Side of the square images in pixels, or None for the set's own (32, 32, 28 and 8); for a folder the most common
    # shorter side of its training images, at most 64.
    resolution: int | None = None
    subset: int | None = None  # number of training images to keep, stratified, or None for all
    subset_eval: int | None = None  # number of validation and of test images to keep, stratified, or None for all
    split_seed: int = 0  # seed of every random choice of images
    skip_damaged: bool = False  # whether the damaged files of a folder are left out; otherwise they are an error
    # Files of a folder that were damaged when a study was created, by path; left out, damaged or not.
    skipped: tuple[str, ...] = ()
    arrays: ImageArrays | None = None  # a program's images; `name` is then ``arrays``
    # Bits of the levels in a folder's 16-bit images, or None for the fewest of BIT_DEPTHS the training images need.
    bit_depth: int | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the data are a folder of the user's own images."""
        return self.name.startswith(FOLDER_PREFIX)

    @property
    def folder(self) -> Path:
        """The absolute path of the user's folder (``folder:`` requests only)."""
        return Path(os.path.abspath(Path(self.name.removeprefix(FOLDER_PREFIX)).expanduser()))

    @property
    def archive_dir(self) -> Path:
        """The directory of a named set's archive."""
        default = Path(platformdirs.user_data_dir("budgetnas"))
        return Path(os.path.abspath((self.data_dir or default).expanduser()))


def check_request(request: DataRequest) -> None:
    """Check a request, without looking at any data.

    Raises:
        InputError: If a value breaks its rule.
    """
    if request.arrays is None:
        _check_name(request.name)
    _check_resolution(request.resolution)
    _check_count("--subset", request.subset)
    _check_count("--subset-eval", request.subset_eval)
    if request.bit_depth not in (None, *BIT_DEPTHS):
        rule = f"must be one of {', '.join(map(str, BIT_DEPTHS))}"
        raise InputError("bit_depth", request.bit_depth, rule, "leave it out for the depth of the images")
    if request.split_seed < 0:
        raise InputError(
            "--split-seed", request.split_seed, "must be a whole number of at least 0", "try --split-seed 0"
        )


def _check_name(name: str) -> None:
    if name.startswith(FOLDER_PREFIX):
        if not name.removeprefix(FOLDER_PREFIX):
            raise InputError("--data", name, "names no folder", "write folder:DIR, e.g. folder:./photos")
    elif name not in NAMED_SETS:
        raise InputError("--data", name, f"must be one of {', '.join(NAMED_SETS)}, or folder:DIR", _suggestion(name))


def _suggestion(name: str) -> str:
    if name and Path(name).expanduser().is_dir():
        return f"for the images of that folder write --data {FOLDER_PREFIX}{name}"
    close = difflib.get_close_matches(name.lower(), NAMED_SETS, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else ""


def _check_resolution(resolution: int | None) -> None:
    if resolution is not None and not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
        raise InputError(
            "--resolution",
            resolution,
            f"must be from {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels",
            "leave it out for the data's own resolution",
        )


def _check_count(argument: str, count: int | None) -> None:
    if count is not None and (not isinstance(count, SupportsIndex) or count < 1):
        raise InputError(argument, count, "must be a whole number of at least 1", "leave it out to use all images")


def absolute_place(data: str | None, data_dir: Path | None) -> tuple[str | None, Path | None]:
    """Return the data, and the folder of archives, for a process that may run in another folder."""
    kind, colon, folder = (data or "").partition(":")
    absolute = f"{kind}:{Path(folder).expanduser().absolute()}" if colon else data
    return absolute, None if data_dir is None else data_dir.expanduser().absolute()
