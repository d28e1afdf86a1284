"""Tables of trained networks: one row for each, with its widths, its parameters and its test error with some seeds.

Such a table has the columns `arch`, then what was varied (widths, depths), then `params`, and among the others
`test_err_mean` and one `test_err_1`, `test_err_2`, ... for each seed, in percent. A training is simulated as the mean
with a fresh draw of the noise between seeds.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.errors import InputError

Floats = NDArray[np.float64]

ERROR: Final = "test_err_mean"
PARAMS: Final = "params"
_FIRST: Final = "arch"
_OF_A_SEED: Final = re.compile(r"test_err_\d+")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A CSV file as it was read.

    Attributes:
        path: The file.
        digest: Tells it from others: the start of the SHA-256 of its bytes.
        header: Names of its columns.
        rows: Its other lines.
    """

    path: Path
    digest: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def columns(self, *names: str, blanks: bool = False) -> Floats:
        """Return columns as numbers, one row for each network.

        Args:
            names: The columns.
            blanks: Whether empty fields are allowed; they become NaN.

        Raises:
            InputError: If one is missing, or has something else than finite numbers.
        """
        missing = [name for name in names if name not in self.header]
        if missing:
            raise InputError(
                "--table", str(self.path), f"has no column {missing[0]}", f"it needs columns {', '.join(names)}"
            )
        places = [self.header.index(name) for name in names]
        found = [[self._number(line, place, blanks) for place in places] for line in range(len(self.rows))]
        return np.array(found, dtype=np.float64).reshape(len(found), len(names))

    def _number(self, line: int, place: int, blanks: bool) -> float:
        row = self.rows[line]
        written = row[place].strip() if place < len(row) else ""
        if blanks and not written:
            return math.nan
        try:
            number = float(written)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
        told = f"has {written!r} for {self.header[place]} in network {line + 1}"
        raise InputError("--table", str(self.path), told, "every field of that column must be a number")


def read_sheet(table: Path | None) -> Sheet:
    """Return the CSV file `table`.

    Raises:
        InputError: If none is named, or it cannot be read.
    """
    if table is None:
        raise InputError("--table", None, "is needed", "name the table, or set BUDGETNAS_BENCH_TABLE to its path")
    try:
        content = table.read_bytes()
        lines = [tuple(row) for row in csv.reader(content.decode("utf-8").splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        told = "it must be a CSV file of trained networks"
        raise InputError("--table", str(table), f"cannot be read ({error})", told) from None
    header, *rows = lines or [()]
    return Sheet(table, hashlib.sha256(content).hexdigest()[:12], tuple(name.strip() for name in header), tuple(rows))


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks of a table, each known by the places of its widths among those that the table has.

    Attributes:
        path: The table.
        digest: Tells it from others.
        levels: The values of each column that is searched, ascending.
        params: Trainable parameters of each network.
        errors: What each is worth: its mean test error, in percent.
        noise: Pooled standard deviation between the seeds of a network, in points.
        rows: Which network has these places.
    """

    path: Path
    digest: str
    levels: Mapping[str, tuple[float, ...]]
    params: Floats
    errors: Floats
    noise: float
    rows: Mapping[tuple[int, ...], int]


def read_networks(table: Path | None) -> Networks:
    """Return the networks of the CSV file `table`.

    What is searched are the columns between `arch` and `params` that have more than one value.

    Raises:
        InputError: If the file cannot be used, or two of its networks are the same.
    """
    sheet = read_sheet(table)
    facts = sheet.columns(PARAMS, ERROR)
    levels, places = _places(sheet)
    rows: dict[tuple[int, ...], int] = {}
    for network, key in enumerate(places):
        if rows.setdefault(key, network) != network:
            told = f"has the same {', '.join(levels)} for networks {rows[key] + 1} and {network + 1}"
            raise InputError("--table", str(sheet.path), told, "every network must be there once")
    return Networks(sheet.path, sheet.digest, levels, facts[:, 0], facts[:, 1], _noise(sheet), rows)


def _places(sheet: Sheet) -> tuple[dict[str, tuple[float, ...]], Sequence[tuple[int, ...]]]:
    """Return the values of each searched column, and for each network where its own stand among them."""
    between = _between(sheet)
    values = sheet.columns(*between)
    searched = [index for index in range(len(between)) if len(np.unique(values[:, index])) > 1]
    if not searched:
        told = f"has no column between {_FIRST} and {PARAMS} with more than one value"
        raise InputError("--table", str(sheet.path), told, "there is nothing to search in it")
    levels, places = {}, []
    for index in searched:
        found, inverse = np.unique(values[:, index], return_inverse=True)
        levels[between[index]] = tuple(float(value) for value in found)
        places.append(inverse.tolist())
    return levels, list(zip(*places, strict=True))


def _between(sheet: Sheet) -> tuple[str, ...]:
    if _FIRST not in sheet.header:
        told = f"it needs {_FIRST}, then the columns to search, then {PARAMS}"
        raise InputError("--table", str(sheet.path), f"has no column {_FIRST}", told)
    return sheet.header[sheet.header.index(_FIRST) + 1 : sheet.header.index(PARAMS)]


def _noise(sheet: Sheet) -> float:
    names = [name for name in sheet.header if _OF_A_SEED.fullmatch(name)]
    errors = sheet.columns(*names, blanks=True)
    trained = np.isfinite(errors).sum(axis=1)
    several = trained > 1
    if not several.any():
        told = "has no network with two seeds, and so nothing that the noise between them could be taken from"
        raise InputError("--table", str(sheet.path), told, "it needs columns test_err_1, test_err_2, ...")
    freedom = trained[several] - 1
    return float(np.sqrt((freedom * np.nanvar(errors[several], axis=1, ddof=1)).sum() / freedom.sum()))
