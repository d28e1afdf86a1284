"""Images per second of several trainings at once on one device, each in a process of its own.

All start their epochs together and make as many as fit into the same time. Images are random: no accuracy is measured.
Example: ``python -m benchmarks.gpu.side_by_side --trainings 1,2,4,8``.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.gpu.step_times import IMAGES, START_STEPS, Case, configure, make_trainer
from budgetnas.training.engine import Trainer

_START_SECONDS = 120.0
_fork = multiprocessing.get_context("fork")  # PyTorch is imported once; no GPU is touched before the fork


def measure(case: Case, device: str, trainings: int, seconds: float) -> dict[str, Any]:
    """Return the images per second of each of several trainings, and of all together."""
    together, results = _fork.Barrier(trainings), _fork.SimpleQueue()
    arguments = (case, device, seconds, together, results)
    processes = [_fork.Process(target=_train, args=arguments) for _ in range(trainings)]
    for process in processes:
        process.start()
    rows = [results.get() for _ in processes]
    for process in processes:
        process.join()
    rates = sorted(row["images_per_second"] for row in rows)
    return {
        "arch": case.arch,
        "batch": case.batch,
        "precision": case.precision,
        "trainings": trainings,
        "images_per_second": round(sum(rates)),
        "slowest": round(rates[0]),
        "fastest": round(rates[-1]),
        "start_seconds": round(max(row["start_seconds"] for row in rows), 2),
        "peak_mib": round(max(row["peak_mib"] for row in rows)),
        "errors": [row["error"] for row in rows if row["error"]],
    }


def _train(case: Case, device: str, seconds: float, together: Barrier, results: Any) -> None:
    """Put the result of one training into `results`."""
    row: dict[str, Any] = {"images_per_second": 0.0, "start_seconds": 0.0, "peak_mib": 0.0, "error": ""}
    started = time.perf_counter()
    try:
        configure(case)
        trainer = make_trainer(case, "cuda:0" if device != "cpu" else "cpu")
        _epoch(trainer, START_STEPS * case.batch)
        row["start_seconds"] = time.perf_counter() - started
        together.wait(_START_SECONDS)
        row["images_per_second"] = _rate(trainer, seconds)
        if device != "cpu":
            row["peak_mib"] = torch.cuda.max_memory_reserved() / 2**20
    except Exception as error:
        together.abort()
        row["error"] = f"{type(error).__name__}: {error}"[:400]
    results.put(row)


def _rate(trainer: Trainer, seconds: float) -> float:
    images, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        images += _epoch(trainer, IMAGES if trainer.runtime.device != "cpu" else trainer.task.recipe.batch)
    return images / passed


def _epoch(trainer: Trainer, images: int) -> int:
    """Take steps with that many images, and wait for them."""
    for _ in trainer.steps(torch.arange(images)):
        pass
    trainer.metrics.loss.item()
    return images


def main(
    arch: Annotated[str, typer.Option(help="A network, as step_times reads it.")] = "v2",
    batch: Annotated[int, typer.Option(help="Batch size.")] = 128,
    precision: Annotated[str, typer.Option(help="Precision.")] = "bf16",
    trainings: Annotated[str, typer.Option(help="Numbers of trainings at once.")] = "1,2,4,8",
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 12.0,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    out: Annotated[Path, typer.Option(help="File to add rows to.")] = Path("side_by_side.jsonl"),
) -> None:
    """Measure each number of trainings in turn."""
    case = Case(arch, batch, precision if device != "cpu" else "float32", graphs=device != "cpu", cudnn="off")
    for number in trainings.split(","):
        text = json.dumps(measure(case, device, int(number), seconds))
        with out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        print(text, flush=True)


if __name__ == "__main__":
    typer.run(main)
