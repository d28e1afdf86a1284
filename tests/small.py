"""A search small enough for a test: real digits, tiny networks, a few real epochs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from forked import Forked

ROOT = Path(__file__).resolve().parents[1]
"""Of the repository: `benchmarks` are run from there, for they are no part of what is installed."""
STUDY = """
data = "digits"
budget = "6k"
subset = 200
subset_eval = 100
epochs = 2
batch = 50
trials = 4

[space]
blocks = [[1, 2], [1, 1]]
widths = [4, 6, 8, 10, 12]
"""


def study_file(folder: Path, text: str = STUDY, **changes: str) -> str:
    """Write a study file with some keys changed; return its path."""
    head, *tables = text.split("\n[")
    lines = [line for line in head.splitlines() if line.partition(" =")[0] not in changes]
    lines += [f"{key} = {value}" for key, value in changes.items()]
    path = folder / "study.toml"
    path.write_text("\n[".join(["\n".join(lines) + "\n", *tables]), encoding="utf-8")
    return str(path)


def environment(**extra: str) -> dict[str, str]:
    """The environment without what a user of this machine or a test runner may have set, one thread to an operation."""
    size = ("COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BUDGETNAS_") and name not in size}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | extra


def start(folder: Path, *arguments: str, **extra: str) -> Forked:
    """Start the command line in `folder`, in a process that is forked from one with everything imported."""
    return Forked(folder, arguments, environment(**extra))


def run(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in `folder` to its end."""
    process = start(folder, *arguments, **extra)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.wait(), out, err)


def run_fresh(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in `folder` to its end, in a fresh interpreter: for what depends on how one starts."""
    command = [sys.executable, "-m", "budgetnas", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=300)
