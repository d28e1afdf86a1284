"""A long training of one network with a named recipe, epoch by epoch into a CSV file; validation images only.

Example: ``python -m benchmarks.long_training --data cifar10 --recipe strong --epochs 100 --out strong.csv``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks import trainings
from benchmarks.options import (
    BlocksOption,
    DataDirOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    PrecisionOption,
    SeOption,
    StemWidthOption,
    SubsetEvalOption,
    SubsetOption,
    WidthsOption,
)
from benchmarks.running import run
from benchmarks.tasks import network_for, plain_recipe, strong_recipe
from budgetnas.architecture import count
from budgetnas.data import Data, DataRequest, load_data
from budgetnas.errors import InputError
from budgetnas.experiments.bench.protocol import task_with
from budgetnas.metrics import Epoch
from budgetnas.space.recipe import Augmentation, Recipe, RecipeSpace
from budgetnas.space.strong import final_recipe
from budgetnas.training import RuntimeConfig, Task, runtime_rules, train
from budgetnas.training.callbacks import Callbacks
from budgetnas.training.runtime import device_name

RECIPES: Final = ("plain", "strong", "final")
COLUMNS: Final = (
    "network",
    "params",
    "recipe",
    "seed",
    "epochs",
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "learning_rate",
    "seconds",
)
_PACE_EPOCHS: Final = 3
_MARGIN: Final = 0.97


class OutOfTimeError(Exception):
    """The training would not end within its time limit.

    Attributes:
        epochs: Epochs that would, or 0 if the time is up.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs)
        self.epochs = epochs


@dataclass
class Curve(Callbacks):
    """Writes every epoch of a training to a CSV file, and watches the clock.

    Attributes:
        out: File to add rows to; its first row names the columns.
        fixed: Values of the first columns, the same for all epochs.
        epochs: Epochs of the training.
        end: When the training must have ended, on the clock of ``time.perf_counter``; None for no limit.
        rows: The epochs so far.
    """

    out: Path
    fixed: tuple[Any, ...]
    epochs: int
    end: float | None
    rows: list[Epoch] = field(default_factory=list)

    def on_step(self, epoch: int, done: int, total: int) -> None:
        """End the training when its time is up."""
        if self.end is not None and time.perf_counter() > self.end:
            raise OutOfTimeError(0)

    def on_epoch_end(self, epoch: Epoch) -> None:
        """Write a row; after a few epochs, end the training if it is too slow for its limit."""
        self.rows.append(epoch)
        trainings.add(self.out, COLUMNS, (*self.fixed, self.epochs, *self._values(epoch)))
        if epoch.epoch % max(1, self.epochs // 10) == 0 or epoch.epoch == 1:
            typer.echo(
                f"epoch {epoch.epoch}/{self.epochs}: training loss {epoch.train_loss:.4f}, "
                f"validation {epoch.eval_accuracy:.2%}, {epoch.seconds:.2f} s"
            )
        if epoch.epoch == _PACE_EPOCHS:
            self._check_pace()

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        """Report a restart."""
        typer.echo(f"restart: {reason}")
        self.rows.clear()

    def _values(self, epoch: Epoch) -> tuple[Any, ...]:
        return (
            epoch.epoch,
            f"{epoch.train_loss:.6f}",
            f"{epoch.train_accuracy:.6f}",
            f"{epoch.eval_loss:.6f}",
            f"{epoch.eval_accuracy:.6f}",
            f"{epoch.learning_rate:.6g}",
            f"{epoch.seconds:.3f}",
        )

    def _check_pace(self) -> None:
        if self.end is None:
            return
        left = self.end - time.perf_counter()
        if self.rows[-1].seconds * (self.epochs - _PACE_EPOCHS) > left:
            raise OutOfTimeError(max(_PACE_EPOCHS, int(_MARGIN * left / self.rows[-1].seconds)))


def make_recipe(
    name: str, data: Data, epochs: int, params: int, learning_rate: float | None, weight_decay: float | None
) -> Recipe:
    """Return a named recipe for these data, some of its values replaced; ``final`` is scaled to the network."""
    match name:
        case "plain":
            recipe = plain_recipe(epochs, resolution=data.resolution, flip=data.flip)
        case "strong":
            recipe = strong_recipe(epochs, resolution=data.resolution, flip=data.flip)
        case "final":
            augmentation = Augmentation(crop_padding=data.resolution // 8, flip=data.flip)
            recipe = final_recipe(RecipeSpace(augmentation=augmentation), epochs, params)
        case _:
            raise InputError("--recipe", name, f"must be one of {', '.join(RECIPES)}")
    changes = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    return recipe.model_copy(update={name: value for name, value in changes.items() if value is not None})


def measure(
    data: DataOption = "cifar10",
    data_dir: DataDirOption = None,
    subset: SubsetOption = None,
    subset_eval: SubsetEvalOption = None,
    blocks: BlocksOption = "3,3,3",
    widths: WidthsOption = "64,128,256",
    stem_width: StemWidthOption = 64,
    se: SeOption = False,
    recipe: Annotated[str, typer.Option(help="plain, strong or final.")] = "strong",
    epochs: EpochsOption = 100,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest rate.", show_default="the recipe's", min=1e-6, max=100)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Weight decay.", show_default="the recipe's", min=0, max=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Training seed.", min=0)] = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds; a training too slow for it begins again with fewer epochs.", show_default="none"),
    ] = None,
    out: Annotated[Path, typer.Option(help="CSV file to add the epochs to.")] = Path("long_training.csv"),
) -> None:
    """Train one network on all training images but those of the validation split, and evaluate every epoch on that."""
    end = None if time_limit is None else time.perf_counter() + time_limit
    rules = runtime_rules(device, precision)
    loaded = load_data(DataRequest(name=data, data_dir=data_dir, subset=subset, subset_eval=subset_eval))
    architecture = network_for(loaded, blocks, widths, stem_width, se=se)
    params = count(architecture).params
    runtime = rules.runtime_for(architecture, images=epochs * len(loaded.train.labels))
    chosen = make_recipe(recipe, loaded, epochs, params, learning_rate, weight_decay)
    task = task_with(loaded, architecture, chosen, runtime, seed)
    typer.echo(
        f"{architecture.describe()}, {params:,} parameters; {loaded.identity.name}: {len(task.train):,} images to "
        f"train with, {len(task.evaluation):,} to validate; {device_name(runtime.torch_device)}, {runtime.precision}, "
        f"CUDA graphs {'on' if runtime.graphs else 'off'}, torch {torch.__version__}"
    )
    while True:
        typer.echo(f"{recipe}: {task.recipe.describe()}")
        curve = Curve(out, (architecture.describe(), params, recipe, seed), task.recipe.epochs, end)
        try:
            train(task, runtime, curve)
        except OutOfTimeError as error:
            if not error.epochs or error.epochs >= task.recipe.epochs:
                typer.echo("stopped: the time limit is reached")
                break
            typer.echo(f"too slow for the time limit: begins again with {error.epochs} epochs")
            changed = make_recipe(recipe, loaded, error.epochs, params, learning_rate, weight_decay)
            task = Task(architecture, changed, seed, task.train, task.evaluation, task.normalisation)
        else:
            break
    typer.echo(summary(curve, len(task.train)))


def summary(curve: Curve, images: int) -> str:
    """Return what came of a training in one line, also of one that was stopped."""
    if not curve.rows:
        return "no epoch was finished"
    last, best = curve.rows[-1], max(curve.rows, key=lambda epoch: epoch.eval_accuracy)
    seconds = [epoch.seconds for epoch in curve.rows[1:] or curve.rows]
    return (
        f"after {last.epoch} of {curve.epochs} epochs: validation {last.eval_accuracy:.2%} (highest "
        f"{best.eval_accuracy:.2%} in epoch {best.epoch}); {images * len(seconds) / sum(seconds):,.0f} training images "
        f"a second, evaluation included; {sum(epoch.seconds for epoch in curve.rows):.1f} s"
    )


if __name__ == "__main__":
    run(measure)
