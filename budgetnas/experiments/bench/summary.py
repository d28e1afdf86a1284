"""What a benchmark of training gave: medians, spreads and paired ratios, as plain data and in words."""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torchvision

from budgetnas.architecture import count
from budgetnas.data import Data
from budgetnas.experiments.bench.machine import machine
from budgetnas.experiments.bench.protocol import REPORT_IMAGES, BenchResult, LoopResult
from budgetnas.stats import Interval, ratio_interval
from budgetnas.training.runtime import device_name


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes of some measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return those of `values`."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class LoopSummary:
    """One loop in figures.

    Attributes:
        name: Name of the loop.
        settings: How it trains.
        images_per_second: Images trained on in a second, validation apart.
        report_seconds: Seconds that 60 epochs of 50,000 images take at the median rate.
        share_of_peak: Operations per second by those of a matrix product, by precision of the product.
        startup_seconds: Seconds until training runs at its rate.
        peak_memory: Most bytes taken, if the system tells.
        accuracies: Share of correct validation answers after the last epoch, for every repeat.
    """

    name: str
    settings: str
    images_per_second: Spread
    report_seconds: float
    share_of_peak: dict[str, float]
    startup_seconds: Spread
    peak_memory: int | None
    accuracies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BenchSummary:
    """All loops in figures.

    Attributes:
        title: Network, batch and images.
        loops: The reference, the tuned reference and ours.
        ratios: How many times as fast ours is, by the other loop's name.
        peaks: Operations per second of a matrix product, by precision.
        tried: Images per second of the references' settings that were tried.
        threads: Threads of a CPU operation, of all loops.
        other_load: Cores that other processes kept busy before the start.
        where: Device, machine, versions and date.
        command: What was typed.
    """

    title: str
    loops: tuple[LoopSummary, ...]
    ratios: dict[str, Interval]
    peaks: dict[str, float]
    tried: dict[str, float]
    threads: int
    other_load: float
    where: str
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table, a row for each figure."""
        return [
            ("images/s, median", *(f"{one.images_per_second.median:,.1f}" for one in self.loops)),
            ("lowest to highest", *(_range(one.images_per_second, ",.1f") for one in self.loops)),
            ("60 epochs of 50,000", *(f"{one.report_seconds:,.0f} s" for one in self.loops)),
            *(
                (f"of the {name} matrix peak", *(f"{one.share_of_peak[name]:.1%}" for one in self.loops))
                for name in self.peaks
            ),
            ("start-up, median", *(f"{one.startup_seconds.median:.2f} s" for one in self.loops)),
            ("lowest to highest", *(_range(one.startup_seconds, ".2f") for one in self.loops)),
            ("peak memory", *(_mebibytes(one.peak_memory) for one in self.loops)),
            ("accuracy, mean", *(f"{statistics.fmean(one.accuracies):.2%}" for one in self.loops)),
            ("standard deviation", *(f"{statistics.stdev(one.accuracies):.2%}" for one in self.loops)),
        ]

    def notes(self) -> list[str]:
        """Return what else is to be said, line by line."""
        told = [f"{one.name}: {one.settings}" for one in self.loops]
        for name, ratio in self.ratios.items():
            told.append(
                f"ours is {ratio.estimate:.2f} times as fast as the {name}, "
                f"95 % interval {ratio.low:.2f} to {ratio.high:.2f} ({ratio.n} pairs)"
            )
        peaks = ", ".join(f"{peak / 1e12:,.3f} TFLOP/s in {name}" for name, peak in self.peaks.items())
        told.append(f"matrix peak: {peaks}; {self.threads} thread{'' if self.threads == 1 else 's'} for every loop")
        told.extend(f"tried: {name}: {rate:,.1f} images/s" for name, rate in self.tried.items())
        told.append(f"other processes kept {self.other_load:.2f} cores busy before the start")
        return [*told, self.where, self.command]


def summarise(result: BenchResult, data: Data) -> BenchSummary:
    """Return the figures of a benchmark."""
    request, runtime = result.request, result.runtime
    rates = {loop.name: [sample.images_per_second for sample in loop.samples] for loop in result.loops}
    *references, ours = rates
    counts = count(request.architecture)
    title = (
        f"{request.architecture.describe()}, {counts.params:,} parameters, batch {request.batch}; "
        f"{data.identity.name}: {result.images:,} images an epoch, {result.evaluated:,} to validate, "
        f"{request.repeats} trainings of {request.epochs} epochs each"
    )
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    return BenchSummary(
        title=title,
        loops=tuple(_loop(loop, result) for loop in result.loops),
        ratios={name: ratio_interval(rates[ours], rates[name]) for name in references},
        peaks=result.peaks,
        tried=result.tried,
        threads=runtime.threads,
        other_load=result.other_load,
        where=f"{device_name(runtime.torch_device)}; {machine()}; {versions}",
        command=shlex.join(["budgetnas", *sys.argv[1:]]),
    )


def _loop(loop: LoopResult, result: BenchResult) -> LoopSummary:
    rate = Spread.of([sample.images_per_second for sample in loop.samples])
    memory = [sample.peak_memory for sample in loop.samples if sample.peak_memory is not None]
    return LoopSummary(
        name=loop.name,
        settings=loop.settings,
        images_per_second=rate,
        report_seconds=REPORT_IMAGES / rate.median,
        share_of_peak={name: rate.median * result.training_flops / peak for name, peak in result.peaks.items()},
        startup_seconds=Spread.of([sample.startup_seconds for sample in loop.samples]),
        peak_memory=max(memory, default=None),
        accuracies=tuple(sample.accuracy for sample in loop.samples),
    )


def _range(spread: Spread, form: str) -> str:
    return f"{spread.low:{form}} to {spread.high:{form}}"


def _mebibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:,.0f} MiB"
