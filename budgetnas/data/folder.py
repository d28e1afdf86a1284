"""A folder of the user's own images, in the layout of torchvision's ``ImageFolder``."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from budgetnas.data.cache import FORMAT_VERSION, CacheEntry, Manifest, Notes
from budgetnas.data.contents import remember_contents
from budgetnas.data.decoding import Decoded, ImageFile, count_shorter_sides, decode_files, depth_of, describe_changes
from budgetnas.data.folder_listing import FolderListing, labels_of, list_folder
from budgetnas.data.identity import folder_name
from budgetnas.data.images import Images, Source, TrainingPart, describe_copies
from budgetnas.data.request import FULL_DEPTH, MIN_RESOLUTION, DataRequest
from budgetnas.errors import InputError, listed, plural

_MAX_DEFAULT_RESOLUTION = 64
_SAMPLE = 256
_MAX_LISTED = 100


class FolderSource(Source):
    """The images of a ``folder:`` request, decoded once and cached.

    Raises:
        InputError: If the folder or its layout cannot be used.
    """

    def __init__(self, request: DataRequest) -> None:
        self.name = folder_name(request.folder)
        self._request = request
        self._resolution = request.resolution
        self._listing = list_folder(request, request.skipped)

    def read_training(self) -> TrainingPart:
        """See :meth:`Source.read_training`."""
        part = self._cached_training()
        if part is None:
            with _keyed(self._key).locked():
                part = self._cached_training() or self._decode_training()
        return part

    def read_content_hash(self) -> str:
        """See :meth:`Source.read_content_hash`."""
        manifest = self._cached_manifest()
        return (manifest or self.read_training()).content_hash

    def read_test(self) -> Images:
        """See :meth:`Source.read_test`."""
        side = self._known_side() or self._most_common_side()
        entry = self._entry(side)
        manifest = entry.read_manifest()
        bit_depth = self._request.bit_depth or (manifest or self.read_training()).bit_depth or FULL_DEPTH
        listing = self._without(manifest.skipped if manifest else ())
        shape = (len(listing.test), 3, side, side)
        images = entry.read_images("test", shape)
        if images is None:
            with _keyed(self._key).locked():  # one lock for all sides: an entry can belong to two
                images = entry.read_images("test", shape)
                if images is None:
                    decoded = decode_files(listing.root, listing.test, side, bit_depth)
                    _require_whole(listing.root, decoded.damaged)
                    images = decoded.images
                    entry.write_images("test", images)
        return Images(images, labels_of(listing.test))

    @cached_property
    def _key(self) -> str:
        return _cache_key(self._listing)

    def _entry(self, side: int | None) -> CacheEntry:
        """Return the entry of the images' own bit depth, or of another that was requested."""
        own, requested = _keyed(f"{self._key} {side}"), self._request.bit_depth
        manifest = None if requested is None else own.read_manifest()
        if requested is None or (manifest is not None and (manifest.bit_depth or FULL_DEPTH) == requested):
            return own
        return _keyed(f"{self._key} {side} {requested}")

    def _known_side(self) -> int | None:
        """Return the requested resolution, else the images' own, or None if that is not known yet."""
        return self._resolution or _side_of(_own_sides().read(self._key) or b"")

    def _most_common_side(self) -> int:
        listing = self._listing
        return _most_common(count_shorter_sides(listing.root, (*listing.train, *listing.validation)))

    def _without(self, skipped: tuple[str, ...]) -> FolderListing:
        return list_folder(self._request, {*self._request.skipped, *skipped}) if skipped else self._listing

    def _cached_manifest(self) -> Manifest | None:
        """Return the facts about the training part, or None if they are not cached or not those of the request."""
        side = self._known_side()
        manifest = None if side is None else self._entry(side).read_manifest()
        if manifest is None or manifest.resolution != side or (manifest.skipped and not self._request.skip_damaged):
            return None
        return manifest

    def _cached_training(self) -> TrainingPart | None:
        manifest = self._cached_manifest()
        if manifest is None:
            return None
        listing, side = self._without(manifest.skipped), manifest.resolution
        shape = (len(listing.train) + len(listing.validation), 3, side, side)
        images = self._entry(side).read_images("train", shape)
        return None if images is None else self._part(images, listing, manifest)

    def _decode_training(self) -> TrainingPart:
        listing = self._listing
        decoded, side, bit_depth = self._decode_as_they_are(listing)
        skipped: tuple[str, ...] = ()
        if decoded.damaged and self._request.skip_damaged:
            _require_recordable(listing.root, decoded)
            skipped = tuple(sorted(decoded.damaged))
            listing = self._without(skipped)
            decoded, side, bit_depth = self._decode_as_they_are(listing)
        _require_whole(listing.root, decoded.damaged)
        recorded = None if decoded.highest is None or bit_depth == FULL_DEPTH else bit_depth
        manifest = Manifest(
            content_hash=decoded.content_hash,
            classes=listing.classes,
            notices=(
                *describe_changes(decoded.changes, side),
                *_describe_depth(decoded.highest, recorded),
                *_describe_copies(listing, decoded.file_hashes),
                *_describe_conflicts(listing, decoded.file_hashes),
            ),
            resolution=side,
            skipped=skipped,
            bit_depth=recorded,
        )
        entry = self._entry(side)
        entry.write_images("train", decoded.images)
        entry.write_manifest(manifest)
        _own_sides().write(self._key, str(_most_common(decoded.shorter_sides)).encode())
        remember_contents(decoded.content_hash, decoded.file_hashes)
        return self._part(decoded.images, listing, manifest)

    def _part(self, images: NDArray[np.uint8], listing: FolderListing, manifest: Manifest) -> TrainingPart:
        skipped = tuple(sorted({*self._request.skipped, *manifest.skipped}))
        left_out = (f"{plural(len(skipped), 'damaged image')} left out: {listed(skipped)}",) if skipped else ()
        notices = (*listing.notices, *left_out, *manifest.notices)
        count = len(listing.train)
        train = Images(images[:count], labels_of(listing.train))
        validation = Images(images[count:], labels_of(listing.validation)) if listing.validation else None
        return TrainingPart(
            train, listing.classes, manifest.content_hash, notices, skipped, manifest.bit_depth, validation=validation
        )

    def _decode_as_they_are(self, listing: FolderListing) -> tuple[Decoded, int, int]:
        """Decode the training images at the requested side and bit depth, else at their own.

        The most common shorter side and the highest level are known only after reading all images, so the side is
        guessed from a sample, and 16 bits. Right guesses save a first pass over all images.
        """
        files = (*listing.train, *listing.validation)

        def decoded_at(side: int, bit_depth: int) -> Decoded:
            return decode_files(listing.root, files, side, bit_depth, only_checked=listing.test)

        asked_side, asked_depth = self._resolution, self._request.bit_depth
        guess = asked_side or likely_side(listing), asked_depth or FULL_DEPTH
        decoded = decoded_at(*guess)
        side = asked_side or _most_common(decoded.shorter_sides or Counter({guess[0]: 1}))
        bit_depth = asked_depth or depth_of(decoded.highest)
        return decoded if (side, bit_depth) == guess else decoded_at(side, bit_depth), side, bit_depth


def _keyed(text: str) -> CacheEntry:
    return CacheEntry(hashlib.sha256(text.encode()).hexdigest())


def _own_sides() -> Notes:
    """Return the most common side of folders, by cache key."""
    return Notes("sides", most=256)


def likely_side(listing: FolderListing) -> int:
    """Return the most common side of a sample of the training images, from their headers.

    Raises:
        InputError: If none of them can be read as an image.
    """
    sample = listing.train[:: -(-len(listing.train) // _SAMPLE)]
    sides = count_shorter_sides(listing.root, sample)
    if not sides:
        rule = f"none of {plural(len(sample), 'training file')} tried can be read as an image"
        raise InputError("--data", str(listing.root), rule, f"begin with {sample[0].relative}")
    return _most_common(sides)


def _most_common(shorter_sides: Counter[int]) -> int:
    """Return the most common side (of equally common ones the smallest), within the allowed range."""
    side = min(shorter_sides, key=lambda pixels: (-shorter_sides[pixels], pixels))
    return min(max(side, MIN_RESOLUTION), _MAX_DEFAULT_RESOLUTION)


def _describe_depth(highest: int | None, bit_depth: int | None) -> Iterator[str]:
    if bit_depth is not None:
        top = (1 << bit_depth) - 1
        yield f"16-bit levels reach {highest:,}: 0 to {top:,}, the range of {bit_depth} bits, becomes 0 to 255"


def _describe_copies(listing: FolderListing, file_hashes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the notice of test files that are training files too; the test images' pixels are not kept."""
    trained = {file_hashes[file.relative] for file in (*listing.train, *listing.validation)}
    copies = sum(file_hashes[file.relative] in trained for file in listing.test)
    return describe_copies(copies, len(listing.test), "test")


def _describe_conflicts(listing: FolderListing, file_hashes: Mapping[str, str]) -> Iterator[str]:
    """Yield the notice of training files with the bytes of a file of another class."""
    labels: dict[str, set[int]] = {}
    for file in listing.train:
        labels.setdefault(file_hashes[file.relative], set()).add(file.label)
    twice = [file.relative for file in listing.train if len(labels[file_hashes[file.relative]]) > 1]
    if twice:
        yield f"{plural(len(twice), 'training file')} with the same bytes in different classes: {listed(twice)}"


def _side_of(note: bytes) -> int | None:
    """Return the side in a note of the cache, or None if there is no side that `_most_common` returns in it."""
    sides = range(MIN_RESOLUTION, _MAX_DEFAULT_RESOLUTION + 1)
    return next((side for side in sides if note == str(side).encode()), None)


def _require_whole(root: Path, damaged: Mapping[str, str]) -> None:
    """Check that no file is damaged.

    Raises:
        InputError: If files are; it lists them, at most 100.
    """
    if not damaged:
        return
    shown = listed((f"{path} ({reason})" for path, reason in sorted(damaged.items())), _MAX_LISTED)
    rule = f"{plural(len(damaged), 'file')} cannot be read as an image: {shown}"
    raise InputError("--data", str(root), rule, "repair or remove them, or leave them out with --skip-damaged")


def _require_recordable(root: Path, decoded: Decoded) -> None:
    """Check that the files to leave out are damaged and can be recorded by name.

    Raises:
        InputError: If the operating system failed to read one, which may be whole, or a name is not UTF-8.
    """
    if decoded.unread:
        failed = listed(f"{path} ({decoded.damaged[path]})" for path in sorted(decoded.unread))
        rule = f"{plural(len(decoded.unread), 'file')} cannot be read from the disk: {failed}"
        hint = "--skip-damaged leaves out only files with damaged contents; check permissions and the disk, then retry"
        raise InputError("--data", str(root), rule, hint)
    foreign = [path for path in sorted(decoded.damaged) if path.encode(errors="replace").decode() != path]
    if foreign:
        names = listed(foreign)
        rule = f"{plural(len(foreign), 'damaged file')} with names that are not UTF-8 cannot be recorded: {names}"
        raise InputError("--data", str(root), rule, "rename or remove them")


def _cache_key(listing: FolderListing) -> str:
    head = [FORMAT_VERSION, str(listing.root), listing.test_seed, listing.classes]
    key = hashlib.sha256(json.dumps(head).encode())
    for files in (listing.train, listing.test, listing.validation):
        key.update(_stamps(files))
    return key.hexdigest()


def _stamps(files: tuple[ImageFile, ...]) -> bytes:
    stamps = (f"{file.relative}\0{file.size_bytes}\0{file.stamp}\0" for file in sorted(files))
    return ("".join(stamps) + "\0").encode("utf-8", "surrogateescape")
