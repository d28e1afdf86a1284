"""Freed memory: what the C library does with that of a training step, and what PyTorch keeps of a GPU's."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

import torch

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_USUAL_MMAP_THRESHOLD: Final = 32 << 20


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks for the next step instead of returning them to the kernel.

    A step's activations exceed glibc's default thresholds (mallopt(3)). If their memory is returned, the next step must
    fault in every page again. Other C libraries are not changed.
    """
    _set_thresholds(mmap=1 << 30, trim=(1 << 31) - 1)


def free_as_usual() -> None:
    """Make glibc return freed blocks as it does without `keep_freed_memory`, beginning with those it kept.

    By default glibc adapts its thresholds to the size of freed blocks, up to 32 MiB for mmap and twice that for trim
    (mallopt(3), "dynamic mmap threshold"). It stops adapting once a threshold was set, so these maxima are set here.
    """
    _set_thresholds(mmap=_LARGEST_USUAL_MMAP_THRESHOLD, trim=2 * _LARGEST_USUAL_MMAP_THRESHOLD)
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def free_cached_memory(device: torch.device) -> None:
    """Give back the memory of a GPU that PyTorch keeps for later tensors; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _set_thresholds(*, mmap: int, trim: int) -> None:
    if _glibc():
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, mmap)
        mallopt(_M_TRIM_THRESHOLD, trim)


def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
