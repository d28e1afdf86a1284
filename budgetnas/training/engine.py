"""The training loop: a candidate, images and a seed to a trained network and its curve."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol

import torch
from torch import Tensor

from budgetnas.architecture import Architecture
from budgetnas.errors import Interrupted, RunFailedError, StateError
from budgetnas.metrics import Epoch
from budgetnas.space.recipe import Normalisation, Recipe
from budgetnas.training.augmentation import augment
from budgetnas.training.averaging import Average
from budgetnas.training.callbacks import Callbacks
from budgetnas.training.cuda_graphs import Calls, CapturedCalls, CaptureError, Place, plainly
from budgetnas.training.device import DeviceImages, Normaliser, batch_sizes, epoch_order, num_steps
from budgetnas.training.epoch_schedule import EpochSchedule
from budgetnas.training.evaluation import Evaluator, RunningMetrics, autocast, read_metrics
from budgetnas.training.mixing import Targets, mix
from budgetnas.training.network import ResNet, build
from budgetnas.training.optimizer import (
    kept_of_parameters,
    learning_rates,
    make_optimizer,
    set_learning_rate,
)
from budgetnas.training.runtime import RuntimeConfig
from budgetnas.training.state import TrainingState

SMALLEST_MICRO_BATCH: Final = 2
_OUT_OF_MEMORY: Final = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")


class Checkpointer(Protocol):
    """Whoever keeps states of a training, so that it can be stopped and gone on with. What it raises passes through."""

    def begin(self) -> Iterable[TrainingState]:
        """Return the states to go on from, newest first; may be empty. They are asked for one by one."""

    def refused(self, state: TrainingState, reason: str) -> None:
        """Hear that a state cannot be used and why; the next one is tried, then the training begins at its start."""

    def resumed(self, state: TrainingState) -> None:
        """Hear that the training goes on after the state's epoch; later ones, if there were any, are made again."""

    def epoch_ended(self, state: TrainingState) -> None:
        """Hear how things stand after an epoch whose `on_epoch_end` returned; not called after the last."""

    def interrupted(self, state: TrainingState) -> None:
        """Hear that `Interrupted` is about to leave the training, and how things stood after the last such epoch.

        Not called where there is none. The state may be the one that the training went on from.
        """

    def forget(self) -> None:
        """Hear that the training begins again in another runtime: all states kept of it are void."""


class NoCheckpoints:
    """A checkpointer that keeps nothing and has nothing; no state is made for it."""

    def begin(self) -> Iterable[TrainingState]:
        """Return none."""
        return ()

    def refused(self, state: TrainingState, reason: str) -> None:
        """Do nothing."""

    def resumed(self, state: TrainingState) -> None:
        """Do nothing."""

    def epoch_ended(self, state: TrainingState) -> None:
        """Do nothing."""

    def interrupted(self, state: TrainingState) -> None:
        """Do nothing."""

    def forget(self) -> None:
        """Do nothing."""


NO_CHECKPOINTS: Final = NoCheckpoints()


@dataclass(frozen=True, slots=True)
class Task:
    """What to train on what.

    Attributes:
        architecture: What to build.
        recipe: How to train it.
        seed: Seed of initial weights, order and augmentation.
        train: Training images.
        evaluation: Images to evaluate on after each epoch; may be empty.
        normalisation: Constants for both.
    """

    architecture: Architecture
    recipe: Recipe
    seed: int
    train: DeviceImages
    evaluation: DeviceImages
    normalisation: Normalisation


def train(
    task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer = NO_CHECKPOINTS
) -> ResNet:
    """Train `task`'s network to the end of its recipe and return it.

    On a CPU, equal task and runtime give equal bits, also where the training goes on from a state that was made in the
    same runtime. Where memory runs out the training begins again with half the micro-batch: gradients are summed over
    it, while batch normalisation then sees fewer images at a time. Where a step cannot be captured as a CUDA graph it
    begins again without. Then it begins at its first epoch, wherever it had gone on from.

    Args:
        task: What to train on what.
        runtime: Where and in which precision.
        callbacks: Hooks; they are not called for epochs done before a resumed training.
        checkpointer: Whoever has states to go on from and keeps new ones.

    Raises:
        RunFailedError: If a loss is not finite, or memory runs out with the smallest micro-batch.
    """
    resuming = True
    while True:
        try:
            with applied(runtime):
                return _train_once(task, runtime, callbacks, checkpointer, resuming)
        except CaptureError as error:
            runtime, reason = replace(runtime, graphs=False), f"no CUDA graph can be made of a step ({error})"
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            runtime = _smaller(task.recipe, runtime)
            reason = (
                f"out of memory, now {runtime.micro_batch} images at a time "
                "(gradients are summed; batch normalisation sees fewer images)"
            )
        if task.train.device.type == "cuda":
            torch.cuda.empty_cache()
        resuming = False
        checkpointer.forget()  # first: after a crash in between, nothing is left of the old runtime to go on from
        callbacks.on_restart(runtime, reason)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether PyTorch means that memory ran out, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


class Trainer:
    """A network in training: what one epoch changes.

    Within an epoch the host asks the device for nothing; it reads all figures at the end.

    Args:
        task: What to train on what.
        runtime: Where and in which precision.
    """

    def __init__(self, task: Task, runtime: RuntimeConfig) -> None:
        device = runtime.torch_device
        self.task, self.runtime = task, runtime
        self.network = build(task.architecture, seed=task.seed)
        self.network.to(device=device, memory_format=runtime.memory_format)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.network, task.recipe, device)
        self.normalise = Normaliser.of(task.normalisation, device, runtime.memory_format)
        self.generator = torch.Generator().manual_seed(task.seed)
        self.metrics = RunningMetrics(device)
        self._schedule = EpochSchedule(len(task.train), task.recipe.augmentation, device, task.recipe.batch)
        self._calls, evaluating = _calls(runtime)
        self.average = Average(self.network, task.recipe.ema_decay) if task.recipe.ema_decay else None
        self.evaluator = Evaluator(self.outcome, task.evaluation, self.normalise, runtime, evaluating)

    @property
    def outcome(self) -> ResNet:
        """The network that is evaluated and returned: the average where the recipe has one."""
        return self.network if self.average is None else self.average.network

    def epoch(self, number: int, callbacks: Callbacks) -> Epoch:
        """Train and evaluate one epoch."""
        started = time.perf_counter()
        recipe, size = self.task.recipe, len(self.task.train)
        steps = num_steps(size, recipe.batch)
        rates = learning_rates(recipe, number, steps)
        order = epoch_order(size, recipe.batch, self.generator)
        for done in self.steps(order, rates):
            callbacks.on_step(number, done, steps)
        self.evaluator.run(tick=lambda: callbacks.on_step(number, steps, steps))
        (loss, correct), (eval_loss, eval_correct) = read_metrics(self.metrics, self.evaluator.metrics)
        trained, evaluated = len(order), len(self.task.evaluation)
        return Epoch(
            epoch=number,
            train_loss=loss / trained,
            train_accuracy=correct / trained,
            eval_loss=eval_loss / evaluated if evaluated else math.nan,
            eval_accuracy=eval_correct / evaluated if evaluated else math.nan,
            learning_rate=rates[0],
            seconds=time.perf_counter() - started,
        )

    def steps(self, order: Tensor, rates: Sequence[float] = ()) -> Iterator[int]:
        """Make one optimiser step for each batch of `order`, summing up in `metrics`; yield how many were made.

        Args:
            order: (N,), int64, on the CPU: indices of images.
            rates: Learning rates of the first steps; the last of them stays. Without any, the rate stays as it is.
        """
        self.network.train()
        self.metrics.reset()
        self._schedule.begin(order, self.generator)
        for done, size in enumerate(batch_sizes(len(order), self.task.recipe.batch), start=1):
            if done <= len(rates):
                set_learning_rate(self.optimizer, rates[done - 1])
            self._calls(self._make_step, size)
            yield done

    def state(self, epoch: int) -> TrainingState:
        """Return how things stand now that `epoch` has ended, as a copy; a GPU is waited for."""
        memory = self._memory(kept_of_parameters(self.optimizer, self.task.recipe))
        return TrainingState.copied(epoch, self._training, memory)

    def restore(self, state: TrainingState) -> None:
        """Put things as they stood at the end of an epoch of this training; the next one to make is the one after it.

        Everything is copied into the memory that is there, laid out as it is.

        Raises:
            StateError: If it is no such state; nothing was changed then.
        """
        if state.training != self._training:
            raise StateError(f"it is of another training ({state.training}; this is {self._training})")
        if not 1 <= state.epoch < self.task.recipe.epochs:
            raise StateError(f"it is of epoch {state.epoch}, after which none of {self.task.recipe.epochs} is to come")
        kept = kept_of_parameters(self.optimizer, self.task.recipe)
        memory = self._memory(kept)
        state.check_fit(memory)
        try:
            self.generator.set_state(state.tensors["generator"])
        except RuntimeError as error:
            raise StateError(f"its generator is none ({error})") from error
        for name, place in memory.items():
            place.copy_(state.tensors[name])
        self.optimizer.state.update(kept)

    @property
    def _training(self) -> str:
        task = self.task
        return f"architecture {task.architecture.digest}, recipe {task.recipe.digest}, seed {task.seed}"

    def _memory(self, kept: Mapping[Tensor, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return by name all that an epoch changes and the next one reads; a generator only gives a copy of its own.

        Args:
            kept: What the optimiser keeps of each parameter.
        """
        memory = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            memory |= {f"optimizer.{name}.{what}": tensor for what, tensor in kept[parameter].items()}
        if self.average is not None:
            memory |= {f"average.{name}": tensor for name, tensor in self.average.memory.items()}
        return memory | {"generator": self.generator.get_state()}

    def _make_step(self, size: int) -> None:
        indices, draws = self._schedule.next(size)
        batch = self.task.train.take(indices)
        images = augment(batch.images, self.task.recipe.augmentation, draws, self.normalise.mean_color)
        targets = Targets(batch.labels)
        if (mixing := self._schedule.next_mixing()) is not None:
            images, targets = mix(images, batch.labels, mixing)
        pieces = _pieces(size, self.runtime.micro_batch or size)
        self.optimizer.zero_grad(set_to_none=True)
        for some, targeted in zip(images.tensor_split(pieces), targets.split(pieces), strict=True):
            with autocast(self.runtime):
                logits = self.network(self.normalise(some))
            loss = targeted.loss(logits, self.task.recipe.label_smoothing)
            (loss / size).backward()  # type: ignore[no-untyped-call]
            self.metrics.add(loss.detach(), logits.detach(), targeted.main_labels)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()


def _calls(runtime: RuntimeConfig) -> tuple[Calls, Calls]:
    """Return how steps are made, and how batches are evaluated."""
    if not runtime.graphs:
        return plainly, plainly
    place = Place.on(runtime.torch_device)
    return CapturedCalls(place), CapturedCalls(place)


def _train_once(
    task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer, resuming: bool
) -> ResNet:
    trainer = Trainer(task, runtime)
    last = _resume(trainer, checkpointer) if resuming else None
    keeping = not isinstance(checkpointer, NoCheckpoints)
    try:
        for number in range(last.epoch + 1 if last else 1, task.recipe.epochs + 1):
            epoch = trainer.epoch(number, callbacks)
            _check_finite(epoch, task)
            callbacks.on_epoch_end(epoch)
            if keeping and number < task.recipe.epochs:
                last = trainer.state(number)
                checkpointer.epoch_ended(last)
    except Interrupted:
        if last is not None:
            checkpointer.interrupted(last)
        raise
    return trainer.outcome


def _resume(trainer: Trainer, checkpointer: Checkpointer) -> TrainingState | None:
    """Restore the newest state that fits, if there is one, and return it."""
    for state in checkpointer.begin():
        try:
            trainer.restore(state)
        except StateError as error:
            checkpointer.refused(state, error.reason)
        else:
            checkpointer.resumed(state)
            return state
    return None


def _check_finite(epoch: Epoch, task: Task) -> None:
    losses = [("training", epoch.train_loss), *([("evaluation", epoch.eval_loss)] if len(task.evaluation) else [])]
    for name, loss in losses:
        if not math.isfinite(loss):
            raise RunFailedError(f"the {name} loss is {loss} in epoch {epoch.epoch} ({task.recipe.describe()})")


def _pieces(images: int, micro: int) -> int:
    """Return into how many nearly equal pieces a batch is split: never a single image, which has no variance."""
    return max(1, min(math.ceil(images / micro), images // 2))


def _smaller(recipe: Recipe, runtime: RuntimeConfig) -> RuntimeConfig:
    micro = runtime.micro_batch or recipe.batch
    if micro <= SMALLEST_MICRO_BATCH:
        raise RunFailedError(f"out of memory on {runtime.device}, even with {micro} images at a time")
    return runtime.with_micro_batch(max(SMALLEST_MICRO_BATCH, micro // 2))


@contextmanager
def applied(runtime: RuntimeConfig) -> Iterator[None]:
    """Apply the settings of `runtime` that PyTorch keeps for the whole process, and restore them on exit."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.benchmark = runtime.benchmark
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark
