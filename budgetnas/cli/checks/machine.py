"""Checks of the machine: packages, devices, and free disk space."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
from sqlalchemy.engine import URL

from budgetnas import __version__
from budgetnas.cli.checks.check import Check, one_line, size_of
from budgetnas.data.cache import cache_root, read_only
from budgetnas.errors import InputError, plural
from budgetnas.storage.opening import is_writable
from budgetnas.storage.urls import sqlite_file

if TYPE_CHECKING:
    from budgetnas.training.gpu import GpuFacts

WARN_BYTES: Final = 1 << 30
PROBLEM_BYTES: Final = 100 << 20
_PACKAGES: Final = ("torch", "optuna", "sqlalchemy")
_OPTIONAL: Final = ("psycopg", "ray")


def versions() -> Iterator[Check]:
    """Check the packages, and whether torch and torchvision fit each other."""
    yield Check("python", "ok", platform.python_version())
    yield Check("budgetnas", "ok", __version__)
    for name in _PACKAGES:
        yield _imported(name)
    yield _torchvision()
    for name in _OPTIONAL:
        if _version(name) is not None:
            yield _imported(name)


def devices(asked: str) -> Iterator[Check]:
    """Check processor and GPUs, and whether the requested device can be used."""
    import torch

    from budgetnas.training import CpuFacts, runtime_rules
    from budgetnas.training.gpu import GpuFacts
    from budgetnas.training.runtime import device_name

    cpu = torch.device("cpu")
    memory, facts = psutil.virtual_memory(), CpuFacts.of_this_process()
    yield Check(
        "cpu",
        "ok",
        f"{device_name(cpu)}, {plural(os.cpu_count() or 1, 'core')}, {plural(facts.threads, 'thread')}, "
        f"{size_of(memory.total)} memory ({size_of(memory.available)} free), {_half(['bf16'] if facts.bf16 else [])}",
    )
    yield from gpus(GpuFacts.of_this_process())
    try:
        with read_only():
            chosen = runtime_rules(asked)
    except InputError as error:
        yield Check("--device", "problem", f"{asked} {error.rule}", error.hint or "use --device auto or cpu")
    else:
        yield Check("--device", "ok", f"{asked}: {chosen.device}, {chosen.fastest_precision}")
        if chosen.capability is not None and not chosen.graphs:
            yield Check("CUDA graphs", "warning", chosen.notes[-1])


def gpus(facts: GpuFacts) -> Iterator[Check]:
    """Check every GPU, and whether there are some that torch does not see."""
    from budgetnas.training.gpu import UNTESTED
    from budgetnas.training.runtime import half_precisions

    for index, gpu in enumerate(facts.gpus):
        if facts.can_use(index):
            detail = f"{gpu.describe()}, {size_of(gpu.memory)} memory, {_half(half_precisions(gpu.capability))}"
            yield Check(f"cuda:{index}", "ok", detail)
        else:
            sentence, hint = facts.no_kernels(index)
            yield Check(f"cuda:{index}", "warning", sentence, hint)
    if facts.apple is not None:
        yield Check("mps", "warning", f"{facts.apple.name}, {size_of(facts.apple.memory)} memory; {UNTESTED}")
    missing = facts.no_gpu()
    if missing is not None:
        yield Check("gpu", "warning", *missing)


def disks(url: URL) -> Iterator[Check]:
    """Check the free space where a search writes."""
    folders = {"cache": cache_root(), "here": Path.cwd()}
    if url.get_backend_name() == "sqlite" and is_writable(url):
        folders = {"storage": sqlite_file(url).parent} | folders
    for name, folder in folders.items():
        existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        yield disk_check(f"disk, {name}", existing, shutil.disk_usage(existing).free)


def disk_check(name: str, folder: Path, free: int) -> Check:
    """Return whether enough bytes are free in a folder."""
    detail = f"{size_of(free)} free in {folder}"
    if free >= WARN_BYTES:
        return Check(name, "ok", detail)
    return Check(name, "problem" if free < PROBLEM_BYTES else "warning", detail, "free some, or use another disk")


def _imported(name: str) -> Check:
    version = _version(name)
    if version is None:
        return Check(name, "problem", "is not installed", f"pip install {name}")
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken installation can raise anything
        return Check(name, "problem", f"{version} cannot be imported ({one_line(error)})", f"install {name} again")
    return Check(name, "ok", version)


def _torchvision() -> Check:
    version, torch_version = _version("torchvision"), _version("torch")
    if version is None:
        return Check("torchvision", "problem", "is not installed", "pip install torchvision")
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # calls compiled code
    except Exception as error:  # the kinds differ with the versions
        detail = f"{version} does not fit torch {torch_version} ({one_line(error)})"
        hint = "install torch and torchvision together, from the same index: pip install --upgrade torch torchvision"
        return Check("torchvision", "problem", detail, hint)
    return Check("torchvision", "ok", f"{version}, fits torch {torch_version}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _half(precisions: Sequence[str]) -> str:
    return f"fast in {' and '.join(precisions)}" if precisions else "no fast 16-bit precision"
