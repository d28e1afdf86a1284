"""Requests to stop by Ctrl-C, SIGTERM or a time limit: noted at once, and acted on at the next safe point."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from budgetnas.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, Interrupted

_EXIT_CODES = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}
if hasattr(signal, "SIGHUP"):  # not on Windows
    _EXIT_CODES[signal.SIGHUP] = EXIT_TERMINATED
_ALWAYS = (signal.SIGINT, signal.SIGTERM)


class Stopper:
    """Notes requests to stop.

    Args:
        timeout_seconds: Time limit from now, or None for no limit.
        clock: Returns seconds from any start.
    """

    def __init__(self, timeout_seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._deadline = None if timeout_seconds is None else clock() + timeout_seconds
        self._exit_code: int | None = None

    def check(self) -> None:
        """Raise if a stop was requested.

        Raises:
            Interrupted: With exit code 130 after Ctrl-C, 143 after SIGTERM, 0 when the time limit has passed.
        """
        if self._exit_code is not None:
            raise Interrupted(self._exit_code)
        if self._deadline is not None and self.clock() > self._deadline:
            raise Interrupted(EXIT_DONE)

    def seconds_left(self) -> float | None:
        """Return the seconds until the time limit, at least 0, or None if there is no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - self.clock())

    def stop(self, exit_code: int) -> None:
        """Note a request to stop without a signal; the first request counts."""
        if self._exit_code is None:
            self._exit_code = exit_code

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGINT, SIGTERM and SIGHUP within the context; a second Ctrl-C raises `KeyboardInterrupt` at once.

        SIGHUP is sent when the terminal closes. If it is ignored already, as under ``nohup``, it stays ignored. Only
        the main thread can handle signals, so in other threads nothing changes. A signal that another library handles
        in C keeps its handler.
        """
        with _handled(self._note):
            yield

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._exit_code is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._exit_code = _EXIT_CODES[signal.Signals(number)]


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Raise `KeyboardInterrupt` with the exit code at the same signals, for work that has nothing to save.

    It ends a read that waits, and clean-up is done, which SIGTERM alone would skip.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(_EXIT_CODES[signal.Signals(number)])

    with _handled(stop):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in _EXIT_CODES if is_main}
    before = {
        number: signal.signal(number, handler)
        for number, earlier in handlers.items()
        if earlier is not None and (earlier != signal.SIG_IGN or number in _ALWAYS)
    }
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
