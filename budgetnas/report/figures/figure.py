"""A figure of a report, the table that it is drawn from, and that table as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Table:
    """The numbers of a figure; accuracies in percent, losses in nats."""

    columns: tuple[str, ...]  # names of the columns
    rows: tuple[tuple[Cell, ...], ...]  # a cell for each column
    hover: tuple[str, ...] = ()  # hover text of each row, or empty; not part of the CSV

    def __getitem__(self, column: str) -> list[Any]:
        place = self.columns.index(column)
        return [row[place] for row in self.rows]

    def at(self, places: Sequence[int]) -> Table:
        """Return the rows at these indices."""
        hover = tuple(self.hover[place] for place in places) if self.hover else ()
        return Table(self.columns, tuple(self.rows[place] for place in places), hover)

    def where(self, **cells: Cell) -> Table:
        """Return the rows with these values in the named columns."""
        wanted = [(self.columns.index(column), cell) for column, cell in cells.items()]
        return self.at(
            [place for place, row in enumerate(self.rows) if all(row[column] == cell for column, cell in wanted)]
        )

    def parts(self, sizes: Iterable[int]) -> Iterator[Table]:
        """Yield consecutive parts with these numbers of rows."""
        start = 0
        for size in sizes:
            yield Table(self.columns, self.rows[start : start + size], self.hover[start : start + size])
            start += size

    def csv(self) -> str:
        """Return the table as CSV (RFC 4180); None, NaN and infinities are empty cells."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow(None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row)
        return text.getvalue()


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure on a page."""

    key: str  # its identifier on the page
    title: str
    caption: str  # explanation, or empty
    figure: go.Figure
    data: Table

    def titled(self) -> go.Figure:
        """Return the figure with its title, on white, for a place without the page's headings and colours.

        The figures of a page have no background. On that of a dark notebook their dark text could not be read.
        """
        title = {"text": self.title, "automargin": True}
        return go.Figure(self.figure).update_layout(title=title, paper_bgcolor="white", plot_bgcolor="white")
