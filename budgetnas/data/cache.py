"""A cache of decoded images on disk, which saves decoding them at every start.

An entry is a folder of arrays and a manifest. Its key covers everything that the content depends on, so an entry is
never out of date, only unused. Files are written whole (temporary file, then rename) and checked when read: a damaged
entry counts as absent. A cache that cannot be written is not an error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

import filelock
import numpy as np
import platformdirs
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

FORMAT_VERSION = 4
MAX_ENTRIES = 8
_LOCK_TIMEOUT_SECONDS = 1800.0
_MANIFEST = "manifest.json"

_log = logging.getLogger(__name__)
_read_only: ContextVar[bool] = ContextVar("read_only", default=False)


@contextlib.contextmanager
def read_only() -> Iterator[None]:
    """Read entries inside the block, but write none."""
    token = _read_only.set(True)
    try:
        yield
    finally:
        _read_only.reset(token)


class Manifest(BaseModel):
    """Facts about a folder's training part, except its pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content_hash: str  # content hash of the whole folder, in hex
    classes: tuple[str, ...]
    notices: tuple[str, ...]  # sentences on conversions of the images
    resolution: int  # side of the images in pixels
    skipped: tuple[str, ...] = ()  # damaged files that were left out, by path relative to the folder
    bit_depth: int | None = None  # bits of the levels in 16-bit images, or None for 16, or without such images


def cache_root(part: str = "data") -> Path:
    """Return the folder of the entries: `part` in BUDGETNAS_CACHE_DIR or in the user's cache directory."""
    override = os.environ.get("BUDGETNAS_CACHE_DIR")
    return Path(override or platformdirs.user_cache_dir("budgetnas")).expanduser() / part


class Notes:
    """Up to `most` small values by key, in a folder of the cache; the oldest are deleted.

    If the folder cannot be written, values are not stored.
    """

    def __init__(self, part: str, most: int) -> None:
        self._root = cache_root(part)
        self._most = most

    def read(self, key: str) -> bytes | None:
        """Return the value of `key`, or None."""
        try:
            return (self._root / key).read_bytes()
        except OSError:
            return None

    def write(self, key: str, value: bytes) -> None:
        """Store the value of `key`; inside `read_only` do nothing."""
        if _read_only.get():
            return
        with contextlib.suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            _write_whole(self._root / key, lambda file: file.write(value))
            for path in sorted(self._root.iterdir(), key=_last_used, reverse=True)[self._most :]:
                path.unlink(missing_ok=True)


class CacheEntry:
    """An entry of the cache, which may not exist yet."""

    def __init__(self, key: str) -> None:
        self._root = cache_root()
        self._key = key
        self._directory = self._root / key

    def read_manifest(self) -> Manifest | None:
        """Return the manifest, or None if it is absent or damaged."""
        try:
            manifest = Manifest.model_validate_json((self._directory / _MANIFEST).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            _log.warning("the cached data in %s are damaged and will be rebuilt (%s)", self._directory, error)
            return None
        with contextlib.suppress(OSError):
            if not _read_only.get():
                os.utime(self._directory)
        return manifest

    def read_images(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
        """Return the uint8 array ``name``, or None if it is absent, damaged, or not of ``shape``."""
        path = self._directory / f"{name}.npy"
        try:
            with path.open("rb") as file:
                images = np.lib.format.read_array(file, allow_pickle=False)
                checksum = file.read()
        except FileNotFoundError:
            return None
        except Exception as error:  # NumPy evaluates the header: a damaged one raises nearly anything
            _log.warning("the cached data in %s are damaged and will be rebuilt (%s)", path, error)
            return None
        if images.dtype != np.uint8 or images.shape != shape:
            _log.warning("the cached data in %s are of another shape and will be rebuilt", path)
            return None
        if checksum != _checksum(images):
            _log.warning("the cached data in %s are damaged and will be rebuilt (wrong checksum)", path)
            return None
        return images

    def write_manifest(self, manifest: Manifest) -> None:
        """Store the manifest; write it last."""
        self._write(_MANIFEST, lambda file: file.write(json.dumps(manifest.model_dump(mode="json"), indent=2).encode()))

    def write_images(self, name: str, images: NDArray[np.uint8]) -> None:
        """Store an array."""

        def write(file: BinaryIO) -> None:
            np.save(file, images, allow_pickle=False)
            file.write(_checksum(images))

        self._write(f"{name}.npy", write)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from building the same entry, if the cache can be written."""
        if _read_only.get():
            yield
            return
        # A few shared locks instead of a lock for each key: lock files cannot be removed safely and would accumulate.
        lock = filelock.FileLock(self._root / f"lock-{self._key[0]}", timeout=_LOCK_TIMEOUT_SECONDS)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (OSError, NotImplementedError) as error:  # filelock's Timeout is an OSError
            _log.warning("decoding without a lock on the cache %s (%s)", self._root, error)
        try:
            yield
        finally:
            lock.release()

    def _write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        if _read_only.get():
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for left_over in self._directory.glob(".tmp-*"):  # of a process that was killed while it wrote
                left_over.unlink(missing_ok=True)
            _write_whole(self._directory / name, write)
            self._prune()
        except OSError as error:
            _log.warning("the decoded images are not cached: %s cannot be written (%s)", self._directory, error)

    def _prune(self) -> None:
        """Remove all but the most recently used entries, such as this entry."""
        os.utime(self._directory)
        entries = [path for path in self._root.iterdir() if path.is_dir()]
        for path in sorted(entries, key=_last_used, reverse=True)[MAX_ENTRIES:]:
            shutil.rmtree(path, ignore_errors=True)


def _checksum(images: NDArray[np.uint8]) -> bytes:
    """Return the bytes that follow an array in its file, which after a crash may have its size but not its content."""
    return zlib.crc32(np.ascontiguousarray(images).data).to_bytes(4, "big")


def _last_used(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
