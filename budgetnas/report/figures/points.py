"""Runs as points of a figure, with hover texts."""

from __future__ import annotations

import plotly.graph_objects as go

from budgetnas.report.figures.figure import Table
from budgetnas.report.figures.style import BLUE, GREY, ORANGE, lines, marker, safe, shortened
from budgetnas.report.values import RankedRun, Training

ACCURACY = "validation_accuracy_percent"
PRUNED_MARKER = {"symbol": "x-thin", "size": 7, "line": {"width": 2, "color": GREY}}
_SIGNS = {
    "searched": marker(BLUE),
    "initial trial": marker(ORANGE, "diamond", 11),
    "repeat": marker(BLUE, "circle-open") | {"line": {"width": 2, "color": BLUE}},
}


def add_points(figure: go.Figure, table: Table, x: str, label_at: str) -> None:
    """Add a marker for each row; initial trials show their names.

    The table has the columns `x`, ``seed_trial`` and ``validation_accuracy_percent``; ``repeat_of`` is optional.
    `label_at` is the place of the names, e.g. ``bottom left``.
    """
    repeats = table["repeat_of"] if "repeat_of" in table.columns else [""] * len(table.rows)
    labels = zip(table["seed_trial"], repeats, strict=True)
    kinds = ["repeat" if repeat else "initial trial" if label else "searched" for label, repeat in labels]
    for kind, sign in _SIGNS.items():
        points = table.at([place for place, row_kind in enumerate(kinds) if row_kind == kind])
        named = kind == "initial trial"
        if points.rows:
            figure.add_scatter(
                x=points[x],
                y=points[ACCURACY],
                name=kind,
                mode="markers+text" if named else "markers",
                text=[safe(shortened(label)) for label in points["seed_trial"]] if named else None,
                textposition=label_at,
                textfont={"size": 11},
                cliponaxis=False,
                marker=sign,
                hovertext=points.hover,
                hoverinfo="text",
            )


def hover(candidate: RankedRun, training: Training | None = None) -> str:
    """Return the hover text of a candidate, or of one of its trainings."""
    run, shown = candidate.run, training or candidate
    blocks, _, widths = run.architecture.describe().partition(" x ")
    return lines(
        f"<b>#{candidate.rank} {safe(shown.name)}</b>: {100 * shown.accuracy:.2f} %",
        _repeats(candidate, training),
        safe(blocks),
        safe(f"x {widths}") if widths else "",
        f"{run.params:,} parameters ({100 * candidate.budget_share:.0f} % of the budget)",
        safe(run.recipe.describe().split(",")[0]),
    )


def hover_pruned(training: Training) -> str:
    """Return the hover text of a pruned run."""
    return lines(
        f"<b>{safe(training.name)}</b>, pruned: {100 * training.accuracy:.2f} %",
        f"after epoch {len(training.curve)} of {training.run.epochs_asked}",
        safe(training.run.architecture.describe()),
    )


def _repeats(candidate: RankedRun, training: Training | None) -> str:
    if not candidate.repeats:
        return ""
    mean = f"mean of {len(candidate.trainings)} trainings"
    if training is None:
        return mean
    which = f"repeat of {safe(candidate.name)}; " if training.run.id != candidate.run.id else ""
    return f"{which}{mean}: {100 * candidate.accuracy:.2f} %"
