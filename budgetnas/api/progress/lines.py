"""Where progress is shown: on stderr, with a status line that updates in a terminal, or nowhere."""

from __future__ import annotations

import logging
import sys
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Final, Self

from rich.live import Live
from rich.text import Text

from budgetnas.api.progress.terminal import is_terminal, stderr

_PLAIN_EVERY_SECONDS: Final = 10.0
_logger = logging.getLogger("budgetnas")


class Lines(ABC):
    """Permanent lines, and a status that updates. Inside its context it also shows what the package logs."""

    def __init__(self) -> None:
        self.share = 0.0
        self._notes = _LogLines(self)

    def __enter__(self) -> Self:
        _logger.addHandler(self._notes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _logger.removeHandler(self._notes)

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a permanent line."""

    @abstractmethod
    def status(self, text: str) -> None:
        """Update the status."""

    def advance(self, share: float) -> None:
        """Store the share of the work that is done, for a progress bar; a terminal shows the status instead."""
        self.share = min(max(share, 0.0), 1.0)


class NoLines(Lines):
    """Shows no progress, and leaves the package's log to the program."""

    def __enter__(self) -> Self:
        return self

    def say(self, text: str) -> None:
        """Ignore the text."""

    def status(self, text: str) -> None:
        """Ignore the text."""


class TerminalLines(Lines):
    """Lines on stderr and, in a terminal, a status line below them that updates."""

    def __init__(self) -> None:
        super().__init__()
        self._console = stderr()
        live = is_terminal(sys.stderr)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if live else None
        self._printed_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self._console.print(text)
        self._printed_at = time.monotonic()

    def status(self, text: str) -> None:
        """Update the status; without a terminal, print it every ten seconds."""
        if self._live is not None:
            self._live.update(Text(text, overflow="ellipsis", no_wrap=True))
        elif time.monotonic() - self._printed_at >= _PLAIN_EVERY_SECONDS:
            self.say(text)


class _LogLines(logging.Handler):
    """Prints what the package logs where it has no callbacks."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.say(f"note: {record.getMessage()}")
