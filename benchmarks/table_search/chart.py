"""The chart of a benchmark of searches: regret with its interval, one panel for each limit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.table_search.searching import Cell
from budgetnas.architecture.budget import format_count
from budgetnas.errors import InputError, unwritable
from budgetnas.metrics import Interval
from budgetnas.report.figures.style import LINES

_SYMBOLS: Final = ("circle-open", "diamond-open", "circle")
_HEIGHT: Final = 380


def check_chart(path: Path) -> Path:
    """Return `path` if its folder is there.

    Raises:
        InputError: If it is not, or `path` is a folder.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise InputError("--chart", str(path), "must be a file in a folder that exists", "name another file")
    return path


def write_chart(path: Path, regrets: Mapping[Cell, Interval]) -> None:
    """Write the chart as a page that needs nothing else.

    Raises:
        InputError: If it cannot be written.
    """
    try:
        chart(regrets).write_html(path, include_plotlyjs=True)
    except OSError as error:
        raise unwritable("--chart", path, error, "name another file") from None


def chart(regrets: Mapping[Cell, Interval]) -> go.Figure:
    """Draw the regrets: colours are samplers, symbols are rules."""
    limits = sorted({cell.limit for cell in regrets})
    samplers, rules = (list(dict.fromkeys(getattr(cell, name) for cell in regrets)) for name in ("sampler", "rule"))
    titles = [f"at most {format_count(limit)} parameters" for limit in limits]
    figure = make_subplots(rows=len(limits), cols=1, subplot_titles=titles, vertical_spacing=0.3 / len(limits))
    for row, limit in enumerate(limits, start=1):
        for colour, sampler in enumerate(samplers):
            for symbol, rule in enumerate(rules):
                shown = {
                    cell.trainings: one
                    for cell, one in sorted(regrets.items(), key=lambda item: item[0].trainings)
                    if (cell.limit, cell.sampler, cell.rule) == (limit, sampler, rule)
                }
                if shown:
                    trace = _trace(f"{sampler}, {rule}", shown, LINES[colour % len(LINES)], _SYMBOLS[symbol])
                    figure.add_trace(trace.update(showlegend=row == 1), row=row, col=1)
    figure.update_layout(template="plotly_white", scattermode="group", height=_HEIGHT * len(limits) + 80)
    figure.update_xaxes(type="category", title="trainings in all")
    figure.update_yaxes(title="regret (points of error)", rangemode="tozero")
    return figure


def _trace(name: str, shown: Mapping[int, Interval], colour: str, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=[str(trainings) for trainings in shown],
        y=[one.estimate for one in shown.values()],
        error_y={
            "type": "data",
            "array": [one.high - one.estimate for one in shown.values()],
            "arrayminus": [one.estimate - one.low for one in shown.values()],
        },
        customdata=[one.n for one in shown.values()],
        name=name,
        legendgroup=name,
        offsetgroup=name,
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 9},
        hovertemplate="%{y:.3f} +- %{error_y.array:.3f}, n = %{customdata}<extra>" + name + "</extra>",
    )
