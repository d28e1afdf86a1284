"""The CSV file of a benchmark's trainings, a row for each, from which an interrupted benchmark resumes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read(out: Path) -> list[dict[str, str]]:
    """Return the rows of an earlier call by column; none if there is no file."""
    if not out.exists():
        return []
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add(out: Path, columns: Sequence[str], row: Sequence[Any]) -> None:
    """Add a row to the file; its first row names the columns."""
    new = not out.exists()
    with out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(columns)
        writer.writerow(row)
