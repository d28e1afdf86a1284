"""What the C library does with the memory of a training step once it is freed."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_USUAL_MMAP_THRESHOLD: Final = 32 << 20


def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks for the next step instead of giving them back to the kernel each time.

    Activations of a step are far above the default limits of mallopt(3); given back, every page of them is
    faulted in again by the next step. Other C libraries are left as they are.
    """
    _set_thresholds(mmap=1 << 30, trim=(1 << 31) - 1)


def free_as_usual() -> None:
    """Have glibc give back what it would without `keep_freed_memory`, and all that it has kept.

    By itself it raises its limits to the size of the blocks that are freed, up to 32 MiB and twice that
    (mallopt(3), "dynamic mmap threshold"); once a limit was set it no longer does, so these are set.
    """
    _set_thresholds(mmap=_LARGEST_USUAL_MMAP_THRESHOLD, trim=2 * _LARGEST_USUAL_MMAP_THRESHOLD)
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _set_thresholds(*, mmap: int, trim: int) -> None:
    if _glibc():
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, mmap)
        mallopt(_M_TRIM_THRESHOLD, trim)


def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
