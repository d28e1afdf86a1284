"""Packages: are they there, can they be imported, do they fit each other?"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Final

from budgetnas import __version__
from budgetnas.cli.checks.check import Check, one_line

_PACKAGES: Final = ("torch", "optuna", "sqlalchemy")
_OPTIONAL: Final = ("psycopg", "ray")


def versions() -> Iterator[Check]:
    """Look at the packages, and whether torch and torchvision fit each other."""
    yield Check("python", "ok", platform.python_version())
    yield Check("budgetnas", "ok", __version__)
    for name in _PACKAGES:
        yield _imported(name)
    yield _torchvision()
    for name in _OPTIONAL:
        if _version(name) is not None:
            yield _imported(name)


def _imported(name: str) -> Check:
    version = _version(name)
    if version is None:
        return Check(name, "problem", "is not installed", f"pip install {name}")
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a broken installation raises
        return Check(name, "problem", f"{version} cannot be imported ({one_line(error)})", f"install {name} anew")
    return Check(name, "ok", version)


def _torchvision() -> Check:
    version, torch_version = _version("torchvision"), _version("torch")
    if version is None:
        return Check("torchvision", "problem", "is not installed", "pip install torchvision")
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # one of its compiled functions
    except Exception as error:  # the kinds differ with the versions
        told = f"{version} does not fit torch {torch_version} ({one_line(error)})"
        way_out = "install torch and torchvision together, from one index: pip install --upgrade torch torchvision"
        return Check("torchvision", "problem", told, way_out)
    return Check("torchvision", "ok", f"{version}, fits torch {torch_version}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
