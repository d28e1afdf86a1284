"""The figures of a final: accuracies with fresh seeds next to those of the search, and the test accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import plotly.graph_objects as go

from budgetnas.experiments.final_results import Entrant, FinalResult
from budgetnas.metrics import Interval, mean_interval
from budgetnas.report.figures.figure import Cell, Figure, Table
from budgetnas.report.figures.style import BLUE, GREEN, GREY, ORANGE, VERMILION, marker, safe, shortened, styled
from budgetnas.report.values import StudyTables

_ABOVE, _BELOW = -0.24, 0.24
"""Distance of the search's accuracies and of the single seeds from the line of the mean; up is negative."""
_X = "accuracy_percent"


@dataclass(frozen=True, slots=True)
class Spread:
    """Summary of a few values."""

    n: int  # number of values
    mean: float | None  # their mean, or None without values
    deviation: float | None  # their standard deviation, or None for fewer than two
    # Student's 95 % interval of the mean, cut at 0 and 1; None for fewer than two.
    interval: Interval | None


def spread(values: Sequence[float]) -> Spread:
    """Return mean, standard deviation and interval of accuracies, as far as their number allows."""
    several = len(values) > 1
    return Spread(
        n=len(values),
        mean=fmean(values) if values else None,
        deviation=stdev(values) if several else None,
        interval=_cut(mean_interval(values)) if several else None,
    )


def _cut(interval: Interval) -> Interval:
    """Return an interval of accuracies without its ends below 0 and above 1, which Student's can have."""
    return replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))


def finalists(tables: StudyTables, final: FinalResult) -> Figure:
    """Draw each entrant's fresh validation accuracies with their mean and interval, and its accuracy in the search."""
    table = _table(tables, final.entrants, "validation")
    figure = go.Figure()
    for kind, name, colour, symbol in (
        ("search", "in the search", VERMILION, "square-open"),
        ("smoothed score", "smoothed score", ORANGE, "triangle-up"),
    ):
        values = table.where(kind=kind)[_X]
        figure.add_scatter(
            x=values,
            y=[place + _ABOVE for place in range(len(values))],
            name=name,
            mode="markers",
            marker=marker(colour, symbol, 10) | ({"line": {"width": 2}} if symbol.endswith("open") else {}),
            hovertemplate=f"{name}: %{{x:.2f}} %<extra></extra>",
        )
    _add_seeds(figure, [entrant.validation for entrant in final.entrants])
    caption = (
        "Square: the accuracy in the search; the highest of many is partly luck. Triangle: the same, smoothed over all "
        "runs. Diamond: the mean of fresh seeds with its 95 % interval."
    )
    drawn = _finish(figure, tables, final.entrants, "validation")
    return Figure("finalists", "The finalists, trained again", caption, drawn, table)


def test_accuracies(tables: StudyTables, final: FinalResult) -> Figure:
    """Draw the test accuracies of the winner, and of the reference if there is another network as the reference."""
    entrants = [entrant for entrant in final.entrants if entrant.test]
    figure = go.Figure()
    _add_seeds(figure, [entrant.test for entrant in entrants])
    drawn = _finish(figure, tables, entrants, "test")
    caption = "Networks trained on the train and validation images, each with a fresh seed."
    data = _table(tables, entrants, "test")
    title = "Test accuracy of winner and reference" if len(entrants) > 1 else "Test accuracy of the winner"
    return Figure("test", title, caption, drawn, data)


def _table(tables: StudyTables, entrants: Sequence[Entrant], split: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for entrant in entrants:
        name = (tables.name_of(entrant.run), entrant.is_winner, entrant.is_reference)
        if split == "validation":
            rows.append((*name, 0, "search", 100 * entrant.search_accuracy))
            rows.append((*name, 0, "smoothed score", 100 * entrant.score))
        accuracies = entrant.test if split == "test" else entrant.validation
        rows += [(*name, seed, f"fresh {split}", 100 * value) for seed, value in enumerate(accuracies, start=1)]
    return Table(("run", "winner", "reference", "fresh_seed", "kind", _X), tuple(rows))


def _add_seeds(figure: go.Figure, accuracies: Sequence[Sequence[float]]) -> None:
    """Add the single accuracies of each row, and their mean, with its interval for at least two."""
    points = [(100 * value, place) for place, row in enumerate(accuracies) for value in row]
    figure.add_scatter(
        x=[value for value, _ in points],
        y=[place + _BELOW for _, place in points],
        name="one fresh seed",
        mode="markers",
        marker=marker(BLUE, size=7) | {"opacity": 0.8},
        hovertemplate="one fresh seed: %{x:.2f} %<extra></extra>",
    )
    rows = [(place, spread(row)) for place, row in enumerate(accuracies) if row]
    figure.add_scatter(
        x=[100 * (values.mean or 0) for _, values in rows],
        y=[place for place, _ in rows],
        name="mean, 95 % interval",
        mode="markers",
        marker=marker(GREEN, "diamond", 12),
        error_x=_bars([values for _, values in rows]) | {"color": GREEN, "thickness": 2, "width": 6},
        hovertext=[_hover(values) for _, values in rows],
        hoverinfo="text",
    )


def _bars(rows: Sequence[Spread]) -> dict[str, Any]:
    """Return the error bars of the means; the sides differ where an interval was cut."""
    sides = [
        (0.0, 0.0) if interval is None else (interval.estimate - interval.low, interval.high - interval.estimate)
        for interval in (values.interval for values in rows)
    ]
    below, above = ([100 * side[place] for side in sides] for place in (0, 1))
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def _hover(values: Spread) -> str:
    text, interval = f"mean of {values.n}: {100 * (values.mean or 0):.2f} %", values.interval
    return f"{text}, {100 * interval.low:.2f} to {100 * interval.high:.2f}" if interval else text


def _finish(figure: go.Figure, tables: StudyTables, entrants: Sequence[Entrant], split: str) -> go.Figure:
    """Add the names of the rows and the title of the axis."""
    figure.update_yaxes(
        tickvals=list(range(len(entrants))),
        ticktext=[_row_name(tables, entrant) for entrant in entrants],
        range=[len(entrants) - 0.5, -0.5],
        showgrid=False,
    )
    for place in range(1, len(entrants)):
        figure.add_hline(y=place - 0.5, line={"color": GREY, "width": 1, "dash": "dot"}, opacity=0.5)
    figure.update_xaxes(title=f"{tables.specification.measure.on(split)} (%)")
    return styled(figure, height=170 + 72 * len(entrants))


def _row_name(tables: StudyTables, entrant: Entrant) -> str:
    name = safe(shortened(tables.name_of(entrant.run), 14))
    roles = (("winner", entrant.is_winner), ("reference", entrant.is_reference))
    return "<br>".join([f"<b>{name}</b>" if entrant.is_winner else name, *(role for role, applies in roles if applies)])
