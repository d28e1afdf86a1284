"""How many architectures are made and counted in a second of one core's time."""

from __future__ import annotations

import random
import statistics
import time
from typing import Annotated

import typer

from benchmarks.running import run
from budgetnas.architecture import Architecture, count
from budgetnas.experiments.bench.hardware import machine
from budgetnas.space.search_space import InputShape, SearchSpace

_INPUTS = InputShape(in_channels=3, size=32, classes=10)


def measure(
    architectures: Annotated[int, typer.Option(help="Random architectures of the default space.", min=1)] = 20_000,
    repeats: Annotated[int, typer.Option(help="Measurements.", min=1)] = 5,
) -> None:
    """Count random architectures of the default space, each measurement its own."""
    rates = [_rate(architectures, seed) for seed in range(repeats)]
    typer.echo(
        f"counting {architectures:,} random architectures of the default space, made and counted, by one core's time"
    )
    typer.echo(
        f"median {statistics.median(rates):,.0f} a second, {min(rates):,.0f} to {max(rates):,.0f} (n = {repeats})"
    )
    typer.echo(machine())


def _rate(architectures: int, seed: int) -> float:
    space, generator = SearchSpace(), random.Random(seed)
    drawn = [space.architecture(space.draw(generator), _INPUTS).to_dict() for _ in range(architectures)]
    started = time.process_time()
    for one in drawn:
        count(Architecture(**one))
    return architectures / (time.process_time() - started)


if __name__ == "__main__":
    run(measure)
