"""A worker as a process: ``python -m budgetnas.searching.workers.worker_process``, started by a search.

It reads its request as a line of JSON from standard input, so that the password of a storage appears neither in its
arguments nor in its environment. When standard input ends, the search is gone, and the worker stops as at a SIGTERM.
It writes messages as single lines to standard error.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from typing import Final

from budgetnas.errors import EXIT_FAILED, EXIT_TERMINATED, BudgetnasError, Interrupted, hide_passwords
from budgetnas.runs.interrupts import Stopper
from budgetnas.searching.callbacks import MessageCallbacks
from budgetnas.searching.workers.queue import run_request
from budgetnas.searching.workers.worker import WorkerRequest
from budgetnas.storage.engine import storage_failed

CRASHED: Final = 70
"""Exit code after an unexpected error: ``EX_SOFTWARE`` of sysexits."""
_STDIN: Final = 0


def main() -> int:
    """Do what the line on standard input asks for; return the exit code."""
    line = _first_line()
    if not line:
        return EXIT_TERMINATED
    request = WorkerRequest.model_validate_json(line)
    stopper = Stopper(request.timeout)
    threading.Thread(target=_watch_search, args=(stopper,), daemon=True).start()
    try:
        return run_request(request, stopper, MessageCallbacks(write)).outcome.exit_code
    except BudgetnasError as error:
        write(str(error))
        return error.exit_code
    except Interrupted as stop:
        if stop.reason:
            write(stop.reason)
        return stop.exit_code
    except Exception as error:
        if type(error).__module__.startswith("sqlalchemy."):
            write(storage_failed(error))
            return EXIT_FAILED
        where = traceback.extract_tb(error.__traceback__)[-1]
        write(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})")
        return CRASHED


def write(text: str) -> None:
    """Write a line for the search, which may be gone."""
    with contextlib.suppress(OSError):
        print(hide_passwords(" ".join(text.split())), file=sys.stderr, flush=True)


def _first_line() -> bytes:
    """Read a line without buffering, so that the rest is left to the watching thread."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(_STDIN, 1)):
        line += byte
    return line


def _watch_search(stopper: Stopper) -> None:
    while os.read(_STDIN, 4096):
        pass
    stopper.stop(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
