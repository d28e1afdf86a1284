"""Progress in a notebook: a bar, the status and the last line; all lines unfold on a click."""

from __future__ import annotations

import sys
import time
from html import escape
from importlib import import_module
from types import TracebackType
from typing import Any, Final, Self

from budgetnas.api.progress.lines import Lines

_SHOWN_EVERY_SECONDS: Final = 0.25


def in_notebook() -> bool:
    """Return whether this program runs in a kernel of Jupyter."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class NotebookLines(Lines):
    """Progress in the output of the cell that runs."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._status = ""
        self._shown_at = 0.0
        self._ipython: Any = import_module("IPython.display")  # every kernel has it
        self._output: Any = None

    def __enter__(self) -> Self:
        self._output = self._ipython.display(self._ipython.HTML(self.html()), display_id=True)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._status, self.share = "", self.share if kind else 1.0
        self._show()

    def say(self, text: str) -> None:
        """Add a permanent line."""
        self._lines.append(text)
        self._show()

    def status(self, text: str) -> None:
        """Update the status, at most four times a second."""
        self._status = text
        if time.monotonic() - self._shown_at >= _SHOWN_EVERY_SECONDS:
            self._show()

    def html(self) -> str:
        """Return the output as HTML."""
        last = self._lines[-1] if self._lines else ""
        return (
            f'<progress value="{self.share:.3f}" max="1" style="width: 60%"></progress> {self.share:.0%}'
            f"<div>{escape(self._status or last)}</div>"
            f"<details><summary>all lines</summary><pre>{escape(chr(10).join(self._lines))}</pre></details>"
        )

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        self._output.update(self._ipython.HTML(self.html()))
