"""Learning curves of a replayed run: the printed ones and ours."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from budgetnas.experiments.published import Metric, Split, printed_curve
from budgetnas.experiments.replay_results import ReplayResult
from budgetnas.report.figures.figure import Cell, Figure, Table
from budgetnas.report.figures.style import BLUE, VERMILION, styled

_COLOURS: dict[Split, str] = {"test": BLUE, "train": VERMILION}
_SCALES: dict[Metric, float] = {"accuracy": 100.0, "loss": 1.0}
_LINES: dict[str, dict[str, object]] = {"printed": {"dash": "dot", "width": 1.5}, "ours": {"width": 2.5}}
_FEW_EPOCHS = 3


def replay_curves(result: ReplayResult, key: str = "replay") -> Figure:
    """Draw accuracy above loss by epoch: ours solid, the printed curves dotted."""
    table = _table(result)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for row, metric in enumerate(_SCALES, start=1):
        for split in _COLOURS:
            for origin in _LINES:
                _add(figure, table, (origin, split, metric), row)
    figure.update_yaxes(title="accuracy (%)", row=1)
    figure.update_yaxes(title="loss (nats)", row=2)
    figure.update_xaxes(title="epoch", row=2)
    warning = f" - {result.warning}" if result.warning else ""
    title = f"{result.run.name}, seed {result.record.seed}{warning}"
    caption = "Solid: ours. Dotted: the printed curves, if there are any."
    return Figure(key, title, caption, styled(figure, height=560), table)


def _table(result: ReplayResult) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("printed", point.split, point.metric, point.epoch, point.value) for point in printed_curve(result.run.name)
    ]
    for metric, scale in _SCALES.items():
        for split in _COLOURS:
            field = f"{'eval' if split == 'test' else 'train'}_{metric}"
            rows += [("ours", split, metric, epoch.epoch, scale * getattr(epoch, field)) for epoch in result.curve]
    return Table(("origin", "split", "metric", "epoch", "value"), tuple(rows))


def _add(figure: go.Figure, table: Table, key: tuple[str, Split, Metric], row: int) -> None:
    origin, split, metric = key
    curve, name = table.where(origin=origin, split=split, metric=metric), f"{split}, {origin}"
    if not curve.rows:
        return
    points = zip(curve["epoch"], curve["value"], strict=True)
    figure.add_scatter(
        x=curve["epoch"],
        y=curve["value"],
        name=name,
        mode="lines" if len(curve.rows) > _FEW_EPOCHS else "lines+markers",
        line=_LINES[origin] | {"color": _COLOURS[split]},
        legendgroup=name,
        showlegend=row == 1,
        hovertext=[f"{name}, epoch {epoch}: {value:.4g}" for epoch, value in points],
        hoverinfo="text",
        row=row,
        col=1,
    )
