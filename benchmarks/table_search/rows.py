"""The file of a benchmark's searches, one row for each, from which an interrupted benchmark goes on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.table_search.searching import Cell, Found
from budgetnas.errors import InputError, unwritable

COLUMNS: Final = ("table", "sampler", "rule", "trainings", "limit", "seed", "regret", "networks", "seconds")
_ARGUMENT: Final = "--out"
_WAY_OUT: Final = "name another file"


class Rows:
    """What was found so far; in a file too, if there is one.

    Args:
        path: The file; created if it is missing. A last line that was not written to its end is dropped.
        table: Digest of the table that is searched.

    Raises:
        InputError: If the file cannot be read or written, is something else, or holds searches of another table.
    """

    def __init__(self, path: Path | None, table: str) -> None:
        self._path = path
        self._table = table
        self._found = {} if path is None else {(one.cell, one.seed): one for one in self._read(path)}

    def __contains__(self, search: tuple[Cell, int]) -> bool:
        return search in self._found

    def of(self, cell: Cell, seeds: int) -> list[Found]:
        """Return what was found with the first so many seeds."""
        return [self._found[cell, seed] for seed in range(seeds) if (cell, seed) in self._found]

    def add(self, found: Sequence[Found]) -> None:
        """Keep what was found, in the file before anything else happens."""
        if self._path is not None:
            self._append(self._path, [_written(one, self._table) for one in found])
        self._found |= {(one.cell, one.seed): one for one in found}

    def _read(self, path: Path) -> list[Found]:
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(_ARGUMENT, str(path), f"cannot be read ({error})", _WAY_OUT) from None
        whole = text[: text.rfind("\n") + 1]
        header, *lines = list(csv.reader(whole.splitlines())) or [[]]
        if not whole.strip():
            self._start(path, text)
            return []
        if tuple(header) != COLUMNS:
            raise InputError(_ARGUMENT, str(path), "is no file of this benchmark's searches", _WAY_OUT)
        found = [self._parsed(path, number, line) for number, line in enumerate(lines, start=2)]
        if whole != text:
            self._replace(path, whole)
        return found

    def _start(self, path: Path, text: str) -> None:
        if text.strip() and not ",".join(COLUMNS).startswith(text.strip()):
            raise InputError(_ARGUMENT, str(path), "is no file of this benchmark's searches", _WAY_OUT)
        self._replace(path, ",".join(COLUMNS) + "\n")

    def _parsed(self, path: Path, number: int, line: Sequence[str]) -> Found:
        try:
            table, sampler, rule, trainings, limit, seed, regret, networks, seconds = line
            cell = Cell(int(limit), int(trainings), sampler, rule)
            found = Found(cell, int(seed), float(regret), int(networks), float(seconds))
        except ValueError:
            raise InputError(_ARGUMENT, str(path), f"has no search in line {number}", _WAY_OUT) from None
        if table != self._table:
            raise InputError(_ARGUMENT, str(path), f"holds searches of another table ({table})", _WAY_OUT)
        return found

    def _replace(self, path: Path, text: str) -> None:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise unwritable(_ARGUMENT, path, error, _WAY_OUT) from None

    def _append(self, path: Path, lines: Iterable[Sequence[object]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise unwritable(_ARGUMENT, path, error, _WAY_OUT) from None


def _written(one: Found, table: str) -> Sequence[object]:
    cell = one.cell
    which = cell.sampler, cell.rule, cell.trainings, cell.limit, one.seed
    return table, *which, one.regret, one.networks, one.seconds
