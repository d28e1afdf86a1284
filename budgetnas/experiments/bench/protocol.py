"""The protocol of ``budgetnas bench``: tune the references, then repeat all three loops in turn."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from pydantic import ValidationError

from budgetnas.architecture import Architecture, count, count_parts
from budgetnas.data import Data
from budgetnas.data.splits import subsample_evaluation, subsample_training
from budgetnas.errors import InputError
from budgetnas.experiments.bench.hardware import PeakMemory, busy_cores, fast_precisions, matrix_peak, wait_for
from budgetnas.experiments.bench.loops import Loop, OurLoop, ReferenceLoop, Run
from budgetnas.space.recipe import Augmentation, Recipe
from budgetnas.space.specification import first_problem
from budgetnas.training import RuntimeConfig, Task
from budgetnas.training.device import Normaliser, epoch_size, statistics, to_device
from budgetnas.training.engine import applied
from budgetnas.training.evaluation import evaluate
from budgetnas.training.measure import measure_pace
from budgetnas.training.memory import free_as_usual, keep_freed_memory

REPORT_IMAGES: Final = 60 * 50_000
"""Images of a training in the source report: 60 epochs of 50,000."""
START_STEPS: Final = 5
"""Steps after which a loop has its final speed: steps are captured by then."""
_EPOCH_SECONDS: Final = 8.0
_FEWEST_STEPS: Final = 6
_CPU_EVALUATION: Final = 1_000
_TUNING_SECONDS: Final = 2.0
_TUNING_STEPS: Final = 3
_SMALL_BATCH: Final = 16

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """A requested measurement."""

    architecture: Architecture
    batch: int  # images in one optimiser step
    repeats: int  # trainings with each loop
    epochs: int  # epochs of each training, at least 2; the first is not timed
    runtime: RuntimeConfig  # runtime config of our loop; all loops use its device and threads
    seed: int = 0  # seed of the first repeat; each further repeat uses the next seed


@dataclass(frozen=True, slots=True)
class Sample:
    """A training with a loop."""

    images_per_second: float  # training images per second after the first epoch
    # Time from building the network to the end of its fifth step, minus that of five later steps.
    startup_seconds: float
    peak_memory: int | None  # peak memory in bytes; None if the system does not report it
    accuracy: float  # validation accuracy after the last epoch


@dataclass(frozen=True, slots=True)
class BenchResult:
    """A finished measurement."""

    request: BenchRequest
    images: int  # training images in an epoch
    evaluated: int  # validation images
    samples: dict[Loop, list[Sample]]  # a sample for each repeat of the reference, the tuned reference and ours
    # Images per second of each setting of the references, by name; each was timed for a few seconds.
    tried: dict[str, float]
    peaks: dict[str, float]  # operations per second of a matrix product, by precision
    other_load: float  # cores that other processes kept busy before the start


def bench(request: BenchRequest, data: Data, report: Report) -> BenchResult:
    """Measure the three loops."""
    other_load = busy_cores()
    runtime, task = request.runtime, _prepared(request, data)
    device = runtime.torch_device
    tried: dict[str, float] = {}
    with applied(runtime):
        peaks: dict[str, float] = {precision: matrix_peak(device, precision) for precision in fast_precisions(device)}
        loops: tuple[Loop, ...] = (*_tuned_references(task, runtime, tried, report), OurLoop(runtime))
        samples = _repeat(request, task, runtime, loops, report)
    return BenchResult(request, len(task.train), len(task.evaluation), samples, tried, peaks, other_load)


def training_flops(architecture: Architecture) -> int:
    """Return the operations of a training step per image, two for each multiply-accumulate.

    Forward, gradients of the weights, and gradients of the inputs except those of the stem.
    """
    return 6 * count(architecture).macs - 2 * count_parts(architecture)[0].counts.macs


def _prepared(request: BenchRequest, data: Data) -> Task:
    """Return the task; on a CPU with the images of a short epoch, unless the user named a subset."""
    task = _task(request, data)
    pace = measure_pace(task, request.runtime) if request.runtime.device == "cpu" else None
    if pace is None:
        return task
    train, validation = data.train, data.validation
    if data.identity.subset is None:
        step = pace.seconds(count(request.architecture).macs, trained=request.batch, evaluated=0)
        wanted = request.batch * max(_FEWEST_STEPS, round(_EPOCH_SECONDS / step))
        train = subsample_training(train, min(wanted, len(train)), split_seed=data.identity.split_seed)
    if data.identity.subset_eval is None:
        wanted, seed = min(_CPU_EVALUATION, len(validation)), data.identity.split_seed
        validation = subsample_evaluation(validation, wanted, split_seed=seed, split="validation")
    return _task(request, replace(data, train=train, validation=validation))


def _task(request: BenchRequest, data: Data) -> Task:
    recipe = sgd_recipe(
        request.epochs,
        learning_rate=0.1,
        weight_decay=5e-4,
        batch=request.batch,
        augmentation=Augmentation(flip=data.flip),
    )
    return task_with(data, request.architecture, recipe, request.runtime, request.seed)


def sgd_recipe(epochs: int, **fields: Any) -> Recipe:
    """Return a recipe of SGD with a cosine schedule over all epochs.

    Raises:
        InputError: If a field is invalid.
    """
    try:
        return Recipe(optimizer="sgd", epochs=epochs, t_max=epochs, **fields)
    except ValidationError as error:
        raise InputError("recipe", None, first_problem(error)) from None


def task_with(data: Data, architecture: Architecture, recipe: Recipe, runtime: RuntimeConfig, seed: int = 0) -> Task:
    """Return the training of a network on the training images of `data`, with its validation images for evaluation."""
    train, evaluation = (to_device(images, runtime.torch_device) for images in (data.train, data.validation))
    return Task(architecture, recipe, seed, train, evaluation, statistics(data.train))


def _tuned_references(task: Task, runtime: RuntimeConfig, tried: dict[str, float], report: Report) -> tuple[Loop, ...]:
    """Return both references with their fastest settings."""
    free_as_usual()
    device = runtime.torch_device
    small = replace(task, recipe=task.recipe.model_copy(update={"batch": min(_SMALL_BATCH, task.recipe.batch)}))
    by_precision = [ReferenceLoop(device, tuned=True, precision=precision) for precision in fast_precisions(device)]
    precise = small if runtime.device == "cpu" else task  # a whole batch in emulated bfloat16 takes a minute
    tuned = _fastest(by_precision, precise, tried, report)
    return tuple(
        _fastest([replace(loop, workers=workers) for workers in _worker_numbers()], task, tried, report)
        for loop in (ReferenceLoop(device), tuned)
    )


def _worker_numbers() -> list[int]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [0, *(number for number in (1, 2, 4, 8, 16, 32) if number <= cores)]


def _fastest(loops: Sequence[ReferenceLoop], task: Task, tried: dict[str, float], report: Report) -> ReferenceLoop:
    rates = {}
    for loop in loops:
        report(f"tuning the {loop.name}: {loop.describe()}")
        rates[loop] = tried[f"{loop.name}, batch {task.recipe.batch}: {loop.describe()}"] = _short_rate(loop, task)
    return max(rates, key=lambda loop: rates[loop])


def _short_rate(loop: Loop, task: Task) -> float:
    """Return images per second after the first step, measured for a few seconds."""
    run, device = loop.start(task), task.train.device
    images = min(task.recipe.batch, len(task.train))
    steps, epoch, started = 0, 1, 0.0
    while True:
        for _ in run.steps(epoch):
            steps += 1
            if steps == 1:
                wait_for(device)
                started = time.perf_counter()
            elif steps > _TUNING_STEPS and time.perf_counter() - started > _TUNING_SECONDS:
                return images * (steps - 1) / (time.perf_counter() - started)
        epoch += 1


def _repeat(
    request: BenchRequest, task: Task, runtime: RuntimeConfig, loops: Sequence[Loop], report: Report
) -> dict[Loop, list[Sample]]:
    """Return the samples of each loop; the loops take turns in being first."""
    samples: dict[Loop, list[Sample]] = {loop: [] for loop in loops}
    started, total = time.perf_counter(), request.repeats * len(loops)
    for repeat in range(request.repeats):
        seeded = replace(task, seed=request.seed + repeat)
        for turn in range(len(loops)):
            loop, done = loops[(repeat + turn) % len(loops)], repeat * len(loops) + turn
            left = f", about {(time.perf_counter() - started) / done * (total - done):.0f} s left" if done else ""
            report(f"repeat {repeat + 1}/{request.repeats}: {loop.name}{left}")
            samples[loop].append(_sample(loop, seeded, runtime))
    return samples


def _sample(loop: Loop, task: Task, runtime: RuntimeConfig) -> Sample:
    device = runtime.torch_device
    if device.type == "cpu":
        free_as_usual()
        if loop.keeps_memory:
            keep_freed_memory()
    gc.collect()
    memory = PeakMemory(device)
    memory.reset()
    started = time.perf_counter()
    run = loop.start(task)
    first_steps, until_then = _first_epoch(run, device, started)
    started = time.perf_counter()
    for epoch in range(2, task.recipe.epochs + 1):
        for _ in run.steps(epoch):
            pass
    wait_for(device)
    seconds = time.perf_counter() - started
    peak = memory.read()
    trained = (task.recipe.epochs - 1) * epoch_size(len(task.train), task.recipe.batch)
    rate = trained / seconds
    normalise = Normaliser.of(task.normalisation, device)
    classes = task.architecture.classes
    accuracy = evaluate(run.network, task.evaluation, normalise, runtime, classes=classes).accuracy
    return Sample(rate, until_then - first_steps * task.recipe.batch / rate, peak, accuracy)


def _first_epoch(run: Run, device: torch.device, started: float) -> tuple[int, float]:
    """Train the first epoch; return its steps, at most `START_STEPS`, and the time from `started` to their end."""
    steps, until_then = 0, 0.0
    for done, _ in enumerate(run.steps(1), start=1):
        if done <= START_STEPS:
            wait_for(device)
            steps, until_then = done, time.perf_counter() - started
    wait_for(device)
    return steps, until_then
