"""Task and final accuracy of the benchmarks."""

from __future__ import annotations

from budgetnas.architecture import Architecture, parse_architecture
from budgetnas.data import Data
from budgetnas.experiments.bench.loops import Loop
from budgetnas.training import RuntimeConfig, Task
from budgetnas.training.device import Normaliser
from budgetnas.training.evaluation import evaluate


def network_for(data: Data, blocks: str, widths: str, stem_width: int, *, se: bool = False) -> Architecture:
    """Return the described network for images and classes of `data`."""
    return parse_architecture(
        blocks,
        widths,
        stem_width=stem_width,
        se=se,
        in_channels=data.in_channels,
        size=data.resolution,
        classes=len(data.classes),
    )


def final_accuracy(loop: Loop, task: Task, runtime: RuntimeConfig) -> float:
    """Train with `loop`; return the validation accuracy after the last epoch."""
    run = loop.start(task)
    for epoch in range(1, task.recipe.epochs + 1):
        for _ in run.steps(epoch):
            pass
    normalise, classes = Normaliser.of(task.normalisation, runtime.torch_device), task.architecture.classes
    return evaluate(run.network, task.evaluation, normalise, runtime, classes=classes).accuracy
