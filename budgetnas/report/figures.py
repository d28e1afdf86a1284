"""The figures of a study's report, from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from budgetnas.architecture.budget import format_count
from budgetnas.report.points import overshoot_bins, pareto_front, running_best
from budgetnas.report.style import BLUE, DASHES, GREEN, GREY, LINES, ORANGE, VERMILION, lines, marker, safe, styled
from budgetnas.report.values import PrunedRun, RankedRun, StudyTables, Training, name_of

SHOWN_CURVES = 10
_PERCENT = "validation accuracy (%)"
_LEGEND = 20
_PRUNED = {"symbol": "x-thin", "size": 7, "line": {"width": 2, "color": GREY}}


def history(tables: StudyTables) -> go.Figure:
    """Draw each training in the order of time, the pruned ones muted, and the best complete one so far."""
    runs = tables.complete
    best = running_best([100 * one.accuracy for one in runs])
    figure = go.Figure()
    _add_pruned(figure, tables.pruned)
    figure.add_scatter(
        x=[one.order for one in runs],
        y=best,
        name="best so far",
        mode="lines",
        line={"color": VERMILION, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    _add_runs(
        figure, [_Point(run, each, each.order) for run in tables.ranking for each in run.trainings], "bottom right"
    )
    last = len(runs) + len(tables.pruned)
    figure.update_xaxes(title="training, in order of time", rangemode="tozero", **_whole_ticks(last))
    figure.update_yaxes(title=_PERCENT)
    return styled(figure)


def accuracy_against_params(tables: StudyTables) -> go.Figure:
    """Draw accuracy against parameters, with the budget and the Pareto front."""
    runs = tables.in_time_order
    front = pareto_front(runs)
    figure = go.Figure()
    figure.add_scatter(
        x=[one.params for one in front],
        y=[100 * one.accuracy for one in front],
        name="Pareto front",
        mode="lines",
        line={"color": GREEN, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    _add_runs(figure, [_Point(one, one, one.params) for one in runs], "bottom left")
    smallest = min(one.params for one in runs)
    _budget_line(figure, tables.summary.max_params)
    figure.update_xaxes(title="parameters (log scale)", **_log_axis(smallest, tables.summary.max_params))
    figure.update_yaxes(title=_PERCENT)
    return styled(figure)


def accuracy_curves(tables: StudyTables) -> go.Figure:
    """Draw accuracy by epoch, validation above training."""
    return _curves(tables, "accuracy (%)", "accuracy", 100.0)


def loss_curves(tables: StudyTables) -> go.Figure:
    """Draw the loss by epoch, validation above training."""
    return _curves(tables, "loss (nats)", "loss", 1.0)


def overshoot(tables: StudyTables) -> go.Figure:
    """Draw how many proposals were how far over the budget."""
    budget = tables.summary.max_params
    bins = overshoot_bins(tables.rejections.params, budget)
    figure = go.Figure()
    figure.add_bar(
        x=[budget * math.sqrt(one.low * one.high) for one in bins],
        y=[one.proposals for one in bins],
        width=[budget * (one.high - one.low) * 0.92 for one in bins],
        marker={"color": ORANGE},
        hovertext=[f"{one.low:.2f} to {one.high:.2f} x the budget: {one.proposals}" for one in bins],
        hoverinfo="text",
        showlegend=False,
    )
    _budget_line(figure, budget, xanchor="left")
    figure.update_xaxes(title="parameters of the proposal (log scale)", **_log_axis(budget, budget * bins[-1].high))
    most = max(one.proposals for one in bins)
    figure.update_yaxes(title="proposals turned away", range=[0, 1.15 * most], **_whole_ticks(most))
    return styled(figure, height=340)


def importance_bars(shares: dict[str, float]) -> go.Figure:
    """Draw the importance of each parameter, the greatest on top."""
    names = list(reversed(shares))
    figure = go.Figure()
    figure.add_bar(
        x=[100 * shares[name] for name in names],
        y=[name.replace("_", " ") for name in names],
        orientation="h",
        marker={"color": BLUE},
        hovertext=[f"{safe(name)}: {100 * shares[name]:.1f} %" for name in names],
        hoverinfo="text",
        showlegend=False,
    )
    figure.update_xaxes(title="share of importance (%)", rangemode="tozero")
    return styled(figure, height=120 + 26 * len(names))


@dataclass(frozen=True, slots=True)
class _Point:
    """What a point stands for: a candidate, by one of its trainings or by all of them; and where it stands."""

    candidate: RankedRun
    shown: RankedRun | Training
    x: float

    @property
    def kind(self) -> str:
        if self.shown.run != self.candidate.run:
            return "repeat"
        return "seed trial" if self.shown.label else "searched"


def _add_runs(figure: go.Figure, points: Sequence[_Point], label_at: str) -> None:
    """Add trainings or candidates as points, the seeds named and with a sign of their own, and so the repeats."""
    signs = {
        "searched": marker(BLUE),
        "seed trial": marker(ORANGE, "diamond", 11),
        "repeat": marker(BLUE, "circle-open") | {"line": {"width": 2, "color": BLUE}},
    }
    for kind, sign in signs.items():
        chosen, seeds = sorted((one for one in points if one.kind == kind), key=lambda one: one.x), kind == "seed trial"
        if chosen:
            figure.add_scatter(
                x=[one.x for one in chosen],
                y=[100 * one.shown.accuracy for one in chosen],
                name=kind,
                mode="markers+text" if seeds else "markers",
                text=[safe(_short(one.shown.label)) for one in chosen] if seeds else None,
                textposition=label_at,
                textfont={"size": 11},
                cliponaxis=False,
                marker=sign,
                hovertext=[_hover(one.candidate, one.shown) for one in chosen],
                hoverinfo="text",
            )


def _add_pruned(figure: go.Figure, runs: Sequence[PrunedRun]) -> None:
    """Add the pruned runs to the history: they ended early, so that their accuracies compare with no other."""
    if runs:
        figure.add_scatter(
            x=[one.order for one in runs],
            y=[100 * one.accuracy for one in runs],
            name="pruned, at its last epoch",
            mode="markers",
            marker=_PRUNED,
            hovertext=[_hover_pruned(one) for one in runs],
            hoverinfo="text",
        )


def _hover_pruned(run: PrunedRun) -> str:
    return lines(
        f"<b>{safe(name_of(run))}</b>, pruned: {100 * run.accuracy:.2f} %",
        f"after epoch {run.epochs_done} of {run.epochs_asked}",
        safe(run.architecture.describe()),
    )


def _hover(run: RankedRun, shown: RankedRun | Training) -> str:
    blocks, _, widths = run.architecture.describe().partition(" x ")
    return lines(
        f"<b>#{run.rank} {safe(name_of(shown))}</b>: {100 * shown.accuracy:.2f} %",
        _told_of_repeats(run, shown),
        safe(blocks),
        safe(f"x {widths}") if widths else "",
        f"{run.params:,} parameters ({100 * run.budget_share:.0f} % of the budget)",
        safe(run.recipe.describe().split(",")[0]),
    )


def _told_of_repeats(run: RankedRun, shown: RankedRun | Training) -> str:
    if not run.repeats:
        return ""
    mean = f"mean of {len(run.trainings)} trainings"
    if isinstance(shown, RankedRun):
        return mean
    which = f"repeat of {safe(name_of(run))}; " if shown.run != run.run else ""
    return f"{which}{mean}: {100 * run.accuracy:.2f} %"


def _curves(tables: StudyTables, title: str, metric: str, scale: float) -> go.Figure:
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for row, split in enumerate(("eval", "train"), start=1):
        field = f"{split}_{metric}"
        for trace in _pruned_curves(tables.pruned, field, scale, legend=row == 1):
            figure.add_scatter(**trace, row=row, col=1)
        for run in reversed(tables.ranking):
            for training in reversed(run.trainings):
                first = training.run == run.run
                figure.add_scatter(**_curve(run, training, field, scale, legend=first and row == 1), row=row, col=1)
        if metric == "loss" and tables.pruned:
            figure.update_yaxes(range=_range_of(tables.ranking, field), row=row)
    figure.update_yaxes(title=f"validation {title}", row=1)
    figure.update_yaxes(title=f"training {title}", row=2)
    figure.update_xaxes(title="epoch", row=2)
    figure.update_xaxes(**_whole_ticks(max(len(run.curve) for run in tables.complete)))
    entries = min(len(tables.ranking), SHOWN_CURVES + 1) + bool(tables.pruned)
    styled(figure, height=560 + 22 * math.ceil(entries / 2))
    return figure.update_layout(legend_traceorder="reversed")


def _range_of(runs: Sequence[RankedRun], field: str) -> list[float]:
    """Return a range for the complete runs: a pruned one that went astray would flatten all others."""
    values = [float(getattr(epoch, field)) for run in runs for each in run.trainings for epoch in each.curve]
    margin = 0.05 * (max(values) - min(values)) or 0.1
    return [min(values) - margin, max(values) + margin]


def _pruned_curves(runs: Sequence[PrunedRun], field: str, scale: float, *, legend: bool) -> list[dict[str, object]]:
    """Return the pruned runs as one line with gaps, and a cross where each ended."""
    if not runs:
        return []
    points = [(epoch.epoch, scale * float(getattr(epoch, field))) for run in runs for epoch in run.curve]
    gaps = [place for place, (epoch, _) in enumerate(points) if epoch == 1 and place]
    x: list[int | None] = [epoch for epoch, _ in points]
    y: list[float | None] = [value for _, value in points]
    for place in reversed(gaps):
        x.insert(place, None)
        y.insert(place, None)
    ends = {
        "x": [run.curve[-1].epoch for run in runs],
        "y": [scale * float(getattr(run.curve[-1], field)) for run in runs],
        "name": "pruned",
        "mode": "markers",
        "marker": _PRUNED,
        "legendgroup": "pruned",
        "showlegend": legend,
        "hovertext": [_hover_pruned(run) for run in runs],
        "hoverinfo": "text",
    }
    line = {"color": GREY, "width": 1, "dash": "dot"}
    return [
        {"x": x, "y": y, "name": "pruned", "mode": "lines", "line": line, "opacity": 0.7}
        | {"legendgroup": "pruned", "showlegend": False, "hoverinfo": "skip"},
        ends,
    ]


def _curve(run: RankedRun, training: Training, field: str, scale: float, *, legend: bool) -> dict[str, object]:
    shown = run.rank <= SHOWN_CURVES
    place = run.rank - 2
    first = {"color": VERMILION, "width": 3}
    other = {"color": LINES[place % len(LINES)], "dash": DASHES[place // len(LINES) % len(DASHES)], "width": 1.5}
    faint = {"color": GREY, "width": 1}
    name = f"#{run.rank} {name_of(training)}"
    return {
        "x": [epoch.epoch for epoch in training.curve],
        "y": [scale * float(getattr(epoch, field)) for epoch in training.curve],
        "name": safe(_short(name)) if shown else "the rest",
        "mode": "lines" if len(training.curve) > 1 else "markers",
        "line": first if run.rank == 1 else other if shown else faint,
        "opacity": 1.0 if shown else 0.35,
        "legendgroup": str(run.rank) if shown else "rest",
        "showlegend": legend and run.rank <= SHOWN_CURVES + 1,
        # What is the same for all points stands once, in `meta`, where a percent sign in a name means nothing.
        "meta": [safe(name), safe(run.architecture.describe())],
        "hovertemplate": "<b>%{meta[0]}</b><br>epoch %{x}: %{y:.4g}<br>%{meta[1]}<extra></extra>",
    }


def _short(name: str) -> str:
    return name if len(name) <= _LEGEND else f"{name[: _LEGEND - 1]}…"


def _whole_ticks(most: int) -> dict[str, object]:
    """Return an axis of counts: Plotly's own has ticks at halves where they are few."""
    return {"tickformat": "d", "dtick": 1} if most <= 5 else {"tickformat": "d"}


def _budget_line(figure: go.Figure, max_params: int, xanchor: str = "right") -> None:
    """Add the budget to a log axis, on which a line stands at a value but an annotation at its logarithm."""
    figure.add_vline(x=max_params, line={"color": VERMILION, "width": 2, "dash": "dash"})
    figure.add_annotation(
        x=math.log10(max_params),
        y=1,
        yref="paper",
        yanchor="top",
        xanchor=xanchor,
        text=f" budget {format_count(max_params)} ",
        showarrow=False,
        font={"color": VERMILION},
    )


def _log_axis(low: float, high: float) -> dict[str, object]:
    """Return a log axis with round labels: Plotly's own leave a narrow one with none."""
    decades = math.log10(high / low) if high > low else 0.0
    steps = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80) if decades < 0.5 else (10, 20, 50) if decades < 2 else (10,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [step * 10**power // 10 for power in powers if power > 0 for step in steps]
    margin = max(0.06, 0.06 * decades)
    return {
        "type": "log",
        "range": [math.log10(low) - margin, math.log10(high) + margin],
        "tickvals": ticks,
        "ticktext": [format_count(tick) for tick in ticks],
    }
