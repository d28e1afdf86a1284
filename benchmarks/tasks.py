"""Networks, recipes and final accuracy of the benchmarks."""

from __future__ import annotations

from budgetnas.architecture import Architecture, parse_architecture
from budgetnas.data import Data
from budgetnas.experiments.bench.loops import Loop
from budgetnas.space.recipe import Augmentation, Recipe, RecipeSpace
from budgetnas.space.strong import FEWEST_PARAMS, STRONG, final_recipe
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


def plain_recipe(epochs: int, *, resolution: int = 32, flip: bool = True) -> Recipe:
    """Return the default of a search's first trial: Nesterov's SGD, a cosine set every epoch, crop and flip."""
    return Recipe(
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=5e-4,
        nesterov=True,
        epochs=epochs,
        t_max=epochs,
        augmentation=Augmentation(crop_padding=resolution // 8, flip=flip),
    )


def strong_recipe(epochs: int, *, resolution: int = 32, flip: bool = True) -> Recipe:
    """Return the recipe of a final with strong augmentation, whatever the number of epochs."""
    augmentation = Augmentation(crop_padding=resolution // 8, flip=flip, **STRONG)
    return final_recipe(RecipeSpace(augmentation=augmentation), epochs, FEWEST_PARAMS)
