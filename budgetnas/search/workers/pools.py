"""Who trains: this process alone, processes of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from sqlalchemy.engine import URL

from budgetnas.errors import InputError
from budgetnas.search.options import SearchOptions
from budgetnas.search.workers.processes import ProcessPool
from budgetnas.search.workers.supervisor import WorkerPool
from budgetnas.training import RuntimeRules


@contextmanager
def pool_for(request: SearchOptions, url: URL, runtime: RuntimeRules) -> Iterator[WorkerPool | None]:
    """Yield the pool that a search asks for; nothing where it trains in its own process.

    Raises:
        InputError: If there cannot be such a pool here.
    """
    share = request.gpus_per_trial
    if request.ray is not None and request.per_device is not None:
        raise InputError("--per-device", request.per_device, "does not go with --ray", "use --gpus-per-trial 0.25")
    if request.ray is not None:
        from budgetnas.search.workers.cluster import ray_crew

        with ray_crew(request, url) as pool:
            yield pool
        return
    if share is not None:
        raise InputError("--gpus-per-trial", share, "goes with --ray", "on this machine use --workers and --per-device")
    yield _local_crew(request, runtime)


def _local_crew(request: SearchOptions, runtime: RuntimeRules) -> ProcessPool | None:
    on_cpu = runtime.device == "cpu"
    if on_cpu and request.per_device is not None:
        raise InputError("--per-device", request.per_device, "is for GPUs; this search runs on cpu", "use --workers")
    if on_cpu:
        workers = request.workers or 1
        return (
            None
            if workers == 1
            else ProcessPool(("cpu",) * workers, max(1, runtime.cpu.threads // workers), runtime.cpu.threads)
        )
    devices = gpu_devices(request.workers, request.per_device, gpus(request.device, runtime))
    return None if len(devices) == 1 else ProcessPool(devices, None)


def gpus(asked: str | None, runtime: RuntimeRules) -> tuple[str, ...]:
    """Return the GPUs that a search may use: the one that was named, else all of this machine."""
    if asked is not None and ":" in asked:
        return (runtime.device,)
    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))


def gpu_devices(workers: int | None, per_device: int | None, there: tuple[str, ...]) -> tuple[str, ...]:
    """Return the GPU of each worker, in turn.

    Raises:
        InputError: If there are more workers than places on GPUs.
    """
    places = len(there) * (per_device or 1)
    wanted = workers or (places if per_device else 1)
    if wanted > places:
        one = f"{len(there)} GPU{'s' if len(there) != 1 else ''}"
        raise InputError(
            "--workers",
            wanted,
            f"is more than {one} with {per_device or 1} worker{'s' if (per_device or 1) != 1 else ''} each take",
            f"use at most {places}, or --per-device {-(-wanted // len(there))}",
        )
    return tuple(there[index % len(there)] for index in range(wanted))
