"""Workers as tasks of a Ray cluster; the leases recover the trials of a node that is lost.

Ray is imported only here, when a cluster is asked for.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy.engine import URL

from budgetnas.errors import EXIT_DONE, EXIT_FAILED, EXIT_RESTART, BudgetnasError, InputError, Interrupted
from budgetnas.runs.interrupts import Stopper
from budgetnas.searching.callbacks import MessageCallbacks
from budgetnas.searching.options import SearchOptions
from budgetnas.searching.workers.pools import Crashes, StudyProgress
from budgetnas.searching.workers.queue import run_request
from budgetnas.searching.workers.worker import WorkerRequest
from budgetnas.storage.urls import masked
from budgetnas.training import RuntimeConfig

AUTO: Final = "auto"
_CONNECT_SECONDS: Final = 10.0


class RayPool:
    """Workers as Ray tasks, which Ray restarts elsewhere if their node is lost.

    Args:
        workers: Number of workers.
        gpus_per_trial: Share of a GPU that each takes; 0 to train on CPUs.
        gpus: GPUs of the cluster.
    """

    def __init__(self, workers: int, gpus_per_trial: float, gpus: float) -> None:
        on_gpus = gpus_per_trial > 0
        self.workers = workers
        self.shares = max(1, min(workers, int(gpus))) if on_gpus else workers
        self.threads = None if on_gpus else 1
        self.timed = not on_gpus  # the cluster's GPUs may differ from this machine's
        self._gpus_per_trial = gpus_per_trial
        self._pending: dict[Any, int] = {}
        self._submit: Callable[[], Any] | None = None
        self._crashes: defaultdict[int, Crashes] = defaultdict(Crashes)
        self._endings: list[tuple[int, str]] = []

    def describe(self, runtime: RuntimeConfig) -> str:
        """Describe the workers and their devices."""
        if self._gpus_per_trial:
            return f"{self.workers} Ray tasks with {self._gpus_per_trial:g} GPU each"
        return f"{self.workers} Ray tasks on cpu (threads: {runtime.threads} each), {runtime.precision}"

    def start(self, request: WorkerRequest) -> None:
        """Start all workers."""
        import ray

        where = {"device": "cuda" if self._gpus_per_trial else "cpu"}
        message = request.model_copy(update=where).model_dump_json()
        # max_calls: a process is not used again, because its GPU may have failed.
        task = ray.remote(max_retries=-1, max_calls=1, num_cpus=1, num_gpus=self._gpus_per_trial)(work)
        self._submit = functools.partial(task.remote, message)
        self._crashes.clear()
        self._endings.clear()
        self._pending = {self._submit(): number for number in range(1, self.workers + 1)}

    def poll(self, study: StudyProgress) -> tuple[str, ...]:
        """Return the messages of workers that ended; when the study is done, stop those that still wait to start."""
        import ray

        if not self._pending:
            return ()
        done, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        messages = [text for task in done for text in self._ended(task, study)]
        if done and self._pending and study.is_done():
            self.stop()
        return tuple(messages)

    def is_running(self) -> bool:
        """Return whether any worker is left."""
        return bool(self._pending)

    def stop(self) -> None:
        """Ask all workers to requeue their trials and exit: Ray cancels a task by a KeyboardInterrupt."""
        self._cancel(force=False)

    def kill(self) -> None:
        """Kill the workers that are left."""
        self._cancel(force=True)
        self._pending = {}

    def failure(self) -> str | None:
        """Return why the last worker ended, or None if any worker ended well."""
        if any(code == EXIT_DONE for code, _ in self._endings):
            return None
        return self._endings[-1][1] if self._endings else "none was started"

    def _ended(self, task: Any, study: StudyProgress) -> list[str]:
        import ray

        number = self._pending.pop(task)
        name = f"worker {number}"
        try:
            code, messages = ray.get(task)
        except ray.exceptions.TaskCancelledError:
            return []
        except ray.exceptions.RayError as error:
            code, messages = EXIT_FAILED, [str(error).strip().splitlines()[-1]]
        if code == EXIT_RESTART and self._submit is not None and self._crashes[number].restart(study):
            self._pending[self._submit()] = number
            return [*(f"{name}: {text}" for text in messages), f"{name} can no longer train; it is restarted"]
        self._endings.append((code, f"{name}: {messages[-1] if messages else f'ended with code {code}'}"))
        return [f"{name}: {text}" for text in messages]

    def _cancel(self, *, force: bool) -> None:
        import ray

        self._submit = None
        for task in self._pending:
            ray.cancel(task, force=force)


def work(request: str) -> tuple[int, list[str]]:
    """Run a worker as a task; return its exit code and messages."""
    messages: list[str] = []
    parsed = WorkerRequest.model_validate_json(request)
    try:
        result = run_request(parsed, Stopper(parsed.timeout), MessageCallbacks(messages.append))
        result.records.close()
        return result.outcome.exit_code, messages
    except BudgetnasError as error:
        return error.exit_code, [*messages, str(error)]
    except Interrupted as stop:
        return stop.exit_code, [*messages, *([stop.reason] if stop.reason else [])]


@contextmanager
def ray_pool(options: SearchOptions, url: URL) -> Iterator[RayPool]:
    """Connect to a cluster, or start a local cluster, and yield a pool on it.

    Raises:
        InputError: If that fails, or the storage is a file and the cluster has several machines.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = options.ray or AUTO
    try:
        import ray
    except ImportError:
        raise InputError("--ray", address, "needs the ray package", "pip install 'budgetnas[ray]'") from None
    if address != AUTO:
        _check_address(address)
    try:
        ray.init(
            address=None if address == AUTO else address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise _unreachable(address, error) from None
    try:
        check_reach(url, ray.nodes())
        yield _pool(options, ray.cluster_resources())
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Check that the port is open, because Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise InputError("--ray", address, "is not the address of a Ray cluster", "write auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError("--ray", address, f"cannot be reached ({reason})", "use auto, or the HOST:PORT of a cluster")


def check_reach(url: URL, nodes: list[dict[str, Any]]) -> None:
    """Check that every node of a cluster can reach the storage.

    Raises:
        InputError: If it is a file, and there are several machines.
    """
    machines = {(node["NodeManagerHostname"], node["NodeManagerAddress"]) for node in nodes if node["Alive"]}
    if url.get_backend_name() == "sqlite" and len(machines) > 1:
        rule = f"is a file on this machine, but the Ray cluster has {len(machines)}"
        raise InputError("--storage", masked(url), rule, "use a PostgreSQL database that all of them reach")


def _pool(options: SearchOptions, resources: dict[str, float]) -> RayPool:
    gpus = resources.get("GPU", 0.0)
    share = options.gpus_per_trial
    if share is None:
        share = 0.0 if options.device == "cpu" or not gpus else 1.0
    if share and not gpus:
        raise InputError(
            "--gpus-per-trial", share, "asks for GPUs, and the Ray cluster has none", "use 0, or add a node"
        )
    places = int(gpus / share + 1e-9) if share else int(resources.get("CPU", 1.0))
    return RayPool(options.workers or max(1, places), share, gpus)
