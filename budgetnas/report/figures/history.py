"""The runs of a search in the order of time."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from budgetnas.report.figures.figure import Figure, Table
from budgetnas.report.figures.points import ACCURACY, PRUNED_MARKER, add_points, hover, hover_pruned
from budgetnas.report.figures.style import VERMILION, styled, whole_ticks
from budgetnas.report.values import StudyTables

_BEST = "best_so_far_percent"


def history(tables: StudyTables) -> Figure:
    """Draw the accuracy of each run in the order of time, and the best complete run so far."""
    table = _table(tables)
    complete, pruned = table.where(state="complete"), table.where(state="pruned")
    figure = go.Figure()
    if pruned.rows:
        figure.add_scatter(
            x=pruned["order"],
            y=pruned[ACCURACY],
            name="pruned, at its last epoch",
            mode="markers",
            marker=PRUNED_MARKER,
            hovertext=pruned.hover,
            hoverinfo="text",
        )
    line = {"color": VERMILION, "width": 2, "shape": "hv"}
    best = complete[_BEST]
    figure.add_scatter(x=complete["order"], y=best, name="best so far", mode="lines", line=line, hoverinfo="skip")
    add_points(figure, complete, "order", "bottom right")
    figure.update_xaxes(title="run, in order of time", rangemode="tozero", **whole_ticks(len(table.rows)))
    figure.update_yaxes(title=f"{tables.specification.measure.on('validation')} (%)")
    repeats = " A hollow circle repeats a candidate that was trained before." if any(table["repeat_of"]) else ""
    crosses = " A cross is a pruned run at its last epoch; it has no rank." if pruned.rows else ""
    caption = f"Accuracy after the last epoch of each run; the line is the best so far.{repeats}{crosses}"
    return Figure("history", "The search in order of time", caption, styled(figure), table)


def _table(tables: StudyTables) -> Table:
    owner = {training.run.id: candidate for candidate in tables.ranking for training in candidate.trainings}
    best, rows, hovers = -math.inf, [], []
    for training in sorted((*tables.complete, *tables.pruning.pruned), key=lambda training: training.order):
        candidate = owner.get(training.run.id)
        best = best if candidate is None else max(best, training.accuracy)
        repeat_of = candidate.name if candidate is not None and training in candidate.repeats else ""
        state = "pruned" if candidate is None else "complete"
        run = (training.order, training.name, state, training.run.label, len(training.curve), 100 * training.accuracy)
        rows.append((*run, None if math.isinf(best) else 100 * best, repeat_of))
        hovers.append(hover_pruned(training) if candidate is None else hover(candidate, training))
    columns = ("order", "run", "state", "seed_trial", "epochs", ACCURACY, _BEST, "repeat_of")
    return Table(columns, tuple(rows), tuple(hovers))
