"""How figures look: a colour-blind-safe palette (Okabe and Ito 2008), axes and legends.

Their blue is a little lighter here: the same figures must be legible on a light and on a dark page.
"""

from __future__ import annotations

from html import escape
from typing import Any, Final

import plotly.graph_objects as go

BLUE: Final = "#2A87C6"
ORANGE: Final = "#E69F00"
VERMILION: Final = "#D55E00"
GREEN: Final = "#009E73"
SKY: Final = "#56B4E9"
PURPLE: Final = "#CC79A7"
GREY: Final = "#8A8A8A"

LINES: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY)
DASHES: Final = ("solid", "dash", "dot")

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def styled(figure: go.Figure, *, height: int = 420) -> go.Figure:
    """Give a figure the report's look; the page sets the colours of text and grid."""
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 12},
        margin={"l": 56, "r": 12, "t": 12, "b": 48},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "yref": "container", "y": 0, "yanchor": "bottom"},
        hoverlabel={"align": "left", "font": {"family": _FONT, "size": 12}},
        hovermode="closest",
    )
    figure.update_xaxes(automargin=True, zeroline=False, showline=True, ticks="outside")
    figure.update_yaxes(automargin=True, zeroline=False, showline=True, ticks="outside", title_standoff=6)
    return figure


def safe(text: object) -> str:
    """Return text as figures show it: no markup of the user's comes through."""
    return escape(str(text))


def lines(*parts: str) -> str:
    """Join parts that are safe already into the lines of a hover box."""
    return "<br>".join(part for part in parts if part)


def marker(colour: str, symbol: str = "circle", size: int = 9) -> dict[str, Any]:
    """Return a marker with a thin rim, so that two on top of each other can be told apart."""
    return {"color": colour, "symbol": symbol, "size": size, "line": {"width": 1, "color": "rgba(128,128,128,0.6)"}}
