"""One thing that was looked at, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        check: What.
        state: ``ok``, ``warning`` or ``problem``.
        detail: What was found.
        way_out: What to do about it; empty where it is ok.
    """

    check: str
    state: Level
    detail: str
    way_out: str = ""


def size_of(size: float) -> str:
    """Return a number of bytes as people say it."""
    return f"{size / (1 << 30):,.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):,.0f} MiB"


def many(number: int, thing: str, things: str = "") -> str:
    """Return a number with what it counts."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


def one_line(error: object) -> str:
    """Return the start of what an error says, in one line."""
    return " ".join(str(error).split())[:200]
