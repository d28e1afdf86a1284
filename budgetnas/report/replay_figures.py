"""The figures of a replay's report: the printed learning curves and ours."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from budgetnas.experiments.published import Metric, Split, printed_curve
from budgetnas.experiments.replay_results import ReplayResult
from budgetnas.report.figure_data import Cell, FigureData
from budgetnas.report.style import BLUE, VERMILION, styled

_COLOURS: dict[Split, str] = {"test": BLUE, "train": VERMILION}
_SCALES: dict[Metric, float] = {"accuracy": 100.0, "loss": 1.0}
_FEW_EPOCHS = 3


def replay_curves(result: ReplayResult) -> go.Figure:
    """Draw accuracy above loss by epoch: ours solid, the printed ones dotted."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    rows: tuple[tuple[Metric, int], ...] = (("accuracy", 1), ("loss", 2))
    for metric, row in rows:
        for split in _COLOURS:
            _add_printed(figure, result, split, metric, row)
            _add_ours(figure, result, split, metric, row)
    figure.update_yaxes(title="accuracy (%)", row=1)
    figure.update_yaxes(title="loss (nats)", row=2)
    figure.update_xaxes(title="epoch", row=2)
    return styled(figure, height=560)


def replay_data(result: ReplayResult) -> FigureData:
    """Return the printed points and ours, accuracies in percent and losses in nats."""
    rows: list[tuple[Cell, ...]] = [
        ("printed", one.split, one.metric, one.epoch, one.value) for one in printed_curve(result.run.name)
    ]
    for metric in _SCALES:
        for split in _COLOURS:
            epochs = zip(result.curve, _ours(result, split, metric), strict=True)
            rows += [("ours", split, metric, epoch.epoch, value) for epoch, value in epochs]
    return FigureData(("origin", "split", "metric", "epoch", "value"), tuple(rows))


def _ours(result: ReplayResult, split: Split, metric: Metric) -> list[float]:
    field = f"{'eval' if split == 'test' else 'train'}_{metric}"
    return [_SCALES[metric] * float(getattr(epoch, field)) for epoch in result.curve]


def _add_printed(figure: go.Figure, result: ReplayResult, split: Split, metric: Metric, row: int) -> None:
    points = [one for one in printed_curve(result.run.name) if (one.split, one.metric) == (split, metric)]
    if points:
        values = [one.value for one in points]
        epochs = [one.epoch for one in points]
        _add(figure, f"{split}, printed", epochs, values, split, row, {"dash": "dot", "width": 1.5})


def _add_ours(figure: go.Figure, result: ReplayResult, split: Split, metric: Metric, row: int) -> None:
    values = _ours(result, split, metric)
    if values:
        _add(figure, f"{split}, ours", [one.epoch for one in result.curve], values, split, row, {"width": 2.5})


def _add(
    figure: go.Figure,
    name: str,
    epochs: Sequence[int],
    values: Sequence[float],
    split: Split,
    row: int,
    line: dict[str, object],
) -> None:
    figure.add_scatter(
        x=list(epochs),
        y=list(values),
        name=name,
        mode="lines" if len(values) > _FEW_EPOCHS else "lines+markers",
        line=line | {"color": _COLOURS[split]},
        legendgroup=name,
        showlegend=row == 1,
        hovertext=[f"{name}, epoch {epoch}: {value:.4g}" for epoch, value in zip(epochs, values, strict=True)],
        hoverinfo="text",
        row=row,
        col=1,
    )
