"""The identity of a run's data. It is part of the run's key, so runs on other data never count as equal."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from budgetnas.errors import plural

ARRAYS: Final = "arrays"
"""Name of images that a program gave as arrays."""
FOLDER: Final = "folder-"
"""Beginning of the name of a user's folder."""
_DIGEST_LENGTH = 16
_BLOCK_BYTES = 1 << 20


class DataIdentity(BaseModel):
    """The data of a run, independent of where they are stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # the set's name, ``arrays``, or for a folder ``folder-`` and its base name in safe characters
    content_hash: str  # SHA-256, in hex, of the content (see :class:`ContentHash`)
    subset: int | None  # number of training images kept, or None for all
    subset_eval: int | None  # number of validation and of test images kept, or None for all
    split_seed: int  # seed of the splits and subsets
    resolution: int  # side of the images in pixels
    # Part of the JSON only if they are set, so that older identities keep their digest.
    skipped: tuple[str, ...] = ()  # damaged files that were left out, by path
    bit_depth: int | None = None  # bits of the levels in 16-bit images, or None for 16, or without such images

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if value or name not in ("skipped", "bit_depth")}

    @property
    def is_own(self) -> bool:
        """Whether these are a user's own images, which cannot be found by their name."""
        return self.name == ARRAYS or self.name.startswith(FOLDER)

    @property
    def how_to_give(self) -> str:
        """How to give a user's own images to a study that was made on them, as a clause."""
        if self.name == ARRAYS:
            return "give them in Python: data=(images, labels), in budgetnas.open_study or budgetnas.search"
        return "name the folder with --data folder:DIR"

    def digest(self) -> str:
        """Short hex digest, the same on every machine and in every version."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGEST_LENGTH]

    def label(self) -> str:
        """Short phrase for people, e.g. ``cifar10, subset 2,000``."""
        parts = [self.name]
        if self.subset is not None:
            parts.append(f"subset {self.subset:,}")
        if self.subset_eval is not None:
            parts.append(f"evaluation subset {self.subset_eval:,}")
        if self.split_seed:
            parts.append(f"split seed {self.split_seed}")
        if self.skipped:
            parts.append(f"without {plural(len(self.skipped), 'damaged image')}")
        if self.bit_depth is not None:
            parts.append(f"levels of {self.bit_depth} bits")
        return ", ".join(parts)


def folder_name(directory: Path) -> str:
    """Return a user's folder name for identities and studies, with letters, digits and ``. _ -`` only."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", directory.name).strip("-")
    return f"{FOLDER}{safe or 'images'}"


class ContentHash:
    """SHA-256 over files: for each, its relative POSIX path, NUL, its length (8 bytes, big-endian), its bytes.

    Files must be added in the sorted order of their paths.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, relative: str, content: bytes | memoryview) -> None:
        """Add a file."""
        self._add_header(relative, len(content))
        self._hash.update(content)

    def add_file(self, root: Path, relative: str) -> None:
        """Add a file without reading all of it into memory."""
        path = root / relative
        self._add_header(relative, path.stat().st_size)
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                self._hash.update(block)

    def hexdigest(self) -> str:
        """Return the hash in hex, 64 characters."""
        return self._hash.hexdigest()

    def _add_header(self, relative: str, size: int) -> None:
        self._hash.update(relative.encode("utf-8", "surrogateescape") + b"\0" + size.to_bytes(8, "big"))


def hash_files(root: Path, relatives: Iterable[str]) -> str:
    """Return the content hash of the files ``relatives`` under ``root``."""
    content = ContentHash()
    for relative in sorted(relatives):
        content.add_file(root, relative)
    return content.hexdigest()
