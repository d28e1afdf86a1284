"""Whether our training loop reaches the accuracy of the usual PyTorch loop: accuracies over many seeds."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from typing import Annotated

import torch
import typer

from benchmarks.options import (
    BatchOption,
    BlocksOption,
    DataDirOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    JsonFlag,
    StemWidthOption,
    SubsetEvalOption,
    SubsetOption,
    WidthsOption,
)
from benchmarks.running import run
from benchmarks.tasks import final_accuracy, network_for
from budgetnas.architecture import count
from budgetnas.data import DataRequest, load_data
from budgetnas.experiments.bench.hardware import machine
from budgetnas.experiments.bench.loops import Loop, OurLoop, ReferenceLoop
from budgetnas.experiments.bench.protocol import sgd_recipe, task_with
from budgetnas.metrics import difference_interval
from budgetnas.space.recipe import Augmentation
from budgetnas.training import runtime_rules
from budgetnas.training.engine import applied
from budgetnas.training.runtime import device_name


def measure(
    data: DataOption = "digits",
    data_dir: DataDirOption = None,
    subset: SubsetOption = None,
    subset_eval: SubsetEvalOption = None,
    blocks: BlocksOption = "1,1,1",
    widths: WidthsOption = "8,16,32",
    stem_width: StemWidthOption = 8,
    epochs: EpochsOption = 10,
    batch: BatchOption = 128,
    learning_rate: Annotated[float, typer.Option(help="Rate at the start of the cosine.")] = 0.1,
    seeds: Annotated[int, typer.Option(help="Trainings of each loop, at least 2.", min=2)] = 5,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bf16 or fp16, of our loop.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Train the same network with all loops, seed by seed, and compare the mean accuracies after the last epoch."""
    rules = runtime_rules(device, precision)
    loaded = load_data(DataRequest(name=data, data_dir=data_dir, subset=subset, subset_eval=subset_eval))
    architecture = network_for(loaded, blocks, widths, stem_width)
    runtime = rules.runtime_for(architecture)
    recipe = sgd_recipe(
        epochs,
        learning_rate=learning_rate,
        weight_decay=5e-4,
        batch=batch,
        augmentation=Augmentation(flip=loaded.flip),
    )
    task = task_with(loaded, architecture, recipe, runtime)
    tuned = ReferenceLoop(runtime.torch_device, tuned=True, precision=runtime.precision)
    loops: tuple[Loop, ...] = (ReferenceLoop(runtime.torch_device), tuned, OurLoop(runtime))
    accuracies: dict[str, list[float]] = {loop.name: [] for loop in loops}
    with applied(runtime):
        for seed in range(seeds):
            for loop in loops:
                accuracies[loop.name].append(final_accuracy(loop, replace(task, seed=seed), runtime))
                typer.echo(f"seed {seed}, {loop.name}: {accuracies[loop.name][-1]:.2%}", err=True)
    found = {
        loop.name: difference_interval(accuracies["ours"], accuracies[loop.name])
        for loop in loops
        if loop.name != "ours"
    }
    if as_json:
        typer.echo(
            json.dumps({"accuracies": accuracies, "differences": {name: asdict(one) for name, one in found.items()}})
        )
        return
    typer.echo(
        f"{architecture.describe()}, {count(architecture).params:,} parameters, {recipe.describe()}; "
        f"{loaded.identity.name}: {len(task.train):,} images to train with, {len(task.evaluation):,} to validate"
    )
    for loop in loops:
        values = accuracies[loop.name]
        mean, spread = statistics.fmean(values), statistics.stdev(values)
        typer.echo(f"{loop.name}: mean {mean:.2%}, standard deviation {spread:.2%} (n = {seeds}); {loop.describe()}")
    for name, one in found.items():
        typer.echo(
            f"ours less the {name}: {100 * one.estimate:+.2f} points, "
            f"95 % interval {100 * one.low:+.2f} to {100 * one.high:+.2f} (Welch)"
        )
    typer.echo(f"{device_name(runtime.torch_device)}; {machine()}; torch {torch.__version__}")


if __name__ == "__main__":
    run(measure)
