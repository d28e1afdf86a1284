"""A folder of the user's own images."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from budgetnas.data.cache import FORMAT_VERSION, CacheEntry, Manifest
from budgetnas.data.identity import folder_name
from budgetnas.data.images import Images
from budgetnas.data.listing import FolderListing, ImageFile, labels_of, list_folder
from budgetnas.data.pixels import describe_changes
from budgetnas.data.reading import Decoded, count_shorter_sides, decode_files
from budgetnas.data.request import MIN_RESOLUTION, DataRequest
from budgetnas.data.sources import Source, TrainingPart

_MAX_DEFAULT_RESOLUTION = 64
_SAMPLE = 256


class FolderSource(Source):
    """The images of a ``folder:`` request, decoded once and cached.

    Args:
        request: A checked request.

    Raises:
        InputError: The folder or its layout cannot be used.
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
        """Decode the training images at the resolution asked for, else the commonest.

        The commonest is only known when all have been read, so it is guessed from a sample: a wrong guess costs
        a second pass, but a right one saves reading every header first.
        """
        listing = self._listing
        side = self._resolution or likely_side(listing)
        decoded = decode_files(listing.root, listing.train, side, only_hashed=listing.test)
        actual = self._resolution or _commonest(decoded.shorter_sides)
        if actual != side:
            decoded = decode_files(listing.root, listing.train, actual, only_hashed=listing.test)
        return decoded, actual

    def _side_by_headers(self) -> int:
        return self._resolution or _commonest(count_shorter_sides(self._listing.root, self._listing.train))


def likely_side(listing: FolderListing) -> int:
    """Return the commonest side of a sample of the training images, from their headers.

    Raises:
        InputError: A file cannot be read, or is not an image.
    """
    step = -(-len(listing.train) // _SAMPLE)
    return _commonest(count_shorter_sides(listing.root, listing.train[::step]))


def _commonest(shorter_sides: Counter[int]) -> int:
    """The commonest side, the smaller of equally common ones, kept within what can be trained on."""
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
