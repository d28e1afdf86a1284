"""The winner, drawn: its blocks stage by stage, each stage's share of the budget, and what is left of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from budgetnas.architecture import Architecture
from budgetnas.architecture.budget import format_count
from budgetnas.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, styled
from budgetnas.report.values import Chosen, PartShare, StudyTables

_COLOURS = (SKY, BLUE, GREEN, ORANGE, PURPLE, VERMILION, GREY)
_LEFT = "rgba(128,128,128,0.18)"
_ROW = 62


def winner(tables: StudyTables, chosen: Chosen) -> go.Figure:
    """Draw the chosen network from the image down to the classes, and the budget below it."""
    parts = tables.winner
    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[{}, {}], [{"colspan": 2}, None]],
        column_widths=[0.5, 0.5],
        row_heights=[len(parts) * _ROW, 1.1 * _ROW],
        horizontal_spacing=0.04,
        vertical_spacing=0.75 * _ROW / (len(parts) * _ROW + 2 * _ROW),
    )
    for place, (part, colour) in enumerate(zip(parts, _COLOURS, strict=False)):
        figure.add_bar(**_blocks(part, place, colour, parts), row=1, col=1)
        figure.add_bar(**_share(part, place, colour), row=1, col=2)
        _caption(figure, part, place, chosen)
        figure.add_bar(**_slice(part, colour), row=2, col=1)
    _add_left(figure, parts, tables.summary.max_params)
    styled(figure, height=len(parts) * _ROW + 140)
    _axes(figure, parts)
    return figure.update_layout(barmode="overlay", margin={"l": 8, "r": 12, "t": 8, "b": 44}, showlegend=False)


def _blocks(part: PartShare, place: int, colour: str, parts: Sequence[PartShare]) -> dict[str, object]:
    """Return a part's blocks side by side; the more channels it puts out, the taller they are."""
    number = max(part.blocks, 1)
    widest = max(one.out_shape[0] for one in parts)
    return {
        "base": list(range(number)),
        "x": [0.86 if part.blocks else 0.5] * number,
        "y": [place + 0.2] * number,
        "width": [0.06 + 0.42 * math.sqrt(part.out_shape[0] / widest)] * number,
        "orientation": "h",
        "marker": {"color": colour},
        "hovertext": [_hover(part)] * number,
        "hoverinfo": "text",
        "name": part.name,
    }


def _share(part: PartShare, place: int, colour: str) -> dict[str, object]:
    return {
        "x": [100 * part.budget_share],
        "y": [place + 0.2],
        "width": [0.4],
        "orientation": "h",
        "marker": {"color": colour},
        "text": [f"{100 * part.budget_share:.1f} %"],
        "textposition": "outside",
        "textangle": 0,
        "cliponaxis": False,
        "hovertext": [_hover(part)],
        "hoverinfo": "text",
        "name": part.name,
    }


def _slice(part: PartShare, colour: str) -> dict[str, object]:
    return {"marker": {"color": colour}, "hovertext": [_hover(part)], "name": part.name} | _stacked(part.budget_share)


def _stacked(share: float) -> dict[str, object]:
    return {"x": [100 * share], "y": [0], "orientation": "h", "hoverinfo": "text", "width": [0.8]}


def _caption(figure: go.Figure, part: PartShare, place: int, chosen: Chosen) -> None:
    text = f"<b>{part.name}</b>{_made_of(part, place, chosen.architecture)} → {_out(part)}"
    for x, anchor, written in ((0, "left", text), (1, "right", f"{part.params:,}")):
        figure.add_annotation(
            x=x, y=place - 0.26, text=written, xref="paper", yref="y", xanchor=anchor, yanchor="middle", showarrow=False
        )


def _made_of(part: PartShare, place: int, architecture: Architecture) -> str:
    if not part.blocks:
        return ""
    plural = "s" if part.blocks > 1 else ""
    if architecture.block == "basic":
        return f": {part.blocks} basic block{plural}"
    return f": {part.blocks} {architecture.block}{plural} of {architecture.widths[place - 1]}"


def _out(part: PartShare) -> str:
    return f"{part.out_shape[0]} classes" if part.name == "head" else " × ".join(str(one) for one in part.out_shape)


def _hover(part: PartShare) -> str:
    height, width = part.out_shape[1:] if len(part.out_shape) == 3 else (1, 1)
    return (
        f"<b>{part.name}</b><br>{part.params:,} parameters, {100 * part.budget_share:.2f} % of the budget"
        f"<br>{part.macs:,} multiply-accumulates<br>puts out {part.out_shape[0]} x {height} x {width}"
    )


def _add_left(figure: go.Figure, parts: Sequence[PartShare], max_params: int) -> None:
    used = sum(part.params for part in parts)
    left = max_params - used
    text = f"left: {left:,} parameters ({100 * left / max_params:.1f} % of {format_count(max_params)})"
    figure.add_bar(**_stacked(left / max_params), marker={"color": _LEFT}, hovertext=[text], name="left", row=2, col=1)
    place = 0.0
    for bar in figure.data:
        if bar.xaxis == "x3":
            bar.base = [place]
            place += bar.x[0]
    figure.add_annotation(
        x=0,
        y=1.15,
        text=f"<b>budget</b>: {used:,} of {max_params:,} used, {left:,} left",
        xref="x3 domain",
        yref="y3 domain",
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
    )


def _axes(figure: go.Figure, parts: Sequence[PartShare]) -> None:
    most = max(max(part.blocks, 1) for part in parts)
    greatest = 100 * max(part.budget_share for part in parts)
    bare = {"showgrid": False, "showline": False, "ticks": "", "showticklabels": False}
    figure.update_xaxes(**bare, range=[0, max(most, 4)], row=1, col=1)
    figure.update_xaxes(**bare, range=[0, 1.35 * greatest], row=1, col=2)
    figure.update_xaxes(range=[0, 100], title="share of the budget (%)", row=2, col=1)
    figure.update_yaxes(**bare, automargin=False)
    figure.update_yaxes(range=[len(parts) - 0.5, -0.5], row=1)
    figure.update_yaxes(range=[-0.5, 0.5], row=2)
