"""The training loop: from a candidate, images and a seed to a trained network and its curve."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor

from budgetnas.architecture import Architecture
from budgetnas.errors import Interrupted, RestartNeeded, RunFailedError, StateError
from budgetnas.metrics import Epoch, balanced_accuracy
from budgetnas.space.recipe import Normalisation, Recipe
from budgetnas.training.augmentation import augment
from budgetnas.training.averaging import Average
from budgetnas.training.callbacks import NO_CHECKPOINTS, Callbacks, Checkpointer
from budgetnas.training.capture_probe import remember_problem
from budgetnas.training.cuda_graphs import CapturedCalls, CaptureError, Place
from budgetnas.training.device import DeviceImages, Normaliser, batch_sizes, epoch_order, num_steps
from budgetnas.training.epoch_schedule import EpochSchedule
from budgetnas.training.evaluation import Evaluator, RunningMetrics, autocast, balanced_weights, read_metrics
from budgetnas.training.failures import first_line, is_device_lost, is_out_of_memory
from budgetnas.training.memory import free_cached_memory
from budgetnas.training.mixing import Targets, mix
from budgetnas.training.network import ResNet, build
from budgetnas.training.optimizer import learning_rates, make_optimizer, parameter_state, set_learning_rate
from budgetnas.training.runtime import RuntimeConfig
from budgetnas.training.state import TrainingState
from budgetnas.training.updates import INITIAL_LOSS_SCALE, ScaledUpdates, Updates

SMALLEST_MICRO_BATCH: Final = 2
_NO_CAPTURE: Final = "a step cannot be captured as a CUDA graph"
NEW_PROCESS: Final = "this process can no longer train; a new process resumes"


@dataclass(frozen=True, slots=True)
class Task:
    """A network to train, its recipe and seed, and the images."""

    architecture: Architecture
    recipe: Recipe
    seed: int  # seed of initial weights, order and augmentation
    train: DeviceImages
    evaluation: DeviceImages  # images to evaluate on after each epoch; may be empty
    normalisation: Normalisation  # constants for both


def train(
    task: Task, runtime: RuntimeConfig, callbacks: Callbacks, checkpointer: Checkpointer = NO_CHECKPOINTS
) -> ResNet:
    """Train `task`'s network to the end of its recipe and return it.

    On a CPU, equal task and runtime give bitwise identical results, also after resuming from a state of the same
    runtime. If memory runs out, the training starts over at its first epoch with half the micro-batch: gradients are
    still summed over the batch, but batch normalisation sees fewer images. If a step cannot be captured, it starts over
    without CUDA graphs, or with half the micro-batch, but in a new process: this one is not safe to train in.

    Args:
        task: Network, recipe, seed and images.
        runtime: Device, precision, threads and layout.
        callbacks: Hooks; they are not called for epochs done before a resumed training.
        checkpointer: Returns states to resume from and stores new ones.

    Raises:
        RunFailedError: If a loss is not finite, or memory runs out with the smallest micro-batch.
        RestartNeeded: If no further call to the GPU can succeed in this process, or a capture failed.
    """
    resuming = True
    while True:
        trainer, last = None, None
        try:
            with applied(runtime):
                trainer = Trainer(task, runtime)
                last = _resume(trainer, checkpointer) if resuming else None
                for number in range(last.epoch + 1 if last else 1, task.recipe.epochs + 1):
                    epoch = trainer.epoch(number, callbacks)
                    _check_finite(epoch, task)
                    callbacks.on_epoch_end(epoch)
                    if checkpointer is not NO_CHECKPOINTS and number < task.recipe.epochs:
                        last = trainer.state(number)
                        checkpointer.epoch_ended(last)
                return trainer.outcome
        except Interrupted:
            if last is not None:
                checkpointer.interrupted(last)
            raise
        except (RuntimeError, MemoryError) as error:
            if is_device_lost(error):
                if last is not None:
                    checkpointer.interrupted(last)
                raise device_lost(error) from error
            runtime, reason = _another_runtime(error, task.recipe, runtime)
            failed_capture = error if isinstance(error, CaptureError) else None
        trainer, resuming = None, False  # its memory is free before the next trainer is built
        checkpointer.forget()  # first: a crash in between must not leave states of the old runtime
        callbacks.on_restart(runtime, reason)
        if failed_capture is not None:
            raise RestartNeeded(f"{reason}; {NEW_PROCESS}") from failed_capture
        free_cached_memory(task.train.device)


class Trainer:
    """A network in training, and everything that an epoch changes.

    Within an epoch the host never waits for the device; it reads all figures at the end.

    Args:
        task: Network, recipe, seed and images.
        runtime: Device, precision and layout; `applied` must set its threads.
    """

    def __init__(self, task: Task, runtime: RuntimeConfig) -> None:
        device = runtime.torch_device
        self.task, self.runtime = task, runtime
        self.network = build(task.architecture, seed=task.seed)
        self.network.to(device=device, memory_format=runtime.memory_format)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.network, task.recipe, device)
        self.updates = Updates(self.optimizer)
        if runtime.precision == "fp16":
            self.optimizer.state.update(parameter_state(self.optimizer, task.recipe))
            self.updates = ScaledUpdates(self.optimizer, device)
        self.normalise = Normaliser.of(task.normalisation, device, runtime.memory_format)
        self.generator = torch.Generator().manual_seed(task.seed)
        self.metrics = RunningMetrics(device)
        is_weighted, classes = task.recipe.class_weights == "balanced", task.architecture.classes
        self._class_weights = balanced_weights(task.train.labels, classes) if is_weighted else None
        self._schedule = EpochSchedule(len(task.train), task.recipe.augmentation, device, task.recipe.batch)
        place = Place.on(device) if runtime.graphs else None
        self._captured = CapturedCalls(place) if place else None
        self.average = Average(self.network, task.recipe.ema_decay) if task.recipe.ema_decay else None
        self.evaluator = Evaluator(
            self.outcome,
            task.evaluation,
            self.normalise,
            runtime,
            classes,
            CapturedCalls(place) if place else None,
        )

    @property
    def outcome(self) -> ResNet:
        """The network that is evaluated and returned: the average if the recipe has one."""
        return self.network if self.average is None else self.average.network

    def epoch(self, number: int, callbacks: Callbacks) -> Epoch:
        """Train and evaluate an epoch."""
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
        correct_by_class = self.evaluator.correct_by_class()
        return Epoch(
            epoch=number,
            train_loss=loss / trained,
            train_accuracy=correct / trained,
            eval_loss=eval_loss / evaluated if evaluated else math.nan,
            eval_accuracy=eval_correct / evaluated if evaluated else math.nan,
            learning_rate=rates[0],
            seconds=time.perf_counter() - started,
            eval_balanced_accuracy=balanced_accuracy(correct_by_class, self.evaluator.images_by_class),
            eval_correct=correct_by_class if evaluated else (),
        )

    def steps(self, order: Tensor, rates: Sequence[float] = ()) -> Iterator[int]:
        """Make an optimiser step for each batch of `order` and sum up in `metrics`; yield the number of steps made.

        Args:
            order: (N,), int64, on the CPU: indices of images.
            rates: Learning rates of the first steps; later steps use the last. Empty to keep the current rate.
        """
        self.network.train()
        self.metrics.reset()
        self._schedule.begin(order, self.generator)
        for done, size in enumerate(batch_sizes(len(order), self.task.recipe.batch), start=1):
            if done <= len(rates):
                set_learning_rate(self.optimizer, rates[done - 1])
            if self._captured is None:
                self._make_step(size)
            else:
                self._captured(self._make_step, size)
            yield done

    def state(self, epoch: int) -> TrainingState:
        """Return a copy of the state at the end of `epoch`; waits for a GPU."""
        memory = self._memory(parameter_state(self.optimizer, self.task.recipe))
        return TrainingState.copied(epoch, self._training, memory)

    def restore(self, state: TrainingState) -> None:
        """Restore the state at the end of an epoch of this training, in place, so captured graphs stay valid.

        Raises:
            StateError: If the state does not belong to this training, which is then unchanged.
        """
        if state.training != self._training:
            raise StateError(f"it belongs to another training ({state.training}; this is {self._training})")
        if not 1 <= state.epoch < self.task.recipe.epochs:
            raise StateError(f"it is from epoch {state.epoch}, and the training ends at {self.task.recipe.epochs}")
        optimizer_state = parameter_state(self.optimizer, self.task.recipe)
        memory = self._memory(optimizer_state)
        state = state.adapted_to(memory, optional=INITIAL_LOSS_SCALE)
        state.check_fit(memory)
        try:
            self.generator.set_state(state.tensors["generator"])
        except RuntimeError as error:
            raise StateError(f"the random generator state is invalid ({error})") from error
        for name, tensor in memory.items():
            tensor.copy_(state.tensors[name])
        self.optimizer.state.update(optimizer_state)

    @property
    def _training(self) -> str:
        task = self.task
        return f"architecture {task.architecture.digest}, recipe {task.recipe.digest}, seed {task.seed}"

    def _memory(self, optimizer_state: Mapping[Tensor, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return by name all tensors that an epoch changes and the next one reads; the generator's state is a copy."""
        memory = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            memory |= {f"optimizer.{name}.{key}": tensor for key, tensor in optimizer_state[parameter].items()}
        if self.average is not None:
            memory |= {f"average.{name}": tensor for name, tensor in self.average.memory.items()}
        return {**memory, **self.updates.memory, "generator": self.generator.get_state()}

    def _make_step(self, size: int) -> None:
        indices, augmentation = self._schedule.next(size)
        batch = self.task.train.take(indices)
        images = augment(batch.images, self.task.recipe.augmentation, augmentation, self.normalise.mean_color)
        targets = Targets(batch.labels)
        if (mixing := self._schedule.next_mixing()) is not None:
            images, targets = mix(images, batch.labels, mixing)
        pieces = _pieces(size, self.runtime.micro_batch or size)
        self.optimizer.zero_grad(set_to_none=True)
        for piece, part in zip(images.tensor_split(pieces), targets.split(pieces), strict=True):
            with autocast(self.runtime):
                logits = self.network(self.normalise(piece))
            loss = part.loss(logits, self.task.recipe.label_smoothing, self._class_weights)
            self.updates.backward(loss / size)
            self.metrics.add(loss.detach(), logits.detach(), part.main_labels)
        self.updates.step()
        if self.average is not None:
            self.average.update(self.updates.skipped)


@contextmanager
def applied(runtime: RuntimeConfig) -> Iterator[None]:
    """Apply the settings of `runtime` that PyTorch keeps for the whole process, and restore them on exit."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.benchmark = runtime.benchmark
    try:
        with float32_convolutions("ieee"):  # float32 means float32; bf16 is there for speed
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def float32_convolutions(precision: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Let a GPU compute float32 convolutions exactly or in TF32, PyTorch's default; restore the setting on exit."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = precision
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def _resume(trainer: Trainer, checkpointer: Checkpointer) -> TrainingState | None:
    """Restore the newest state that fits and return it; None without any."""
    for state in checkpointer.begin():
        try:
            trainer.restore(state)
        except StateError as error:
            checkpointer.rejected(state, str(error))
        else:
            checkpointer.resumed(state)
            return state
    return None


def device_lost(error: BaseException) -> RestartNeeded:
    """Return the exception that ends this process after an error of `is_device_lost`."""
    return RestartNeeded(f"the GPU failed ({first_line(error)}); {NEW_PROCESS}")


def capture_failed(error: CaptureError, runtime: RuntimeConfig) -> RestartNeeded:
    """Remember that steps cannot be captured on a GPU; return the exception that ends this process."""
    remember_problem(runtime.torch_device, first_line(error))
    return RestartNeeded(f"{_NO_CAPTURE} ({first_line(error)}); {NEW_PROCESS}")


def _another_runtime(
    error: RuntimeError | MemoryError, recipe: Recipe, runtime: RuntimeConfig
) -> tuple[RuntimeConfig, str]:
    """Return the runtime in which the training starts over after an error, and the reason.

    Raises:
        RunFailedError: If memory ran out with the smallest micro-batch.
        RuntimeError: The error itself if no other runtime would help.
    """
    if is_out_of_memory(error):
        runtime = _smaller(recipe, runtime)
        return runtime, (
            f"out of memory, now {runtime.micro_batch} images at a time "
            "(gradients are summed; batch normalisation sees fewer images)"
        )
    if not isinstance(error, CaptureError):
        raise error
    remember_problem(runtime.torch_device, first_line(error))
    return replace(runtime, graphs=False), f"{_NO_CAPTURE} ({first_line(error)})"


def _check_finite(epoch: Epoch, task: Task) -> None:
    losses = [("training", epoch.train_loss), *([("evaluation", epoch.eval_loss)] if len(task.evaluation) else [])]
    for name, loss in losses:
        if not math.isfinite(loss):
            raise RunFailedError(f"the {name} loss is {loss} in epoch {epoch.epoch} ({task.recipe.describe()})")


def _pieces(images: int, micro: int) -> int:
    """Return the number of nearly equal pieces of a batch: never a single image, which has no variance."""
    return max(1, min(math.ceil(images / micro), images // 2))


def _smaller(recipe: Recipe, runtime: RuntimeConfig) -> RuntimeConfig:
    micro = runtime.micro_batch or recipe.batch
    if micro <= SMALLEST_MICRO_BATCH:
        raise RunFailedError(f"out of memory on {runtime.device}, even with {micro} images at a time")
    return replace(runtime, micro_batch=max(SMALLEST_MICRO_BATCH, micro // 2))
