"""The weights of a recorded run: as stored, or from a retraining, which is compared with the record."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any, Final

from budgetnas.architecture import Architecture
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
from budgetnas.training import Callbacks, RuntimeConfig, RuntimeRules, Task, runtime_rules, train
from budgetnas.training.device import statistics, to_device
from budgetnas.training.runtime import device_name
from budgetnas.training.weights import to_safetensors

_COMPARED: Final = ("train_loss", "train_accuracy", "eval_loss", "eval_accuracy")


class ExportCallbacks(Callbacks):
    """Hooks of an export."""

    def on_retraining(self, run: Run, runtime: RuntimeConfig) -> None:
        """Called before `run` is retrained because its weights were not stored."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a record."""

    tensors: bytes  # a safetensors file
    recorded: Epoch  # the last epoch of the record
    again: Epoch | None = None  # the last epoch of the retraining, or None if the weights were stored
    runtime: RuntimeConfig | None = None  # runtime of the retraining, or None

    @property
    def differences(self) -> dict[str, tuple[float, float]]:
        """Figures of the last epoch that differ: the record's and those of the retraining."""
        if self.again is None:
            return {}
        pairs = {name: (getattr(self.recorded, name), getattr(self.again, name)) for name in _COMPARED}
        return {name: pair for name, pair in pairs.items() if not any(map(math.isnan, pair)) and pair[0] != pair[1]}

    @property
    def equal(self) -> bool:
        """Whether no figure differs."""
        return not self.differences

    def describe(self) -> str:
        """Return the origin of the weights as a line."""
        if self.again is None:
            return "stored with the record"
        text = f"retrained from the record; the figures of its last epoch, {self.again.epoch},"
        if self.equal:
            return f"{text} equal the record's bit for bit"
        figures = (f"{name} {was:.6g} in the record, now {now:.6g}" for name, (was, now) in self.differences.items())
        return f"{text} DIFFER from the record's: {', '.join(figures)}"

    def to_dict(self) -> dict[str, Any] | None:
        """Return plain JSON types; None if the weights were stored."""
        if self.again is None or self.runtime is None:
            return None
        figures = {
            source: {name: None if math.isnan(value := getattr(epoch, name)) else value for name in _COMPARED}
            for source, epoch in (("recorded", self.recorded), ("again", self.again))
        }
        return {"equal": self.equal, "epoch": self.again.epoch, **figures, "setup": json.loads(self.runtime.to_json())}


def weights_of(
    chosen: Chosen, data: Data, device: str, records: Records, stopper: Stopper, callbacks: ExportCallbacks
) -> Weights:
    """Return the weights of a record, retrained if they were not stored.

    Raises:
        RunFailedError: If the retraining fails.
        Interrupted: If a stop was requested.
    """
    recorded = records.curve(chosen.run.id)[-1]
    stored = records.weights(chosen.run.id)
    if stored is not None:
        return Weights(stored, recorded)
    runtime = recorded_runtime(chosen.run.environment, device, chosen.run.architecture)
    precision = RuntimeConfig.from_json(chosen.run.environment).precision
    if runtime.precision != precision:
        where = device_name(runtime.torch_device)
        callbacks.on_message(f"the run was trained in {precision}, which {where} lacks; it is retrained in float32")
    callbacks.on_retraining(chosen.run, runtime)
    images = _images(chosen, data, runtime)
    run = chosen.run
    task = Task(run.architecture, run.recipe, run.seed, images.train, images.evaluation, images.normalisation)
    retrained = _Callbacks(stopper, callbacks, runtime)
    network = train(task, runtime, retrained)
    return Weights(to_safetensors(network), recorded, retrained.epochs[-1], retrained.runtime)


def recorded_runtime(environment: str, device: str, architecture: Architecture) -> RuntimeConfig:
    """Return the runtime of a record on this machine, from its `environment`, which is JSON.

    Another device that lacks the record's precision takes float32: emulated, the precision would be many times slower,
    and the bits would differ as well. With ``auto`` the device is the record's if that is available.

    Raises:
        InputError: If the requested device is not available.
    """
    recorded = RuntimeConfig.from_json(environment)
    here = _on(recorded.device if device == "auto" else device, fall_back=device == "auto")
    if json.loads(environment).get("device_name") == device_name(here.torch_device):
        return replace(recorded, device=here.device, graphs=recorded.graphs and here.graphs)
    precision = recorded.precision if here.computes_in(recorded.precision) else "float32"
    base = here.runtime_for(architecture)
    if here.torch_device.type == recorded.torch_device.type:
        base = replace(recorded, device=here.device, graphs=recorded.graphs and here.graphs)
    return replace(base, precision=precision, micro_batch=recorded.micro_batch)


def normalisation_of(chosen: Chosen, data: Data) -> Normalisation:
    """Return the normalisation constants of a run."""
    constants = chosen.run.recipe.normalisation
    return statistics(data.train) if constants is None else for_channels(constants, data.in_channels)


def _on(device: str, *, fall_back: bool) -> RuntimeRules:
    try:
        return runtime_rules(device)
    except InputError:
        if not fall_back:
            raise
        return runtime_rules("auto")


def _images(chosen: Chosen, data: Data, runtime: RuntimeConfig) -> RunImages:
    if chosen.part is Part.TRAIN:
        return validation_images(data, runtime)
    if chosen.part is Part.TRAIN_AND_VALIDATION:
        return all_training_images(data, runtime)
    fit = to_device(data.all_train, runtime.torch_device)
    return RunImages(data.identity, fit, fit.empty(), normalisation_of(chosen, data))


@dataclass(slots=True)
class _Callbacks(Callbacks):
    """Keeps the epochs of a retraining and forwards them."""

    stopper: Stopper
    callbacks: ExportCallbacks
    runtime: RuntimeConfig
    epochs: list[Epoch] = field(default_factory=list)

    def on_step(self, epoch: int, done: int, total: int) -> None:
        self.stopper.check()
        self.callbacks.on_step(epoch, done, total)

    def on_epoch_end(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.callbacks.on_epoch_end(epoch)

    def on_restart(self, runtime: RuntimeConfig, reason: str) -> None:
        self.epochs.clear()
        self.runtime = runtime
        self.callbacks.on_restart(runtime, reason)
