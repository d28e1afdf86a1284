"""Workers as tasks of a Ray cluster: what trains does not know about it, and leases mend what a node takes down.

Ray is imported when a cluster is asked for, and only here.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy.engine import URL

from budgetnas.errors import EXIT_DONE, EXIT_FAILED, BudgetnasError, InputError, Interrupted
from budgetnas.runs.interrupts import Stopper
from budgetnas.search.options import SearchOptions
from budgetnas.search.view import Notices
from budgetnas.search.workers.supervisor import Progress
from budgetnas.search.workers.worker import WorkerRequest, run_worker
from budgetnas.storage.urls import masked
from budgetnas.training import RuntimeConfig

AUTO: Final = "auto"
_CONNECT_SECONDS: Final = 10.0


class RayPool:
    """Workers as Ray tasks: on a node that is lost they are started again elsewhere.

    Args:
        workers: How many.
        gpus_per_trial: The share of a GPU that each takes; 0: they train on CPUs.
        gpus: GPUs of the cluster.
    """

    def __init__(self, workers: int, gpus_per_trial: float, gpus: float) -> None:
        on_gpus = gpus_per_trial > 0
        self.workers = workers
        self.shares = max(1, min(workers, int(gpus))) if on_gpus else workers
        self.threads = None if on_gpus else 1
        self.timed = not on_gpus  # the cluster's GPUs may be others than this machine's
        self._gpus_per_trial = gpus_per_trial
        self._pending: dict[Any, int] = {}
        self._ways: list[tuple[int, str]] = []

    def describe(self, runtime: RuntimeConfig) -> str:
        """Return who trains, and where, in words."""
        if self._gpus_per_trial:
            return f"{self.workers} Ray tasks with {self._gpus_per_trial:g} GPU each"
        return f"{self.workers} Ray tasks on cpu (threads: {runtime.threads} each), {runtime.precision}"

    def begin(self, request: WorkerRequest) -> None:
        """Start all."""
        import ray

        where = {"device": "cuda" if self._gpus_per_trial else "cpu"}
        told = request.model_copy(update=where).model_dump_json()
        task = ray.remote(max_retries=-1, num_cpus=1, num_gpus=self._gpus_per_trial)(work)
        self._pending = {task.remote(told): number for number in range(1, self.workers + 1)}

    def tend(self, study: Progress) -> tuple[str, ...]:
        """See to them: return what those said that ended. When all is done, none need wait for its place any more."""
        import ray

        if not self._pending:
            return ()
        done, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        said = [text for one in done for text in self._ended(one)]
        if done and self._pending and study.is_done():
            self.stop()
        return tuple(said)

    def at_work(self) -> bool:
        """Return whether any is left."""
        return bool(self._pending)

    def stop(self) -> None:
        """Ask all to put their trials back and to end: Ray's cancelling is a Ctrl-C to a task."""
        self._cancel(force=False)

    def kill(self) -> None:
        """End at once whatever is left."""
        self._cancel(force=True)
        self._pending = {}

    def outcome(self) -> str | None:
        """Return why the last of them ended; nothing if one of them ended well."""
        if any(code == EXIT_DONE for code, _ in self._ways):
            return None
        return self._ways[-1][1] if self._ways else "none was started"

    def _ended(self, task: Any) -> list[str]:
        import ray

        name = f"worker {self._pending.pop(task)}"
        try:
            code, said = ray.get(task)
        except ray.exceptions.TaskCancelledError:
            return []
        except ray.exceptions.RayError as error:
            code, said = EXIT_FAILED, [str(error).strip().splitlines()[-1]]
        self._ways.append((code, f"{name}: {said[-1] if said else f'ended with code {code}'}"))
        return [f"{name}: {text}" for text in said]

    def _cancel(self, *, force: bool) -> None:
        import ray

        for task in self._pending:
            ray.cancel(task, force=force)


def work(request: str) -> tuple[int, list[str]]:
    """Be a worker, as a task; return the exit code and what the search should hear."""
    said: list[str] = []
    told = WorkerRequest.model_validate_json(request)
    try:
        result = run_worker(told, Stopper(told.timeout), Notices(said.append))
        result.records.close()
        return result.outcome.exit_code, said
    except BudgetnasError as error:
        return error.exit_code, [*said, str(error)]
    except Interrupted as stop:
        return stop.exit_code, said


@contextmanager
def ray_crew(request: SearchOptions, url: URL) -> Iterator[RayPool]:
    """Connect to a cluster, or start one on this machine, and yield a pool on it.

    Raises:
        InputError: If that cannot be, or the storage is a file that not all of its nodes have.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = request.ray or AUTO
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
        yield _crew(request, ray.cluster_resources())
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Check that somebody listens there; Ray itself asks for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise InputError("--ray", address, "is no address of a Ray cluster", "write auto or HOST:PORT")
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
    machines = {(one["NodeManagerHostname"], one["NodeManagerAddress"]) for one in nodes if one["Alive"]}
    if url.get_backend_name() == "sqlite" and len(machines) > 1:
        rule = f"is a file of one machine, and the Ray cluster has {len(machines)}"
        raise InputError("--storage", masked(url), rule, "use a PostgreSQL database that all of them reach")


def _crew(request: SearchOptions, resources: dict[str, float]) -> RayPool:
    gpus = resources.get("GPU", 0.0)
    share = request.gpus_per_trial
    if share is None:
        share = 0.0 if request.device == "cpu" or not gpus else 1.0
    if share and not gpus:
        raise InputError(
            "--gpus-per-trial", share, "asks for GPUs, and the Ray cluster has none", "use 0, or add a node"
        )
    places = int(gpus / share + 1e-9) if share else int(resources.get("CPU", 1.0))
    return RayPool(request.workers or max(1, places), share, gpus)
