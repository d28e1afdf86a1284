"""How much is free where a search writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL

from budgetnas.cli.checks.check import Check, size_of
from budgetnas.data.cache import cache_root
from budgetnas.storage.opening import is_writable
from budgetnas.storage.urls import sqlite_file

WARN_BYTES: Final = 1 << 30
PROBLEM_BYTES: Final = 100 << 20


def disks(url: URL) -> Iterator[Check]:
    """Look at how much is free where a search writes."""
    folders = {"cache": cache_root(), "here": Path.cwd()}
    if url.get_backend_name() == "sqlite" and is_writable(url):
        folders = {"storage": sqlite_file(url).parent} | folders
    for name, folder in folders.items():
        there = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
        yield disk_check(f"disk, {name}", there, shutil.disk_usage(there).free)


def disk_check(name: str, folder: Path, free: int) -> Check:
    """Return whether enough bytes are free in a folder."""
    told = f"{size_of(free)} free in {folder}"
    if free >= WARN_BYTES:
        return Check(name, "ok", told)
    way_out = "free some, or use another disk"
    return Check(name, "problem" if free < PROBLEM_BYTES else "warning", told, way_out)
