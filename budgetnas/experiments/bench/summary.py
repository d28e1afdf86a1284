"""The results of a benchmark: medians, spreads and paired ratios, as plain data and in words."""

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
from budgetnas.errors import plural
from budgetnas.experiments.bench.hardware import machine
from budgetnas.experiments.bench.loops import Loop
from budgetnas.experiments.bench.protocol import REPORT_IMAGES, BenchResult, Sample, training_flops
from budgetnas.metrics import Interval, ratio_interval
from budgetnas.training.runtime import device_name


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, minimum and maximum of measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of `values`."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class LoopSummary:
    """The figures of a loop."""

    name: str  # name of the loop
    settings: str  # its settings in words
    images_per_second: Spread  # training images per second, without validation
    report_seconds: float  # seconds of 60 epochs of 50,000 images at the median rate
    # Operations per second divided by those of a matrix product, by precision of the product.
    share_of_peak: dict[str, float]
    startup_seconds: Spread  # seconds before training reaches its rate
    peak_memory: int | None  # peak memory in bytes; None if the system does not report it
    accuracies: tuple[float, ...]  # validation accuracy after the last epoch of each repeat


@dataclass(frozen=True, slots=True)
class BenchSummary:
    """The figures of all loops."""

    title: str  # network, batch and images
    loops: tuple[LoopSummary, ...]  # the reference, the tuned reference and ours
    ratios: dict[str, Interval]  # our rate divided by that of each other loop, by name
    peaks: dict[str, float]  # operations per second of a matrix product, by precision
    tried: dict[str, float]  # images per second of each setting tried for the references
    threads: int  # threads of a CPU operation in all loops
    other_load: float  # cores that other processes kept busy before the start
    where: str  # device, machine, versions and date
    command: str  # command line

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table, with a row for each figure."""
        return [
            ("images/s, median", *(f"{loop.images_per_second.median:,.1f}" for loop in self.loops)),
            ("lowest to highest", *(_range(loop.images_per_second, ",.1f") for loop in self.loops)),
            ("60 epochs of 50,000", *(f"{loop.report_seconds:,.0f} s" for loop in self.loops)),
            *(
                (f"of the {name} matrix peak", *(f"{loop.share_of_peak[name]:.1%}" for loop in self.loops))
                for name in self.peaks
            ),
            ("start-up, median", *(f"{loop.startup_seconds.median:.2f} s" for loop in self.loops)),
            ("lowest to highest", *(_range(loop.startup_seconds, ".2f") for loop in self.loops)),
            ("peak memory", *(_mebibytes(loop.peak_memory) for loop in self.loops)),
            ("accuracy, mean", *(f"{statistics.fmean(loop.accuracies):.2%}" for loop in self.loops)),
            ("standard deviation", *(f"{statistics.stdev(loop.accuracies):.2%}" for loop in self.loops)),
        ]

    def notes(self) -> list[str]:
        """Return the remaining figures in lines."""
        lines = [f"{loop.name}: {loop.settings}" for loop in self.loops]
        for name, ratio in self.ratios.items():
            lines.append(
                f"ours is {ratio.estimate:.2f} times as fast as the {name}, "
                f"95 % interval {ratio.low:.2f} to {ratio.high:.2f} ({ratio.n} pairs)"
            )
        peaks = ", ".join(f"{peak / 1e12:,.3f} TFLOP/s in {name}" for name, peak in self.peaks.items())
        lines.append(f"matrix peak: {peaks}; {plural(self.threads, 'thread')} for every loop")
        lines.extend(f"tried: {name}: {rate:,.1f} images/s" for name, rate in self.tried.items())
        lines.append(f"other processes kept {self.other_load:.2f} cores busy before the start")
        return [*lines, self.where, self.command]


def summarise(result: BenchResult, data: Data) -> BenchSummary:
    """Return the figures of a benchmark."""
    request, runtime = result.request, result.request.runtime
    rates = {loop.name: [sample.images_per_second for sample in samples] for loop, samples in result.samples.items()}
    *references, ours = rates
    counts = count(request.architecture)
    title = (
        f"{request.architecture.describe()}, {counts.params:,} parameters, batch {request.batch}; "
        f"{data.identity.name}: {result.images:,} images an epoch, {result.evaluated:,} to validate, "
        f"{request.repeats} trainings of {plural(request.epochs, 'epoch')} each"
    )
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    return BenchSummary(
        title=title,
        loops=tuple(_loop(loop, samples, result) for loop, samples in result.samples.items()),
        ratios={name: ratio_interval(rates[ours], rates[name]) for name in references},
        peaks=result.peaks,
        tried=result.tried,
        threads=runtime.threads,
        other_load=result.other_load,
        where=f"{device_name(runtime.torch_device)}; {machine()}; {versions}",
        command=shlex.join(["budgetnas", *sys.argv[1:]]),
    )


def _loop(loop: Loop, samples: Sequence[Sample], result: BenchResult) -> LoopSummary:
    rate = Spread.of([sample.images_per_second for sample in samples])
    memory = [sample.peak_memory for sample in samples if sample.peak_memory is not None]
    operations = rate.median * training_flops(result.request.architecture)
    return LoopSummary(
        name=loop.name,
        settings=loop.describe(),
        images_per_second=rate,
        report_seconds=REPORT_IMAGES / rate.median,
        share_of_peak={name: operations / peak for name, peak in result.peaks.items()},
        startup_seconds=Spread.of([sample.startup_seconds for sample in samples]),
        peak_memory=max(memory, default=None),
        accuracies=tuple(sample.accuracy for sample in samples),
    )


def _range(spread: Spread, form: str) -> str:
    return f"{spread.low:{form}} to {spread.high:{form}}"


def _mebibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:,.0f} MiB"
