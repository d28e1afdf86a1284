"""Images per second and start-up of training steps on one device, over the settings that could matter.

Every measurement runs in a process of its own, since cuDNN remembers which kernels it chose. Images are random: no
accuracy is measured. Example: ``python -m benchmarks.gpu.step_times --out step_times.jsonl``.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from budgetnas.architecture import Architecture, named, parse_architecture
from budgetnas.space.recipe import Augmentation, Normalisation, Recipe
from budgetnas.training import RuntimeConfig, Task
from budgetnas.training.device import DeviceImages
from budgetnas.training.engine import Trainer

IMAGES = 20_000
START_STEPS = 8


@dataclass(frozen=True)
class Case:
    """One combination of settings.

    Attributes:
        arch: The network, as `network` reads it.
        batch: Images in a step.
        precision: ``bf16``, ``fp16``, ``float32`` or ``tf32``.
        layout: ``channels-last`` or ``contiguous``.
        graphs: Whether steps are captured as CUDA graphs.
        cudnn: How cuDNN chooses kernels: ``off`` (its heuristics), ``on`` (it times all), ``limit`` (it times three).
    """

    arch: str
    batch: int
    precision: str = "bf16"
    layout: str = "channels-last"
    graphs: bool = True
    cudnn: str = "on"


def cases(arch: str, batches: list[int]) -> list[Case]:
    """Return all combinations to measure."""
    chosen = [
        Case(arch, batch, graphs=graphs, cudnn=cudnn)
        for batch in batches
        for graphs in (True, False)
        for cudnn in ("on", "off", "limit")
    ]
    others = [("fp16", "channels-last"), ("bf16", "contiguous"), ("tf32", "channels-last")]
    others += [("float32", "channels-last"), ("float32", "contiguous")]
    return chosen + [Case(arch, batch, *other) for batch in batches for other in others]


def network(name: str) -> Architecture:
    """Return the network of a name, or of ``BLOCKS/WIDTHS/STEM`` such as ``3,3,3/64,128,256/64``."""
    if "/" not in name:
        return named(name)
    blocks, widths, stem = name.split("/")
    return parse_architecture(blocks, widths, stem_width=int(stem))


def measure(case: Case, device: str, steps: int, repeats: int) -> dict[str, Any]:
    """Return start-up seconds and images per second (median, lowest, highest) of `case`."""
    configure(case)
    on_gpu = device != "cpu"
    started = time.perf_counter()
    torch.zeros(1, device=device)
    context = time.perf_counter() - started
    trainer = make_trainer(case, "cuda:0" if on_gpu else "cpu")
    order = torch.arange(IMAGES)

    def run(count: int) -> float:
        _wait(on_gpu)
        before = time.perf_counter()
        for _ in trainer.steps(order[: count * case.batch]):
            pass
        _wait(on_gpu)
        return time.perf_counter() - before

    first = run(START_STEPS)
    times = [run(steps) for _ in range(repeats + 1)][1:]
    rates = sorted(steps * case.batch / seconds for seconds in times)
    startup = first - START_STEPS * statistics.median(times) / steps
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
    return asdict(case) | {
        "context_seconds": round(context, 3),
        "startup_seconds": round(startup, 3),
        "images_per_second": [round(rate) for rate in (statistics.median(rates), rates[0], rates[-1])],
        "peak_mib": peak,
        "repeats": repeats,
        "steps": steps,
    }


def configure(case: Case) -> None:
    """Apply the case's settings to PyTorch, for this process."""
    torch.backends.cudnn.benchmark = case.cudnn != "off"
    if case.cudnn == "limit":
        torch.backends.cudnn.benchmark_limit = 3
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = case.precision == "tf32"


def make_trainer(case: Case, device: str) -> Trainer:
    """Return a trainer of the case's network on random images."""
    architecture = network(case.arch)
    recipe = Recipe(
        optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, epochs=2, t_max=2, batch=case.batch,
        augmentation=Augmentation(),
    )  # fmt: skip
    shape = (IMAGES, architecture.size, architecture.size, architecture.in_channels)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    images = DeviceImages(pixels, torch.randint(0, architecture.classes, (IMAGES,), device=device))
    precision: Any = "float32" if case.precision == "tf32" else case.precision
    layout: Any = case.layout
    runtime = RuntimeConfig(device, precision, 1, graphs=case.graphs and device != "cpu", layout=layout)
    normalisation = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return Trainer(Task(architecture, recipe, 0, images, images.empty(), normalisation), runtime)


def _wait(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def _in_a_process(case: Case, device: str, steps: int, repeats: int, path: Path) -> None:
    try:
        row = measure(case, device, steps, repeats)
    except Exception as error:
        row = asdict(case) | {"error": f"{type(error).__name__}: {error}"[:400]}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def main(
    arch: Annotated[str, typer.Option(help="A named network.")] = "v2",
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "128,512",
    precisions: Annotated[str, typer.Option(help="Precisions, or all.")] = "all",
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    steps: Annotated[int, typer.Option(help="Steps in one measurement.")] = 39,
    repeats: Annotated[int, typer.Option(help="Measurements of each.")] = 5,
    out: Annotated[Path, typer.Option(help="File to add rows to.")] = Path("step_times.jsonl"),
) -> None:
    """Measure every case in turn; a case that fails leaves a row with its error."""
    fork = multiprocessing.get_context("fork")  # PyTorch is imported once; no GPU is touched before the fork
    for case in cases(arch, [int(batch) for batch in batches.split(",")]):
        if precisions != "all" and case.precision not in precisions.split(","):
            continue
        process = fork.Process(target=_in_a_process, args=(case, device, steps, repeats, out))
        process.start()
        process.join()


if __name__ == "__main__":
    typer.run(main)
