"""Training speed on a CPU: one process that uses all cores, against one process for each core.

Each process trains a network on random images in memory, as the rules set it up. Processes of a pool train at the same
time, and their speeds are added. The two ways alternate.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from typing import Annotated, Final

import numpy as np
import torch
import typer

from benchmarks.options import BatchOption
from benchmarks.running import run
from benchmarks.tasks import plain_recipe
from budgetnas.architecture import count
from budgetnas.architecture.named import named
from budgetnas.data import DataRequest, load_data
from budgetnas.data.arrays import ImageArrays
from budgetnas.experiments.bench.hardware import machine
from budgetnas.experiments.bench.loops import OurLoop
from budgetnas.experiments.bench.protocol import task_with
from budgetnas.training import runtime_rules
from budgetnas.training.engine import applied

_IMAGES: Final = 2_560
_EPOCHS: Final = 10_000
_READY: Final = "ready"


def measure(
    networks: Annotated[str, typer.Option(help="Names of networks, separated by commas.")] = "resnet8,resnet20,v2",
    batch: BatchOption = 128,
    seconds: Annotated[float, typer.Option(help="Length of a timing.", min=0.1)] = 10.0,
    repeats: Annotated[int, typer.Option(help="Timings of each way.", min=1)] = 3,
    threads: Annotated[int | None, typer.Option(help="Train here with so many threads.", hidden=True)] = None,
) -> None:
    """Print images a second of both ways for each network, and how many times as fast a process on each core is."""
    names = networks.split(",")
    counts = {name: count(named(name)) for name in names}
    if threads is not None:
        _train(names[0], batch, seconds, threads)
        return
    cores = runtime_rules("cpu", "auto").cpu.threads
    typer.echo(f"batch {batch}; {machine()}; torch {torch.__version__}")
    for name in names:
        one, many = [], []
        for _ in range(repeats):
            one.append(_speed(name, batch, seconds, processes=1, threads=cores))
            many.append(_speed(name, batch, seconds, processes=cores, threads=1))
        ratios = [pool / single for single, pool in zip(one, many, strict=True)]
        typer.echo(
            f"{name}, {counts[name].macs:,} MACs: {statistics.fmean(one):,.0f} images/s in a process with {cores} "
            f"threads, {statistics.fmean(many):,.0f} in {cores} processes; ratio {statistics.fmean(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}, n = {repeats})"
        )


def _speed(name: str, batch: int, seconds: float, *, processes: int, threads: int) -> float:
    """Return the images a second of all processes together."""
    words = ["--networks", name, "--batch", str(batch), "--seconds", str(seconds), "--threads", str(threads)]
    command = [sys.executable, "-m", "benchmarks.workers", *words]
    pool = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in pool:
        assert process.stdout is not None and process.stdin is not None, "both are pipes"
        assert process.stdout.readline().strip() == _READY, f"{name} cannot be trained; see above"
    for process in pool:  # all at once, when the last is ready
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in pool)


def _train(name: str, batch: int, seconds: float, threads: int) -> None:
    """Train in this process when a line comes from standard input, and print the images a second."""
    architecture = named(name)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (_IMAGES, architecture.size, architecture.size, 3), dtype=np.uint8)
    arrays = ImageArrays(pixels, np.arange(_IMAGES) % architecture.classes)
    data = load_data(DataRequest("arrays", arrays=arrays))
    runtime = runtime_rules("cpu", "auto").with_threads(threads).runtime_for(architecture)
    recipe = plain_recipe(_EPOCHS).model_copy(update={"batch": batch})
    with applied(runtime):
        started = OurLoop(runtime).start(task_with(data, architecture, recipe, runtime))
        steps = itertools.chain.from_iterable(started.steps(epoch) for epoch in itertools.count(1))
        for _ in range(3):
            next(steps)
        print(_READY, flush=True)
        sys.stdin.readline()
        begun, trained = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            next(steps)
            trained += batch
        print(trained / (time.perf_counter() - begun))


if __name__ == "__main__":
    run(measure)
