"""The machine: its name, peak speed of a device, peak memory, and the load of other processes."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil
import torch

from budgetnas import __version__
from budgetnas.training.runtime import DTYPES, Precision, half_precisions

_REPEATS: Final = 5
_ENOUGH_SECONDS: Final = 2.0
_SIDE: Final = {"cuda": 8192, "mps": 4096, "cpu": 1024}
_LOOK_SECONDS: Final = 0.5
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"  # proc(5)


def machine() -> str:
    """Return processor, cores, Python, version and date in a line."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"budgetnas {__version__}, {datetime.now(UTC):%Y-%m-%d}"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def fast_precisions(device: torch.device) -> tuple[Precision, ...]:
    """Return the precisions to compare on a device: float32, and 16 bits where a GPU does not emulate them."""
    if device.type == "cpu":
        return "bf16", "float32"
    if device.type == "mps":
        return ("float32",)
    return *half_precisions(torch.cuda.get_device_capability(device)), "float32"


def matrix_peak(device: torch.device, precision: Precision) -> float:
    """Return the operations per second of a product of two square matrices, the fastest of a few."""
    side = _SIDE[device.type]
    matrix = torch.randn(side, side, device=device).to(DTYPES[precision])
    times: list[float] = []
    while len(times) < 2 or (len(times) <= _REPEATS and sum(times) < _ENOUGH_SECONDS):  # the first is the warm-up
        wait_for(device)
        started = time.perf_counter()
        _ = matrix @ matrix
        wait_for(device)
        times.append(time.perf_counter() - started)
    return 2 * side**3 / min(times[1:])


def busy_cores() -> float:
    """Return the number of cores that other processes keep busy, while this process sleeps for half a second."""
    return psutil.cpu_percent(interval=_LOOK_SECONDS) / 100 * (psutil.cpu_count() or 1)


class PeakMemory:
    """Peak memory since the last reset.

    On a GPU, the peak of all tensors; ``mps`` does not report it. On a CPU, the peak of this process minus its memory
    at the reset; the workers of a data loader are not counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None

    def reset(self) -> None:
        """Begin a new measurement."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
        except OSError:
            self._before = None
        else:
            self._before = psutil.Process().memory_info().rss

    def read(self) -> int | None:
        """Return the peak in bytes; None if the system does not report it."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        if self._before is None:
            return None
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        return peak - self._before
