"""The terminal: consoles, and numbers in words."""

from __future__ import annotations

import os
import sys
from typing import Final, TextIO

from rich.console import Console

_PLAIN_WIDTH: Final = 160


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that can move its cursor; one with ``TERM=dumb`` is treated as a file."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def stderr() -> Console:
    """Return the console of progress and messages."""
    return console_on(sys.stderr, soft_wrap=not is_terminal(sys.stderr))


def console_on(stream: TextIO, *, soft_wrap: bool) -> Console:
    """Return a console that writes text as it is to a stream; without a terminal its lines are 160 columns wide."""
    real = is_terminal(stream)
    return Console(
        stderr=stream is sys.stderr,
        soft_wrap=soft_wrap,
        highlight=False,
        markup=False,
        width=None if real else _PLAIN_WIDTH,
        force_terminal=False if stream.isatty() and not real else None,
    )


def duration(seconds: float) -> str:
    """Return a rounded time: ``40 s``, ``12 min``, ``3 h 20 min``, ``5 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes / 60 / 24:,.0f} days"
