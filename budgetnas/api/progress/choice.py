"""The choice between a terminal, a notebook and no progress."""

from __future__ import annotations

from budgetnas.api.progress.lines import Lines, NoLines, TerminalLines
from budgetnas.api.progress.notebook import NotebookLines, in_notebook


def progress_lines(shown: bool) -> Lines:
    """Return where a call from Python shows its progress; nowhere unless `shown`."""
    if not shown:
        return NoLines()
    return NotebookLines() if in_notebook() else TerminalLines()
