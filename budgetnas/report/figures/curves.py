"""Accuracy and loss by epoch, validation above training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plotly.subplots import make_subplots

from budgetnas.report.figures.figure import Figure, Table
from budgetnas.report.figures.points import PRUNED_MARKER, hover_pruned
from budgetnas.report.figures.style import DASHES, GREY, LINES, VERMILION, safe, shortened, styled, whole_ticks
from budgetnas.report.values import RankedRun, StudyTables, Training

_COLOURED = 10


def accuracy_curves(tables: StudyTables) -> Figure:
    """Draw the accuracies of every epoch."""
    validation = f"{tables.specification.measure.on('validation')} (%)"
    return _figure(tables, "accuracy", "accuracy_percent", (validation, "training accuracy (%)"), 100.0, "")


def loss_curves(tables: StudyTables) -> Figure:
    """Draw the losses of every epoch."""
    titles = "validation loss (nats)", "training loss (nats)"
    return _figure(tables, "loss", "loss_nats", titles, 1.0, "Cross-entropy. ")


def _figure(tables: StudyTables, metric: str, column: str, titles: tuple[str, str], scale: float, note: str) -> Figure:
    trainings = [training for candidate in tables.ranking for training in candidate.trainings]
    table = _table(tables, trainings, metric, column, scale)
    every = (*trainings, *tables.pruning.pruned)
    curves = table.parts(len(training.curve) for training in every)
    parts = {training.run.id: curve for training, curve in zip(every, curves, strict=True)}
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for row, (split, title) in enumerate(zip(("validation", "training"), titles, strict=True), start=1):
        for trace in _pruned(tables.pruning.pruned, parts, f"{split}_{column}"):
            figure.add_scatter(**trace, showlegend=trace["mode"] == "markers" and row == 1, row=row, col=1)
        for candidate in reversed(tables.ranking):
            for training in reversed(candidate.trainings):
                legend = row == 1 and training.run.id == candidate.run.id and candidate.rank <= _COLOURED + 1
                curve = _curve(candidate, training, parts[training.run.id], f"{split}_{column}")
                figure.add_scatter(**curve, showlegend=legend, row=row, col=1)
        if metric == "loss" and tables.pruning.pruned:
            complete = table.where(state="complete")
            figure.update_yaxes(range=_range(complete[f"{split}_{column}"]), row=row)
        figure.update_yaxes(title=title, row=row)
    figure.update_xaxes(title="epoch", row=2)
    figure.update_xaxes(**whole_ticks(max(table["epoch"])))
    entries = min(len(tables.ranking), _COLOURED + 1) + bool(tables.pruning.pruned)
    styled(figure, height=560 + 22 * math.ceil(entries / 2)).update_layout(legend_traceorder="reversed")
    return Figure(metric, f"{metric.capitalize()} by epoch", note + _caption(tables), figure, table)


def _table(tables: StudyTables, trainings: Sequence[Training], metric: str, column: str, scale: float) -> Table:
    evaluated = tables.specification.measure.column if metric == "accuracy" else f"eval_{metric}"
    ranks = {training.run.id: candidate.rank for candidate in tables.ranking for training in candidate.trainings}
    rows = tuple(
        (
            *(ranks.get(run.run.id), run.name, "complete" if run.run.id in ranks else "pruned", epoch.epoch),
            *(scale * float(getattr(epoch, figure)) for figure in (evaluated, f"train_{metric}")),
        )
        for run in (*trainings, *tables.pruning.pruned)
        for epoch in run.curve
    )
    return Table(("rank", "run", "state", "epoch", f"validation_{column}", f"training_{column}"), rows)


def _caption(tables: StudyTables) -> str:
    repeated = any(candidate.repeats for candidate in tables.ranking)
    thick = "Thick lines are the runs of the best candidate." if repeated else "The thick line is the best run."
    few = "" if len(tables.ranking) <= _COLOURED else f" Only the {_COLOURED} best have colours."
    pruned = " A dotted grey line that ends in a cross is a pruned run." if tables.pruning.pruned else ""
    return f"{thick}{few}{pruned}"


def _curve(candidate: RankedRun, training: Training, part: Table, column: str) -> dict[str, object]:
    coloured, place = candidate.rank <= _COLOURED, candidate.rank - 2
    best = {"color": VERMILION, "width": 3}
    other = {"color": LINES[place % len(LINES)], "dash": DASHES[place // len(LINES) % len(DASHES)], "width": 1.5}
    name = f"#{candidate.rank} {training.name}"
    return {
        "x": part["epoch"],
        "y": part[column],
        "name": safe(shortened(name)) if coloured else "the rest",
        "mode": "lines" if len(part.rows) > 1 else "markers",
        "line": best if candidate.rank == 1 else other if coloured else {"color": GREY, "width": 1},
        "opacity": 1.0 if coloured else 0.35,
        "legendgroup": str(candidate.rank) if coloured else "rest",
        # `meta` has the text of all points. In the template itself, a percent sign in a name could start a variable.
        "meta": [safe(name), safe(training.run.architecture.describe())],
        "hovertemplate": "<b>%{meta[0]}</b><br>epoch %{x}: %{y:.4g}<br>%{meta[1]}<extra></extra>",
    }


def _pruned(runs: Sequence[Training], parts: dict[int, Table], column: str) -> list[dict[str, object]]:
    """Return the pruned runs as a single line with gaps, and a cross at the end of each run."""
    if not runs:
        return []
    curves = [parts[run.run.id] for run in runs]
    shared: dict[str, object] = {"name": "pruned", "legendgroup": "pruned"}
    line = {"mode": "lines", "line": {"color": GREY, "width": 1, "dash": "dot"}, "opacity": 0.7, "hoverinfo": "skip"}
    ends = {"mode": "markers", "marker": PRUNED_MARKER, "hovertext": [hover_pruned(run) for run in runs]}
    last = {"x": [part["epoch"][-1] for part in curves], "y": [part[column][-1] for part in curves]}
    return [
        shared | line | {"x": _joined(curves, "epoch"), "y": _joined(curves, column)},
        shared | ends | last | {"hoverinfo": "text"},
    ]


def _joined(curves: Sequence[Table], column: str) -> list[float | None]:
    """Return the values of all curves with a gap between two of them."""
    return [value for curve in curves for value in (*curve[column], None)][:-1]


def _range(values: Sequence[float]) -> list[float]:
    """Return an axis range for the complete runs; a pruned run with a huge loss would flatten all other curves."""
    margin = 0.05 * (max(values) - min(values)) or 0.1
    return [min(values) - margin, max(values) + margin]
