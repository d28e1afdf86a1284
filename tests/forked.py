"""The real command line in processes that are cheap to start.

Importing PyTorch, Optuna and scikit-learn takes a process seconds. Here one server process imports everything and runs
nothing; each command is a process forked from it that enters ``budgetnas`` where the installed program does, with its
own connections, locks, signals, working directory and environment.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Self, TextIO

FORKED: Final = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "alembic.command",
        "alembic.config",
        "budgetnas.bundle.export",
        "budgetnas.cli.app",
        "budgetnas.api.progress.trainings",
        "budgetnas.cli.summary",
        "budgetnas.experiments.compare",
        "budgetnas.experiments.final",
        "budgetnas.experiments.replay",
        "budgetnas.report.page",
        "budgetnas.report.tables",
        "budgetnas.searching.session",
        "onnxruntime",
        "onnxscript",
        "psycopg",
        "pytest",  # its main module is imported by each process that it starts
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite.pysqlite",
        "torch._dynamo",  # an optimiser imports it
    ]
)


class Forked:
    """``budgetnas ARGUMENTS`` in a process of its own, with the part of `subprocess.Popen` that the tests use.

    Args:
        folder: Working directory.
        arguments: The command line.
        environment: All environment variables.
    """

    def __init__(self, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        (out, write_out), (err, write_err) = FORKED.Pipe(duplex=False), FORKED.Pipe(duplex=False)
        self._process = FORKED.Process(target=_enter, args=(folder, arguments, environment, write_out, write_err))
        self._process.start()
        self._texts: tuple[str, str] | None = None
        self.stdout, self.stderr = (open(os.dup(end.fileno()), encoding="utf-8") for end in (out, err))  # noqa: SIM115
        for end in (out, write_out, err, write_err):
            end.close()
        weakref.finalize(self, _close, self.stdout, self.stderr)  # else a test that only kills it leaks them

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stderr.close()
        self.wait()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("budgetnas", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read both streams to their ends and wait for the process; a second call returns the same."""
        if self._texts is not None:
            return self._texts
        texts = ["", ""]

        def read(place: int) -> None:
            texts[place] = (self.stdout, self.stderr)[place].read()

        readers = [threading.Thread(target=read, args=(place,), daemon=True) for place in (0, 1)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired("budgetnas", timeout or 0.0)
        self.wait(timeout)
        self.stdout.close()
        self.stderr.close()
        self._texts = texts[0], texts[1]
        return self._texts


def _close(*streams: TextIO) -> None:
    for stream in streams:
        stream.close()


def _enter(
    folder: Path, arguments: tuple[str, ...], environment: dict[str, str], out: Connection, err: Connection
) -> None:
    from budgetnas.cli.app import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal; background jobs ignore it
    sys.argv = ["budgetnas", *arguments]
    code = main()
    atexit._run_exitfuncs()  # a forked process skips these
    gc.collect()  # an interpreter that ends closes its databases
    sys.exit(code)
