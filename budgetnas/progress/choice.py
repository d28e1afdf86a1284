"""The choice between a terminal, a notebook and no progress."""

from __future__ import annotations

from budgetnas.progress.lines import Lines, NoLines, TerminalLines


def progress_lines(shown: bool) -> Lines:
    """Return where a call from Python shows its progress; nowhere unless `shown`."""
    return TerminalLines() if shown else NoLines()
