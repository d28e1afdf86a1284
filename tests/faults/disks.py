"""Real disks for a test: small ones, full ones, and ones that can only be read. They take root to mount."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """Mount a file system of so many KiB in `folder`, which is made; where root may not, the test fails."""
    folder.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    """Let nothing be written any more on the disk that is mounted in `folder`."""
    _mount("-o", "remount,ro", str(folder))


def fill(folder: Path, leave_kib: int = 0) -> Path:
    """Fill the disk of `folder` but for so many KiB; return the file to delete for space."""
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    room = free.f_bavail * free.f_frsize - leave_kib * 1024
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # others may write at the same time
        while room > 0:
            room -= file.write(b"\0" * min(room, 4096))
    return ballast


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"mount {' '.join(arguments)}: {done.stderr.strip()}"
