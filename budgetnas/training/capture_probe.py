"""Whether a GPU can capture training steps as CUDA graphs, tried once in a process of its own and remembered.

After a failed capture a process is not safe to train in (https://github.com/pytorch/pytorch/issues/180395), so the
first capture of a device and version happens elsewhere. ``python -m budgetnas.training.capture_probe cuda:0`` trains a
tiny network for two epochs with captured steps; its exit code says whether that succeeded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from budgetnas import __version__
from budgetnas.data.cache import Notes, cache_root
from budgetnas.errors import EXIT_DONE, EXIT_FAILED
from budgetnas.training.cuda_graphs import CaptureError
from budgetnas.training.failures import first_line, is_out_of_memory

_LIMIT_SECONDS: Final = 180.0
_IMAGES: Final = 104
_BATCH: Final = 32
_FOLDER: Final = "cuda-graphs"

_CAPTURE_FAILED: Final = 3
"""Exit code of a probe whose capture failed, for a reason that will be the same next time."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a probe."""

    problem: str = ""  # why steps cannot be captured, or empty
    lasting: bool = True  # whether a later probe would give the same result; False if e.g. the GPU had no memory left


Probe = Callable[[str], ProbeResult]
"""Tries to capture steps on a device."""

_known: dict[str, str] = {}


def capture_problem(device: torch.device, probe: Probe | None = None) -> str:
    """Return why steps cannot be captured on a GPU, or an empty string.

    The first call for a GPU, driver and version takes some seconds; the result is remembered in the cache folder.

    Args:
        device: The GPU.
        probe: Tries it; None for a process of its own.
    """
    key = device_key(device)
    if key in _known:
        return _known[key]
    remembered = _read(key)
    if remembered is None:
        result = (probe or probe_in_a_process)(str(device))
        remembered = result.problem
        if result.lasting:
            _write(key, remembered)
    _known[key] = remembered
    return remembered


def remember_problem(device: torch.device, problem: str) -> None:
    """Remember that a capture failed, so that later processes launch the steps one by one."""
    key = device_key(device)
    _known[key] = problem
    _write(key, problem)


def no_graphs(device: torch.device, problem: str) -> str:
    """Return a sentence on a `capture_problem`."""
    path = memory_file(device_key(device))
    again = f"; to try again, delete {path}" if path.exists() else ""
    return f"no CUDA graphs on {device}, so its steps are slower: a step could not be captured ({problem}){again}"


def probe_in_a_process(device: str) -> ProbeResult:
    """Train a tiny network with captured steps in a new process."""
    command = [sys.executable, "-m", "budgetnas.training.capture_probe", device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return ProbeResult(f"the probe did not end: {error}", lasting=False)
    if done.returncode == 0:
        return ProbeResult()
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    problem = lines[-1] if lines else f"the probe ended with code {done.returncode}"
    return ProbeResult(problem, lasting=done.returncode == _CAPTURE_FAILED)


def memory_file(key: str) -> Path:
    """Return the file that remembers the result for a key of `device_key`."""
    return cache_root(_FOLDER) / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def device_key(device: torch.device) -> str:
    """Return the conditions under which a result is valid: the model of a GPU, its driver, and the versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{name}, driver {_driver()}, torch {torch.__version__}, budgetnas {__version__}"


def _driver() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").partition("\n")[0].strip()
    return "unknown"


def _read(key: str) -> str | None:
    try:
        return str(json.loads(_notes().read(memory_file(key).name) or b"")["problem"])
    except (ValueError, KeyError, TypeError):
        return None


def _write(key: str, problem: str) -> None:
    _notes().write(memory_file(key).name, json.dumps({"device": key, "problem": problem}).encode())


def _notes() -> Notes:
    return Notes(_FOLDER, most=64)


def main(device: str) -> int:
    """Train a tiny network on a device, with captured steps on a GPU; return the exit code.

    The last batch is smaller than the others, and there is an evaluation, so everything is captured that a training
    captures.
    """
    from budgetnas.architecture import Architecture
    from budgetnas.space.recipe import Augmentation, Normalisation, Recipe
    from budgetnas.training.callbacks import Callbacks
    from budgetnas.training.device import DeviceImages
    from budgetnas.training.engine import Task, train
    from budgetnas.training.runtime import RuntimeConfig

    on_gpu = torch.device(device).type == "cuda"
    architecture = Architecture((1, 1, 1), (8, 16, 32), (1, 2, 2), stem_width=8)
    recipe = Recipe(
        optimizer="sgd", learning_rate=0.01, momentum=0.9, weight_decay=5e-4, epochs=4, t_max=4, batch=_BATCH,
        augmentation=Augmentation(),
    )  # fmt: skip
    pixels = torch.zeros((_IMAGES, 32, 32, 3), dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    images = DeviceImages(pixels, torch.arange(_IMAGES, device=device) % architecture.classes)
    normalisation = Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)
    task = Task(architecture, recipe, 0, images, images, normalisation)
    try:
        train(task, RuntimeConfig(device, "float32", threads=1, graphs=on_gpu), Callbacks())
    except Exception as error:
        cause = error.__cause__ or error
        print(first_line(cause), file=sys.stderr)
        return _CAPTURE_FAILED if isinstance(cause, CaptureError) and not is_out_of_memory(cause) else EXIT_FAILED
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
