"""The weights of a record: as they were kept, or trained again from it and held against it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any, Final

from budgetnas.bundle.chosen import Chosen, Part
from budgetnas.data import Data
from budgetnas.errors import InputError
from budgetnas.experiments.published import for_channels
from budgetnas.metrics import Epoch
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages
from budgetnas.runs.reopen import all_training_images, validation_images
from budgetnas.space.recipe import Normalisation
from budgetnas.storage import Records, Run
from budgetnas.training import Callbacks, RuntimeConfig, Task, choose_runtime, train
from budgetnas.training.device import statistics, to_device
from budgetnas.training.weights import to_safetensors

_COMPARED: Final = ("train_loss", "train_accuracy", "eval_loss", "eval_accuracy")


class AgainView(Callbacks):
    """Whoever shows a training that is made again."""

    def training_again(self, run: Run, runtime: RuntimeConfig) -> None:
        """Hear that the weights of `run` were not kept, and that it is trained again."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a record.

    Attributes:
        tensors: A safetensors file.
        again: The last epoch of the training that made them again; nothing where they were kept.
        recorded: The last epoch of the record.
        runtime: Where they were made again.
    """

    tensors: bytes
    recorded: Epoch
    again: Epoch | None = None
    runtime: RuntimeConfig | None = None

    @property
    def differences(self) -> dict[str, tuple[float, float]]:
        """Figures of the last epoch that are not those of the record: the record's and ours."""
        if self.again is None:
            return {}
        pairs = {name: (getattr(self.recorded, name), getattr(self.again, name)) for name in _COMPARED}
        return {name: pair for name, pair in pairs.items() if not any(map(math.isnan, pair)) and pair[0] != pair[1]}

    @property
    def equal(self) -> bool:
        """Whether all figures that both have are the same."""
        return not self.differences

    def describe(self) -> str:
        """Return in one line where the weights come from."""
        if self.again is None:
            return "kept with the record"
        end = f"trained again from the record; the figures of its last epoch, {self.again.epoch},"
        if self.equal:
            return f"{end} are equal to the record's, to the last bit"
        told = ", ".join(
            f"{name} {was:.6g} in the record, now {now:.6g}" for name, (was, now) in self.differences.items()
        )
        return f"{end} DIFFER from the record's: {told}"

    def to_dict(self) -> dict[str, Any] | None:
        """Return plain JSON types; nothing where they were kept."""
        if self.again is None or self.runtime is None:
            return None
        figures = {
            one: {name: None if math.isnan(value := getattr(epoch, name)) else value for name in _COMPARED}
            for one, epoch in (("recorded", self.recorded), ("again", self.again))
        }
        return {"equal": self.equal, "epoch": self.again.epoch, **figures, "setup": json.loads(self.runtime.to_json())}


def weights_of(chosen: Chosen, data: Data, device: str, records: Records, stopper: Stopper, view: AgainView) -> Weights:
    """Return the weights of a record, trained again if they were not kept.

    Args:
        chosen: The record.
        data: Its data.
        device: Where to train again; ``auto``: where it was trained, if that is there.
        records: The storage.
        stopper: Notes requests to stop.
        view: Whoever shows progress.

    Raises:
        RunFailedError: If the training fails.
        Interrupted: If a stop was requested.
    """
    recorded = records.curve(chosen.run.id)[-1]
    kept = records.weights(chosen.run.id)
    if kept is not None:
        return Weights(kept, recorded)
    runtime = setup_again(chosen.run.environment, device)
    view.training_again(chosen.run, runtime)
    images = _images(chosen, data, runtime)
    run = chosen.run
    task = Task(run.architecture, run.recipe, run.seed, images.train, images.evaluation, images.normalisation)
    callbacks = _AgainCallbacks(stopper, view, runtime)
    network = train(task, runtime, callbacks)
    return Weights(to_safetensors(network), recorded, callbacks.epochs[-1], callbacks.runtime)


def setup_again(environment: str, device: str) -> RuntimeConfig:
    """Return the runtime of a record, on this machine.

    Args:
        environment: The record's, as JSON.
        device: What the user asked for; ``auto``: the record's device, if it is there.

    Raises:
        InputError: If the device asked for is not there.
    """
    recorded = RuntimeConfig.from_json(environment)
    here = _on(recorded.device if device == "auto" else device, recorded, fall_back=device == "auto")
    if here.torch_device.type != recorded.torch_device.type:
        return replace(here, micro_batch=recorded.micro_batch)
    return replace(recorded, device=here.device)


def normalisation_of(chosen: Chosen, data: Data) -> Normalisation:
    """Return the constants that a training's images were normalised with."""
    constants = chosen.run.recipe.normalisation
    return statistics(data.train) if constants is None else for_channels(constants, data.in_channels)


def _on(device: str, recorded: RuntimeConfig, *, fall_back: bool) -> RuntimeConfig:
    try:
        return choose_runtime(device, recorded.precision)
    except InputError:
        if not fall_back:
            raise
        return choose_runtime("auto", recorded.precision)


def _images(chosen: Chosen, data: Data, runtime: RuntimeConfig) -> RunImages:
    if chosen.part is Part.TRAIN:
        return validation_images(data, runtime)
    if chosen.part is Part.TRAIN_AND_VALIDATION:
        return all_training_images(data, runtime)
    fit = to_device(data.all_train, runtime.torch_device)
    return RunImages(data.identity, fit, fit.none(), normalisation_of(chosen, data))


@dataclass(slots=True)
class _AgainCallbacks(Callbacks):
    """Notes the epochs of a training that is made again, and passes them on."""

    stopper: Stopper
    view: AgainView
    runtime: RuntimeConfig
    epochs: list[Epoch] = field(default_factory=list)

    def on_step(self, epoch: int, done: int, total: int) -> None:
        self.stopper.check()
        self.view.on_step(epoch, done, total)

    def on_epoch_end(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.view.on_epoch_end(epoch)

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        self.epochs.clear()
        self.runtime = runtime
        self.view.on_restart(runtime, reason)
