"""The winner: its blocks stage by stage, each stage's share of the budget, and the rest of the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from budgetnas.architecture import Architecture
from budgetnas.architecture.budget import format_count
from budgetnas.report.figures.figure import Cell, Figure, Table
from budgetnas.report.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, styled
from budgetnas.report.values import Chosen, PartShare, StudyTables

_COLOURS = (SKY, BLUE, GREEN, ORANGE, PURPLE, VERMILION, GREY)
_LEFT = "rgba(128,128,128,0.18)"
_ROW = 62


def winner(tables: StudyTables, chosen: Chosen) -> Figure:
    """Draw the chosen network from the image down to the classes, and the budget below it."""
    parts, table = tables.winner, _table(tables)
    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[{}, {}], [{"colspan": 2}, None]],
        column_widths=[0.5, 0.5],
        row_heights=[len(parts) * _ROW, 1.1 * _ROW],
        horizontal_spacing=0.04,
        vertical_spacing=0.75 * _ROW / (len(parts) * _ROW + 2 * _ROW),
    )
    shares = table["share_of_budget_percent"]
    for place, (part, share, colour) in enumerate(zip(parts, shares, _COLOURS, strict=False)):
        shared = {"marker": {"color": colour}, "orientation": "h", "hoverinfo": "text", "name": part.name}
        figure.add_bar(**shared | _blocks(part, place, parts), row=1, col=1)
        figure.add_bar(**shared | _share(part, place, share), row=1, col=2)
        figure.add_bar(**shared | _slice(sum(shares[:place]), share, _hover(part)), row=2, col=1)
        _add_caption(figure, part, place, chosen.run.architecture)
    _add_left(figure, table, tables.summary.max_params)
    styled(figure, height=len(parts) * _ROW + 140)
    _axes(figure, parts)
    figure.update_layout(barmode="overlay", margin={"l": 8, "r": 12, "t": 8, "b": 44}, showlegend=False)
    caption = (
        "Each box of a stage is a block; its height grows with its output channels. The shape after the arrow is "
        "channels × height × width. On the right: parameters, and below them their share of the budget."
    )
    return Figure("winner", "The winner, stage by stage", caption, figure, table)


def _table(tables: StudyTables) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (part.name, part.blocks, *part.out_shape, part.params, 100 * part.budget_share) for part in tables.winner
    ]
    left = tables.summary.max_params - sum(part.params for part in tables.winner)
    rows.append(("left", None, None, None, None, left, 100 * left / tables.summary.max_params))
    columns = ("part", "blocks", "out_channels", "out_height", "out_width", "params", "share_of_budget_percent")
    return Table(columns, tuple(rows))


def _blocks(part: PartShare, place: int, parts: Sequence[PartShare]) -> dict[str, object]:
    """Return a part's blocks side by side; their height grows with their output channels."""
    number, widest = max(part.blocks, 1), max(other.out_shape[0] for other in parts)
    return {
        "base": list(range(number)),
        "x": [0.86 if part.blocks else 0.5] * number,
        "y": [place + 0.2] * number,
        "width": [0.06 + 0.42 * math.sqrt(part.out_shape[0] / widest)] * number,
        "hovertext": [_hover(part)] * number,
    }


def _share(part: PartShare, place: int, percent: float) -> dict[str, object]:
    return {
        "x": [percent],
        "y": [place + 0.2],
        "width": [0.4],
        "text": [f"{percent:.1f} %"],
        "textposition": "outside",
        "textangle": 0,
        "cliponaxis": False,
        "hovertext": [_hover(part)],
    }


def _slice(start: float, percent: float, hover: str) -> dict[str, object]:
    return {"base": [start], "x": [percent], "y": [0], "width": [0.8], "hovertext": [hover]}


def _add_caption(figure: go.Figure, part: PartShare, place: int, architecture: Architecture) -> None:
    text = f"<b>{part.name}</b>{_made_of(part, place, architecture)} → {_out(part)}"
    for x, anchor, written in ((0, "left", text), (1, "right", f"{part.params:,}")):
        figure.add_annotation(
            x=x, y=place - 0.26, text=written, xref="paper", yref="y", xanchor=anchor, yanchor="middle", showarrow=False
        )


def _made_of(part: PartShare, place: int, architecture: Architecture) -> str:
    if not part.blocks:
        return ""
    plural = "s" if part.blocks > 1 else ""
    gated = " with SE" if architecture.se else ""
    if architecture.block == "basic":
        return f": {part.blocks} basic block{plural}{gated}"
    return f": {part.blocks} {architecture.block}{plural} of {architecture.widths[place - 1]}{gated}"


def _out(part: PartShare) -> str:
    return f"{part.out_shape[0]} classes" if part.name == "head" else " × ".join(map(str, part.out_shape))


def _hover(part: PartShare) -> str:
    height, width = part.out_shape[1:] if len(part.out_shape) == 3 else (1, 1)
    return (
        f"<b>{part.name}</b><br>{part.params:,} parameters, {100 * part.budget_share:.2f} % of the budget"
        f"<br>{part.macs:,} multiply-accumulates<br>output {part.out_shape[0]} x {height} x {width}"
    )


def _add_left(figure: go.Figure, table: Table, max_params: int) -> None:
    *parts, left = table["params"]
    *shares, share = table["share_of_budget_percent"]
    text = f"left: {left:,} parameters ({share:.1f} % of {format_count(max_params)})"
    shared = {"marker": {"color": _LEFT}, "orientation": "h", "hoverinfo": "text", "name": "left"}
    figure.add_bar(**shared | _slice(sum(shares), share, text), row=2, col=1)
    figure.add_annotation(
        x=0,
        y=1.15,
        text=f"<b>budget</b>: {sum(parts):,} of {max_params:,} used, {left:,} left",
        xref="x3 domain",
        yref="y3 domain",
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
    )


def _axes(figure: go.Figure, parts: Sequence[PartShare]) -> None:
    most_blocks = max(part.blocks for part in parts)
    greatest = 100 * max(part.budget_share for part in parts)
    bare = {"showgrid": False, "showline": False, "ticks": "", "showticklabels": False}
    figure.update_xaxes(**bare, range=[0, max(most_blocks, 4)], row=1, col=1)
    figure.update_xaxes(**bare, range=[0, 1.35 * greatest], row=1, col=2)
    figure.update_xaxes(range=[0, 100], title="share of the budget (%)", row=2, col=1)
    figure.update_yaxes(**bare, automargin=False)
    figure.update_yaxes(range=[len(parts) - 0.5, -0.5], row=1)
    figure.update_yaxes(range=[-0.5, 0.5], row=2)
