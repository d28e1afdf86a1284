"""Workers as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import IO, Final

from budgetnas.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from budgetnas.search.workers.supervisor import Progress
from budgetnas.search.workers.worker import WorkerRequest
from budgetnas.search.workers.worker_process import CRASHED
from budgetnas.training import RuntimeConfig

MAX_CRASHES: Final = 3
"""Crashes of a worker, no run of the study having ended meanwhile, after which it is not started again."""
_MODULE: Final = "budgetnas.search.workers.worker_process"


@dataclass
class _Worker:
    """One of the pool.

    Attributes:
        number: Its number, from 1.
        device: Where it trains.
        process: It; nothing before it is started.
        crashes: How often it crashed, no run having ended meanwhile.
        ended_before: Runs that had ended when it crashed last.
        said: The last line that it wrote.
        over: How it ended for good: an exit code, and in words.
    """

    number: int
    device: str
    process: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    crashes: int = 0
    ended_before: int = -1
    said: str = ""
    over: tuple[int, str] | None = None
    lines: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)


class ProcessPool:
    """Workers as processes of this machine, each in a session of its own, so that a terminal's Ctrl-C is the search's.

    Args:
        devices: The device of each.
        threads: Threads of each on a CPU.
        cores: Cores that they share on a CPU.
    """

    def __init__(self, devices: tuple[str, ...], threads: int | None, cores: int = 1) -> None:
        self.workers = len(devices)
        self.shares = min(self.workers, cores) if threads else len(set(devices))
        self.threads = threads
        self.timed = True
        self._crew = [_Worker(number, device) for number, device in enumerate(devices, start=1)]
        self._request: WorkerRequest | None = None
        self._stopping = False

    def describe(self, runtime: RuntimeConfig) -> str:
        """Return who trains, and where, in words."""
        if self.threads:
            each = f"threads: {runtime.threads} each"
        else:
            each = ", ".join(f"{device} x {self._on(device)}" for device in dict.fromkeys(self._devices()))
        return f"{self.workers} workers on {runtime.device.partition(':')[0]} ({each}), {runtime.precision}"

    def begin(self, request: WorkerRequest) -> None:
        """Start all."""
        self._request = request
        for worker in self._crew:
            self._start(worker)

    def tend(self, study: Progress) -> tuple[str, ...]:
        """See to them: return what they said, and start again what crashed."""
        told: list[str] = []
        for worker in self._crew:
            code = None if worker.process is None or worker.over else worker.process.poll()
            if code is not None and worker.reader is not None:
                worker.reader.join(5.0)
            told += _said(worker)
            if code is not None:
                told += self._ended(worker, code, study)
        return tuple(told)

    def at_work(self) -> bool:
        """Return whether any is left."""
        return any(worker.over is None for worker in self._crew)

    def stop(self) -> None:
        """Ask all to put their trials back and to end."""
        self._stopping = True
        for process in self._alive():
            process.terminate()

    def kill(self) -> None:
        """End at once whatever is left, and wait for it."""
        self._stopping = True
        left = self._alive()
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in left:
            process.wait()
        for worker in self._crew:
            _let_go(worker)

    def outcome(self) -> str | None:
        """Return why the last of them ended; nothing if one of them ended well."""
        ways = [worker.over for worker in self._crew if worker.over is not None]
        if any(code == EXIT_DONE for code, _ in ways):
            return None
        return ways[-1][1] if ways else "none was started"

    def _start(self, worker: _Worker) -> None:
        assert self._request is not None, "begin comes first"
        _let_go(worker)
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        assert process.stdin is not None and process.stderr is not None, "both are pipes"
        worker.process = process
        worker.reader = threading.Thread(target=_read, args=(process.stderr, worker.lines), daemon=True)
        worker.reader.start()
        request = self._request.model_copy(update={"device": worker.device})
        with contextlib.suppress(OSError):  # it is gone already, which its exit code tells
            process.stdin.write(request.model_dump_json().encode() + b"\n")

    def _ended(self, worker: _Worker, code: int, study: Progress) -> tuple[str, ...]:
        """Note that a worker ended; start it again if it crashed and may yet succeed."""
        name, how = f"worker {worker.number}", _how(code)
        crashed = code < 0 or code not in (EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT)
        if self._stopping or not crashed or study.is_done():
            worker.over = (code, f"{name}: {worker.said or how}")
            return ()
        progressed = study.ended() > worker.ended_before
        worker.crashes = 1 if progressed else worker.crashes + 1
        worker.ended_before = study.ended()
        if worker.crashes >= MAX_CRASHES:
            worker.over = (code, f"{name} {how}, {MAX_CRASHES} times without a run that ended")
            return (f"{worker.over[1]}; it is not started again",)
        self._start(worker)
        return (f"{name} {how}; it is started again",)

    def _alive(self) -> list[subprocess.Popen[bytes]]:
        return [one.process for one in self._crew if one.process is not None and one.process.poll() is None]

    def _devices(self) -> tuple[str, ...]:
        return tuple(worker.device for worker in self._crew)

    def _on(self, device: str) -> int:
        return self._devices().count(device)


def _let_go(worker: _Worker) -> None:
    """Close what a worker listens to, should it be alive or not."""
    if worker.process is not None and worker.process.stdin is not None:
        worker.process.stdin.close()


def _read(stream: IO[bytes], lines: queue.SimpleQueue[str]) -> None:
    with stream:
        for line in stream:
            lines.put(line.decode(errors="replace").rstrip())


def _said(worker: _Worker) -> list[str]:
    told = []
    while not worker.lines.empty():
        worker.said = worker.lines.get()
        told.append(f"worker {worker.number}: {worker.said}")
    return told


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return "crashed" if code == CRASHED else f"ended with code {code}"
