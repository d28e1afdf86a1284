"""Whether the fast way of training learns what the loop everybody copies learns: accuracies over many seeds."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from budgetnas.architecture import Architecture, count, default_strides
from budgetnas.benchmarks.machine import machine
from budgetnas.benchmarks.training.loops import Loop, OurLoop, ReferenceLoop
from budgetnas.data import DataRequest, load_data
from budgetnas.data.device import Normaliser, to_device
from budgetnas.data.device import statistics as normalisation_of
from budgetnas.intervals import difference_interval
from budgetnas.recipe import Augmentation, Recipe
from budgetnas.train import Setup, Task, choose_setup
from budgetnas.train.engine import threads
from budgetnas.train.evaluation import evaluate
from budgetnas.train.setup import device_name


def measure(
    data: Annotated[str, typer.Option(help="cifar10, ... or folder:DIR.", envvar="BUDGETNAS_DATA")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="Where archives lie.", envvar="BUDGETNAS_DATA_DIR")] = None,
    subset: Annotated[int | None, typer.Option(help="Training images, stratified.", show_default="all")] = None,
    subset_eval: Annotated[int | None, typer.Option(help="Validation images.", show_default="all")] = None,
    blocks: Annotated[str, typer.Option(help="Blocks of each stage.")] = "1,1,1",
    widths: Annotated[str, typer.Option(help="Width of each stage.")] = "8,16,32",
    stem_width: Annotated[int, typer.Option(help="Channels of the stem.")] = 8,
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 10,
    batch: Annotated[int, typer.Option(help="Images in one optimiser step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Rate at the start of the cosine.")] = 0.1,
    seeds: Annotated[int, typer.Option(help="Trainings of each loop.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bf16; of ours.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value.")] = False,
) -> None:
    """Train the same network with all loops, seed by seed, and compare the mean accuracies after the last epoch."""
    setup = choose_setup(device, precision)
    loaded = load_data(DataRequest(name=data, data_dir=data_dir, subset=subset, subset_eval=subset_eval))
    stages = tuple(int(one) for one in blocks.split(","))
    architecture = Architecture(
        stages,
        tuple(int(one) for one in widths.split(",")),
        default_strides(len(stages)),
        stem_width=stem_width,
        in_channels=loaded.in_channels,
        size=loaded.resolution,
        classes=len(loaded.classes),
    )
    recipe = Recipe(
        optimizer="sgd",
        learning_rate=learning_rate,
        weight_decay=5e-4,
        epochs=epochs,
        t_max=epochs,
        batch=batch,
        augmentation=Augmentation(flip=loaded.flip),
    )
    fit, evaluation = (to_device(images, setup.torch_device) for images in (loaded.train, loaded.validation))
    task = Task(architecture, recipe, 0, fit, evaluation, normalisation_of(loaded.train))
    tuned = ReferenceLoop(setup.torch_device, tuned=True, precision=setup.precision)
    loops: tuple[Loop, ...] = (ReferenceLoop(setup.torch_device), tuned, OurLoop(setup))
    accuracies: dict[str, list[float]] = {loop.name: [] for loop in loops}
    with threads(setup.threads):
        for seed in range(seeds):
            for loop in loops:
                accuracies[loop.name].append(_accuracy(loop, replace(task, seed=seed), setup))
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
        f"{loaded.identity.name}: {len(fit):,} images to train with, {len(evaluation):,} to validate"
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
    typer.echo(f"{device_name(setup.torch_device)}; {machine()}; torch {torch.__version__}")


def _accuracy(loop: Loop, task: Task, setup: Setup) -> float:
    run = loop.start(task)
    for epoch in range(1, task.recipe.epochs + 1):
        for _ in run.steps(epoch):
            pass
    normalise = Normaliser.of(task.normalisation, setup.torch_device)
    return evaluate(run.network, task.evaluation, normalise, setup)[1]


if __name__ == "__main__":
    typer.run(measure)
