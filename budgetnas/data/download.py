"""Downloading archives with torchvision, or failing within seconds with a clear reason."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import filelock

from budgetnas.errors import InputError

_REQUEST_SECONDS = 5.0
# For the whole check of a host: the timeout of a request does not cover a name server that does not answer.
_CHECK_SECONDS = 8.0
_STALL_SECONDS = 60.0
_NO_HEAD = (405, 501)

_Dataset = TypeVar("_Dataset")


@dataclass(frozen=True, slots=True)
class Archive:
    """A file that torchvision downloads."""

    relative: str  # its path relative to the data directory
    md5: str
    url: str


def fetch(name: str, root: Path, archives: Sequence[Archive], construct: Callable[[], _Dataset]) -> _Dataset:
    """Download the missing archives and unpack them, with torchvision.

    Raises:
        InputError: If an archive is damaged, its host cannot be reached within seconds, or the download failed.
    """
    with _locked(name, root):
        _check_present(name, root, archives)
        absent = [archive for archive in archives if not (root / archive.relative).exists()]
        if absent:
            reason = _unreachable(absent[0].url)
            if reason:
                raise _cannot_get(name, root, archives, f"{absent[0].url} cannot be reached ({reason})")
        try:
            with _no_stall():
                return construct()
        except BaseException as error:
            _remove_partial(root, absent)
            if not isinstance(error, Exception):
                raise
            raise _cannot_get(name, root, archives, f"downloading or unpacking it failed ({error})") from error


@contextlib.contextmanager
def _locked(name: str, root: Path) -> Iterator[None]:
    """Allow a single download into a directory at a time."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(root / ".budgetnas-download.lock")
        lock.acquire()
    except OSError as error:
        rule = f"{root} cannot be written ({error.strerror or error}), and {name} has to be put there"
        raise InputError("--data-dir", str(root), rule, "name a directory that can be written") from error
    try:
        yield
    finally:
        lock.release()


def _check_present(name: str, root: Path, archives: Sequence[Archive]) -> None:
    for archive in archives:
        path = root / archive.relative
        if path.exists() and (md5 := _md5(path)) != archive.md5:
            rule = f"the archive {path} is damaged: its md5 is {md5} and should be {archive.md5}"
            raise InputError("--data", name, rule, "delete it, or replace it with a whole copy")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unreachable(url: str) -> str:
    """Return why the address does not answer, or an empty string if it does."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_ask(url)), daemon=True).start()
    try:
        return answers.get(timeout=_CHECK_SECONDS)
    except queue.Empty:
        return f"no answer in {_CHECK_SECONDS:.0f} s"


def _ask(url: str) -> str:
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "budgetnas"})
        with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return "" if error.code in _NO_HEAD else f"HTTP {error.code} {error.reason}"
    except Exception as error:  # an error that is not caught here would be lost with the thread
        return str(getattr(error, "reason", "") or error or type(error).__name__)


@contextlib.contextmanager
def _no_stall() -> Iterator[None]:
    """Set a timeout inside the block, so that a stalled download fails; torchvision sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _remove_partial(root: Path, absent: Sequence[Archive]) -> None:
    """Remove incomplete downloads, which the next start would take for damaged archives."""
    for archive in absent:
        path = root / archive.relative
        with contextlib.suppress(OSError):
            if path.exists() and _md5(path) != archive.md5:
                path.unlink()


def _cannot_get(name: str, root: Path, archives: Sequence[Archive], rule: str) -> InputError:
    files = ", ".join(f"{root / archive.relative} (md5 {archive.md5})" for archive in archives)
    hint = (
        "without a network use --data digits or --data folder:DIR (your own images), "
        f"or download the archive elsewhere and put it at {files}"
    )
    return InputError("--data", name, rule, hint)
