"""The real command line in processes that start at one moment, are killed, and leave a log."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final, Self

from forked import FORKED

PATIENCE_SECONDS: Final = 240.0

Before = Callable[[], None]
"""What a process does before it enters the command line."""


class Command:
    """``budgetnas ARGUMENTS`` in a process of its own; it is killed when the context is left.

    Args:
        folder: Where it runs; its log is there, and so are checkpoints.
        arguments: The command line.
        together: All that have the same barrier enter the command line at the same moment.
        before: What it does before.
        environment: Variables.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        together: Barrier | None = None,
        before: Before | None = None,
        **environment: str,
    ) -> None:
        self.log = folder / f"command-{uuid.uuid4().hex[:8]}.log"
        self.log.touch()
        variables = {"BUDGETNAS_CHECKPOINT_DIR": str(folder / "checkpoints"), "BUDGETNAS_DEVICE": "cpu"} | environment
        self._process = FORKED.Process(target=_enter, args=(folder, arguments, variables, self.log, together, before))
        self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join(PATIENCE_SECONDS)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code; minus a signal's number; nothing while it runs."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> bool:
        """Kill it as ``kill -9`` does, and wait until it is gone; return whether it was there to be killed."""
        try:
            self.send(signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            self.wait()
        return True

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for its end; return the exit code."""
        self._process.join(seconds)
        assert self.code is not None, f"still runs after {seconds:.0f} s:\n{self.told()}"
        return self.code

    def told(self) -> str:
        """What it wrote to standard output and error."""
        return self.log.read_text(encoding="utf-8")


def wait_until(true: Callable[[], bool], *commands: Command, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something is true while commands run."""
    deadline = time.monotonic() + seconds
    while not true():
        ended = [f"ended with {one.code}:\n{one.told()}" for one in commands if one.code is not None]
        assert not ended, ended[0]
        assert time.monotonic() < deadline, "\n".join([f"waited {seconds:.0f} s", *(one.told() for one in commands)])
        time.sleep(0.02)


def _enter(
    folder: Path,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    log: Path,
    together: Barrier | None,
    before: Before | None,
) -> None:
    from budgetnas.cli.app import main

    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("BUDGETNAS_") or name in ("COLUMNS", "LINES")]:
        del os.environ[name]
    os.environ.update(environment)
    with log.open("ab", buffering=0) as written:
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
    warnings.simplefilter("ignore")
    sys.argv = ["budgetnas", *arguments]
    if before is not None:
        before()
    if together is not None:
        together.wait(PATIENCE_SECONDS)
    sys.exit(main())
