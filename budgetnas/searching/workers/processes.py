"""Workers as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, Final

from budgetnas.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_RESTART
from budgetnas.searching.workers.pools import MAX_CRASHES, Crashes, StudyProgress
from budgetnas.searching.workers.worker import WorkerRequest
from budgetnas.searching.workers.worker_process import CRASHED
from budgetnas.training import RuntimeConfig

_MODULE: Final = "budgetnas.searching.workers.worker_process"


@dataclass
class _Worker:
    """A worker of the pool."""

    number: int  # number of the worker, from 1
    device: str  # device that it trains on
    process: subprocess.Popen[bytes] | None = None  # the process; None before the start
    reader: threading.Thread | None = None  # thread that reads its lines
    crashes: Crashes = field(default_factory=Crashes)  # its crashes since the last run that ended
    last_line: str = ""  # the last line that it wrote
    ending: tuple[int, str] | None = None  # how it ended for good: exit code and reason
    # Lines that it wrote and that `ProcessPool.poll` has not returned yet.
    lines: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)


class ProcessPool:
    """Workers as processes of this machine.

    Each worker is in a session of its own, so Ctrl-C in the terminal reaches only the search.

    Args:
        devices: Device of each worker.
        threads: Threads of each on a CPU; None on GPUs.
        cores: Cores that they share on a CPU.
    """

    def __init__(self, devices: tuple[str, ...], threads: int | None, cores: int = 1) -> None:
        self.workers = len(devices)
        self.shares = min(self.workers, cores) if threads else len(set(devices))
        self.threads = threads
        self.timed = True
        self._workers = [_Worker(number, device) for number, device in enumerate(devices, start=1)]
        self._request: WorkerRequest | None = None
        self._stopping = False

    def describe(self, runtime: RuntimeConfig) -> str:
        """Describe the workers and their devices."""
        if self.threads:
            each = f"threads: {runtime.threads} each"
        else:
            counted = Counter(worker.device for worker in self._workers)
            each = ", ".join(f"{device} x {number}" for device, number in counted.items())
        return f"{self.workers} workers on {runtime.device.partition(':')[0]} ({each}), {runtime.precision}"

    def start(self, request: WorkerRequest) -> None:
        """Start all workers."""
        self._request, self._stopping = request, False
        for worker in self._workers:
            worker.crashes, worker.last_line, worker.ending = Crashes(), "", None
            self._start(worker)

    def poll(self, study: StudyProgress) -> tuple[str, ...]:
        """Restart crashed workers; return what workers wrote since the last call."""
        messages: list[str] = []
        for worker in self._workers:
            code = None if worker.process is None or worker.ending else worker.process.poll()
            if code is not None and worker.reader is not None:
                worker.reader.join(5.0)
            messages += _read_lines(worker)
            if code is not None:
                messages += self._ended(worker, code, study)
        return tuple(messages)

    def is_running(self) -> bool:
        """Return whether any worker is left."""
        return any(worker.ending is None for worker in self._workers)

    def stop(self) -> None:
        """Ask all workers to requeue their trials and exit."""
        self._stopping = True
        for process in self._alive():
            process.terminate()

    def kill(self) -> None:
        """Kill the workers that are left, and wait until they are gone."""
        self._stopping = True
        left = self._alive()
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in left:
            process.wait()
        for worker in self._workers:
            _close_stdin(worker)

    def failure(self) -> str | None:
        """Return why the last worker ended, or None if any worker ended well."""
        endings = [worker.ending for worker in self._workers if worker.ending is not None]
        if any(code == EXIT_DONE for code, _ in endings):
            return None
        return endings[-1][1] if endings else "none was started"

    def _start(self, worker: _Worker) -> None:
        assert self._request is not None, "start comes first"
        _close_stdin(worker)
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
        with contextlib.suppress(OSError):  # it is gone already; its exit code says why
            process.stdin.write(request.model_dump_json().encode() + b"\n")

    def _ended(self, worker: _Worker, code: int, study: StudyProgress) -> tuple[str, ...]:
        """Restart a worker that crashed and may yet succeed; else note how it ended."""
        name, how = f"worker {worker.number}", _how_it_ended(code)
        crashed = code < 0 or code not in (EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT)
        if self._stopping or not crashed or study.is_done():
            worker.ending = (code, f"{name}: {worker.last_line or how}")
            return ()
        if not worker.crashes.restart(study):
            worker.ending = (code, f"{name} {how}, {MAX_CRASHES} times without a finished run")
            return (f"{worker.ending[1]}; it is not restarted",)
        self._start(worker)
        return (f"{name} {how}; it is restarted",)

    def _alive(self) -> list[subprocess.Popen[bytes]]:
        processes = [worker.process for worker in self._workers if worker.process is not None]
        return [process for process in processes if process.poll() is None]


def _close_stdin(worker: _Worker) -> None:
    """Close a worker's standard input, which also stops a worker that is alive."""
    if worker.process is not None and worker.process.stdin is not None:
        worker.process.stdin.close()


def _read(stream: IO[bytes], lines: queue.SimpleQueue[str]) -> None:
    with stream:
        for line in stream:
            lines.put(line.decode(errors="replace").rstrip())


def _read_lines(worker: _Worker) -> list[str]:
    messages = []
    while not worker.lines.empty():
        worker.last_line = worker.lines.get()
        messages.append(f"worker {worker.number}: {worker.last_line}")
    return messages


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    if code == EXIT_RESTART:
        return "can no longer train"
    return "crashed" if code == CRASHED else f"ended with code {code}"
