"""Predictions as a CSV file: an id and a class, or the probability of every class."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from budgetnas.bundle.image_sources import Ids
from budgetnas.bundle.predicting import Prediction
from budgetnas.errors import InputError, closest, unwritable

Values = Literal["class", "index", "probabilities"]


@dataclass(frozen=True, slots=True)
class CsvForm:
    """The form of a CSV file of predictions.

    Raises:
        InputError: If `values` or `ids` is unknown, or two columns would have the same name.
    """

    classes: tuple[str, ...]
    id_column: str = "id"
    label_column: str = "label"
    values: Values = "class"
    ids: Ids = "path"

    def __post_init__(self) -> None:
        for option, value, known in (("--values", self.values, get_args(Values)), ("--ids", self.ids, get_args(Ids))):
            if value not in known:
                raise InputError(option, value, f"must be one of {', '.join(known)}", closest(value, known))
        if self.id_column in self.header()[1:]:
            raise InputError("--id-column", self.id_column, "is also the name of another column", "name it otherwise")

    def header(self) -> list[str]:
        """Return the names of the columns."""
        return [self.id_column, *(self.classes if self.values == "probabilities" else (self.label_column,))]

    def row(self, image_id: str, prediction: Prediction) -> list[str | int]:
        """Return the cells of an image; nine digits give each float32 probability back exactly."""
        if self.values == "probabilities":
            return [image_id, *(f"{share:.9g}" for share in prediction.probabilities)]
        return [image_id, prediction.best if self.values == "class" else prediction.index]


@contextmanager
def csv_file(path: Path, header: Sequence[str]) -> Iterator[Callable[[Sequence[str | int]], object]]:
    """Write a CSV file atomically: it appears under its name when the block ends, and not at all if the block raises.

    A link keeps pointing to the file. Names that are not valid Unicode are written with backslashes.

    Yields:
        The function that writes a row.

    Raises:
        InputError: If it cannot be written.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            write = csv.writer(file, lineterminator="\n").writerow
            write(header)
            yield write
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable("--csv", path, error, "check the folder") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
