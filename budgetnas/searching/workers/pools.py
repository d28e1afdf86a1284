"""Pools of workers, and which of them a search gets: none, processes of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from sqlalchemy.engine import URL

from budgetnas.errors import InputError, plural
from budgetnas.searching.options import SearchOptions
from budgetnas.training import RuntimeConfig, RuntimeRules
from budgetnas.training.gpu import MPS, GpuFacts

if TYPE_CHECKING:
    from budgetnas.searching.workers.processes import ProcessPool
    from budgetnas.searching.workers.worker import WorkerRequest

MAX_CRASHES: Final = 3
"""Crashes of a worker without a run of the study that ended in between, after which it is not restarted."""


class StudyProgress(Protocol):
    """The state of a study, as far as a pool needs it."""

    def ended(self) -> int:
        """Return the number of runs that have ended."""

    def is_done(self) -> bool:
        """Return whether the study has all of its trials."""


@dataclass(slots=True)
class Crashes:
    """The crashes of a worker since a run of the study has ended."""

    count: int = 0
    ended: int = -1  # runs that had ended at the last crash

    def restart(self, study: StudyProgress) -> bool:
        """Note a crash; return whether the worker is to be restarted."""
        ended = study.ended()
        self.count, self.ended = (1 if ended > self.ended else self.count + 1), ended
        return self.count < MAX_CRASHES


class WorkerPool(Protocol):
    """Workers, on this machine or others."""

    workers: int
    shares: int  # expected speed-up over a single worker
    threads: int | None  # threads of each on a CPU; None if the search does not decide that
    timed: bool  # whether steps timed in this process say anything about the workers

    def describe(self, runtime: RuntimeConfig) -> str:
        """Describe the workers and their devices."""

    def start(self, request: WorkerRequest) -> None:
        """Start all workers."""

    def poll(self, study: StudyProgress) -> tuple[str, ...]:
        """Restart crashed workers; return what workers wrote since the last call."""

    def is_running(self) -> bool:
        """Return whether any worker is left."""

    def stop(self) -> None:
        """Ask all workers to requeue their trials and exit."""

    def kill(self) -> None:
        """Kill the workers that are left, and wait until they are gone."""

    def failure(self) -> str | None:
        """Return why the last worker ended, or None if any worker ended well."""


@contextmanager
def pool_for(options: SearchOptions, url: URL, runtime: RuntimeRules) -> Iterator[WorkerPool | None]:
    """Yield the pool that a search asks for, or None if it trains in its own process.

    Raises:
        InputError: If this machine or cluster cannot have such a pool.
    """
    share = options.gpus_per_trial
    if options.ray is not None and options.per_device is not None:
        raise InputError("--per-device", options.per_device, "does not go with --ray", "use --gpus-per-trial 0.25")
    if options.ray is not None:
        from budgetnas.searching.workers.cluster import ray_pool

        with ray_pool(options, url) as pool:
            yield pool
        return
    if share is not None:
        raise InputError("--gpus-per-trial", share, "needs --ray", "on this machine use --workers and --per-device")
    yield _local_pool(options, runtime)


def _local_pool(options: SearchOptions, runtime: RuntimeRules) -> ProcessPool | None:
    on_cpu, per_device = runtime.device == "cpu", options.per_device
    if on_cpu and per_device is not None:
        raise InputError("--per-device", per_device, "is for GPUs; this search runs on cpu", "use --workers")
    if on_cpu:
        devices: tuple[str, ...] = ("cpu",) * (options.workers or 1)
    else:
        devices = gpu_devices(options.workers, per_device, gpus(options.device, runtime))
    if len(devices) == 1:
        return None
    from budgetnas.searching.workers.processes import ProcessPool

    threads = max(1, runtime.cpu.threads // len(devices)) if on_cpu else None
    return ProcessPool(devices, threads, runtime.cpu.threads)


def gpus(asked: str | None, runtime: RuntimeRules, facts: GpuFacts | None = None) -> tuple[str, ...]:
    """Return the GPUs that a search may use: the GPU that was asked for, else all that this torch has kernels for.

    Without `facts`, those of this machine count.
    """
    if runtime.device == "cpu":
        return ()
    if runtime.device == MPS or (asked is not None and ":" in asked):
        return (runtime.device,)
    return tuple(f"cuda:{index}" for index in (facts or GpuFacts.of_this_process()).usable())


def idle_gpus(options: SearchOptions, devices: tuple[str, ...]) -> str | None:
    """Return a sentence on GPUs that a search leaves idle although the user did not choose one, or None."""
    chosen = options.workers or options.per_device or options.ray
    if chosen is not None or len(devices) < 2:
        return None
    return f"this search uses one of {len(devices)} GPUs; --workers {len(devices)} uses all of them"


def gpu_devices(workers: int | None, per_device: int | None, devices: tuple[str, ...]) -> tuple[str, ...]:
    """Return the GPU of each worker, in turn.

    Raises:
        InputError: If there are more workers than places on GPUs.
    """
    each = per_device or 1
    places = len(devices) * each
    wanted = workers or (places if per_device else 1)
    if wanted > places:
        raise InputError(
            "--workers",
            wanted,
            f"is more than {plural(places, 'worker')}: {plural(len(devices), 'GPU')} with {each} each",
            f"use at most {places}, or --per-device {-(-wanted // len(devices))}",
        )
    return tuple(devices[index % len(devices)] for index in range(wanted))
