"""A worker as a process of its own: ``python -m budgetnas.search.workers.worker_process``, started by a search.

It reads one line of JSON, its request, from standard input: a storage's password is then neither among its arguments
nor in its environment. When standard input ends, whoever started it is gone, and it stops as at a SIGTERM. What its
starter should hear it writes as single lines to standard error.
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
from budgetnas.search.view import Notices
from budgetnas.search.workers.worker import WorkerRequest, run_worker
from budgetnas.storage.engine import storage_failed

CRASHED: Final = 70
"""Exit code after an error that nobody foresaw, the ``EX_SOFTWARE`` of sysexits."""
_STDIN: Final = 0


def main() -> int:
    """Work as the line on standard input says; return the exit code."""
    line = _first_line()
    if not line:
        return EXIT_TERMINATED
    request = WorkerRequest.model_validate_json(line)
    stopper = Stopper(request.timeout)
    threading.Thread(target=_watch_starter, args=(stopper,), daemon=True).start()
    try:
        return run_worker(request, stopper, Notices(tell)).outcome.exit_code
    except BudgetnasError as error:
        tell(str(error))
        return error.exit_code
    except Interrupted as stop:
        return stop.exit_code
    except Exception as error:
        if type(error).__module__.startswith("sqlalchemy."):
            tell(storage_failed(error))
            return EXIT_FAILED
        where = traceback.extract_tb(error.__traceback__)[-1]
        tell(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})")
        return CRASHED


def tell(text: str) -> None:
    """Write one line; a starter that is gone does not hear it."""
    with contextlib.suppress(OSError):
        print(hide_passwords(" ".join(text.split())), file=sys.stderr, flush=True)


def _first_line() -> bytes:
    """Read a line without a buffer, so that what comes after is left to the watching thread."""
    line = b""
    while not line.endswith(b"\n") and (one := os.read(_STDIN, 1)):
        line += one
    return line


def _watch_starter(stopper: Stopper) -> None:
    while os.read(_STDIN, 4096):
        pass
    stopper.stop(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
