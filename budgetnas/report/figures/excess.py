"""How far the rejected proposals were over the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from budgetnas.report.figures.figure import Figure, Table
from budgetnas.report.figures.style import ORANGE, budget_line, log_axis, styled, whole_ticks
from budgetnas.report.values import StudyTables


def excess(tables: StudyTables) -> Figure:
    """Draw the number of proposals over the budget, by their parameters."""
    budget = tables.summary.max_params
    table = _table(tables.rejections.params, budget)
    low, high, proposals = table["params_from"], table["params_below"], table["proposals"]
    figure = go.Figure()
    figure.add_bar(
        x=[math.sqrt(left * right) for left, right in zip(low, high, strict=True)],
        y=proposals,
        width=[0.92 * (right - left) for left, right in zip(low, high, strict=True)],
        marker={"color": ORANGE},
        hovertext=table.hover,
        hoverinfo="text",
        showlegend=False,
    )
    budget_line(figure, budget, xanchor="left")
    figure.update_xaxes(title="parameters of the proposal (log scale)", **log_axis(budget, high[-1]))
    most = max(proposals)
    figure.update_yaxes(title="proposals rejected", range=[0, 1.15 * most], **whole_ticks(most))
    others = "" if len(tables.summary.limits) == 1 else " Proposals over other limits only are left out."
    caption = f"Proposals over the budget, by the parameters that they would have had.{others}"
    return Figure("overshoot", "How far over the budget", caption, styled(figure, height=340), table)


def _table(params: Sequence[int], max_params: int) -> Table:
    """Count the proposals in at most 13 bins that are equally wide on a log axis."""
    exponents = [math.log10(number / max_params) for number in params]
    width = max(max(exponents) / 12, 0.02)
    places = [int(exponent // width) for exponent in exponents]
    edges = [10 ** (width * place) for place in range(max(places) + 2)]
    bins = [(edges[place], edges[place + 1], places.count(place)) for place in range(max(places) + 1)]
    rows = tuple((max_params * low, max_params * high, number) for low, high, number in bins)
    hover = tuple(f"{low:.2f} to {high:.2f} x the budget: {number}" for low, high, number in bins)
    return Table(("params_from", "params_below", "proposals"), rows, hover)
