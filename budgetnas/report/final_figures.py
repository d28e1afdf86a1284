"""The figures of a final: what the search had said of each entrant, and what fresh seeds say."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from budgetnas.experiments.final_results import Entrant, FinalResult
from budgetnas.report.points import Spread, spread
from budgetnas.report.style import BLUE, GREEN, GREY, ORANGE, VERMILION, marker, safe, styled
from budgetnas.report.values import StudyTables

_ABOVE, _BELOW = -0.24, 0.24
"""Where the search's figures and the single seeds stand, from the mean's line: up is negative."""


def finalists(tables: StudyTables, final: FinalResult) -> go.Figure:
    """Draw each entrant's fresh validation accuracies, their mean and interval, and what the search had said."""
    entrants = final.entrants
    figure = go.Figure()
    said = [
        ("in the search", VERMILION, "square-open", [one.search_accuracy for one in entrants]),
        ("smoothed score", ORANGE, "triangle-up", [one.score for one in entrants]),
    ]
    for name, colour, symbol, values in said:
        figure.add_scatter(
            x=[100 * value for value in values],
            y=[place + _ABOVE for place in range(len(entrants))],
            name=name,
            mode="markers",
            marker=marker(colour, symbol, 10) | ({"line": {"width": 2}} if symbol.endswith("open") else {}),
            hovertemplate=f"{name}: %{{x:.2f}} %<extra></extra>",
        )
    _add_seeds(figure, [one.validation for one in entrants])
    _name_rows(figure, tables, entrants)
    figure.update_xaxes(title="validation accuracy (%)")
    return styled(figure, height=170 + 72 * len(entrants))


def test_accuracies(tables: StudyTables, final: FinalResult) -> go.Figure:
    """Draw the test accuracies of winner and reference."""
    entrants = [one for one in final.entrants if one.test]
    figure = go.Figure()
    _add_seeds(figure, [one.test for one in entrants])
    _name_rows(figure, tables, entrants)
    figure.update_xaxes(title="test accuracy (%)")
    return styled(figure, height=170 + 72 * len(entrants))


def _add_seeds(figure: go.Figure, accuracies: Sequence[Sequence[float]]) -> None:
    """Add each row's single accuracies, and their mean with its interval where there are at least two."""
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
        x=[100 * one.mean for _, one in rows if one.mean is not None],
        y=[place for place, _ in rows],
        name="mean, 95 % interval",
        mode="markers",
        marker=marker(GREEN, "diamond", 12),
        error_x={"array": [_reach(one) for _, one in rows], "color": GREEN, "thickness": 2, "width": 6},
        hovertext=[_hover(one) for _, one in rows],
        hoverinfo="text",
    )


def _reach(one: Spread) -> float:
    return 0.0 if one.interval is None else 100 * (one.interval.high - one.interval.estimate)


def _hover(one: Spread) -> str:
    text = f"mean of {one.n}: {100 * (one.mean or 0):.2f} %"
    return f"{text}, {100 * one.interval.low:.2f} to {100 * one.interval.high:.2f}" if one.interval else text


def _name_rows(figure: go.Figure, tables: StudyTables, entrants: Sequence[Entrant]) -> None:
    figure.update_yaxes(
        tickvals=list(range(len(entrants))),
        ticktext=[_row_name(tables, one) for one in entrants],
        range=[len(entrants) - 0.5, -0.5],
        showgrid=False,
    )
    for place in range(1, len(entrants)):
        figure.add_hline(y=place - 0.5, line={"color": GREY, "width": 1, "dash": "dot"}, opacity=0.5)


def _row_name(tables: StudyTables, one: Entrant) -> str:
    name = tables.name_of(one.run)
    short = safe(name if len(name) <= 14 else f"{name[:13]}…")
    roles = [role for role, holds in (("winner", one.is_winner), ("reference", one.is_reference)) if holds]
    return "<br>".join([f"<b>{short}</b>" if one.is_winner else short, *roles])
