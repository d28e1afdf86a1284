"""The look of the figures: a colour-blind-safe palette (Okabe and Ito 2008), axes and legends.

The blue is a little lighter than theirs: figures must be legible on a light and on a dark page.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any, Final

import plotly.graph_objects as go

from budgetnas.architecture.budget import format_count

BLUE: Final = "#2A87C6"
ORANGE: Final = "#E69F00"
VERMILION: Final = "#D55E00"
DARK_VERMILION: Final = "#B84E00"
"""For text on white: vermilion itself has a contrast of 3.87, below the 4.5 of WCAG 2."""
GREEN: Final = "#009E73"
SKY: Final = "#56B4E9"
PURPLE: Final = "#CC79A7"
GREY: Final = "#8A8A8A"

LINES: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY)
DASHES: Final = ("solid", "dash", "dot")

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def styled(figure: go.Figure, *, height: int = 420) -> go.Figure:
    """Return the figure in the report's style; the page sets the colours of text and grid."""
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
    """Return text with its markup escaped, as figures need it: names come from users."""
    return escape(str(text))


def shortened(name: str, most: int = 20) -> str:
    """Return a name of at most `most` characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def lines(*parts: str) -> str:
    """Join escaped parts into the lines of a hover box; empty parts are left out."""
    return "<br>".join(part for part in parts if part)


def marker(colour: str, symbol: str = "circle", size: int = 9) -> dict[str, Any]:
    """Return a marker with a thin rim, so that overlapping markers stay visible."""
    return {"color": colour, "symbol": symbol, "size": size, "line": {"width": 1, "color": "rgba(128,128,128,0.6)"}}


def whole_ticks(largest: int) -> dict[str, object]:
    """Return an axis with ticks at whole numbers; for small counts Plotly would add ticks at halves."""
    return {"tickformat": "d", "dtick": 1} if largest <= 5 else {"tickformat": "d"}


def budget_line(figure: go.Figure, max_params: int, xanchor: str = "right") -> None:
    """Add the budget to a log axis, where Plotly places lines by value, but annotations by its logarithm.

    The page finds the label by its name and gives it a lighter colour in dark mode.
    """
    figure.add_vline(x=max_params, line={"color": VERMILION, "width": 2, "dash": "dash"})
    figure.add_annotation(
        x=math.log10(max_params),
        y=1,
        yref="paper",
        yanchor="top",
        xanchor=xanchor,
        text=f" budget {format_count(max_params)} ",
        showarrow=False,
        name="budget",
        font={"color": DARK_VERMILION},
    )


def log_axis(low: float, high: float) -> dict[str, object]:
    """Return a log axis with round labels; on a narrow range Plotly shows no labels."""
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
