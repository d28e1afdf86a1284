"""The estimated time of trainings, from a few timed steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from budgetnas.runs.recording import RunImages
from budgetnas.space.candidates import Candidate
from budgetnas.training import Runtime, RuntimeConfig, RuntimeRules, Task
from budgetnas.training.measure import Pace, fastest_runtime, measure_pace
from budgetnas.training.runtime import BENCHMARK_SECONDS

START_UP_SECONDS: Final = 0.5
"""Start-up of a training on a GPU: libraries choose kernels, and steps are captured (V2 on one H200, docs/gpu.md)."""
BENCHMARK_START_UP_SECONDS: Final = 1.3
"""The same with ``cudnn.benchmark``."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Estimates the time of trainings from the measured speed of a typical network."""

    runtime: Runtime
    pace: Pace | None  # the measured speed, or None if memory ran out

    def seconds(self, macs: float, epochs: int, *, trained: int, evaluated: int, trainings: int = 1) -> float | None:
        """Return the expected time of trainings, with their start-up; None without a pace.

        Args:
            macs: Multiply-accumulates of a forward pass, per image; summed over trainings of the same length.
            epochs: Epochs of each training.
            trained: Images to train on in an epoch.
            evaluated: Images to evaluate in an epoch.
            trainings: Number of trainings.
        """
        if self.pace is None:
            return None
        steps = self.pace.seconds(macs, trained=trained * epochs, evaluated=evaluated * epochs)
        return steps + trainings * self._start_up(steps / max(1, trainings))

    def _start_up(self, seconds: float) -> float:
        """Return the start-up of a training whose steps take `seconds`."""
        if self.runtime.torch_device.type == "cpu":
            return 0.0
        return BENCHMARK_START_UP_SECONDS if seconds >= BENCHMARK_SECONDS else START_UP_SECONDS


def time_steps(candidate: Candidate, images: RunImages, runtime: Runtime) -> Timing:
    """Time a few training steps of a candidate."""
    return Timing(runtime, measure_pace(_task(candidate, images), runtime.runtime_for(candidate.architecture)))


def tuned_runtime(candidate: Candidate, images: RunImages, rules: RuntimeRules) -> RuntimeConfig:
    """Return the runtime config in which a few steps of a candidate were fastest (``--tune-setup``)."""
    return fastest_runtime(_task(candidate, images), rules.alternatives(candidate.architecture))


def _task(candidate: Candidate, images: RunImages) -> Task:
    return Task(candidate.architecture, candidate.recipe, 0, images.train, images.evaluation, images.normalisation)
