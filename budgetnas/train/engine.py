"""The training loop: a candidate, images and a seed to a trained network and its curve."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol

import torch
from torch import Tensor

from budgetnas.architecture import Architecture
from budgetnas.data.augment import augment
from budgetnas.data.device import DeviceImages, Normaliser, batch_sizes, epoch_order, num_steps
from budgetnas.epoch import Epoch
from budgetnas.errors import RunFailedError
from budgetnas.network import ResNet, build
from budgetnas.recipe import Normalisation, Recipe
from budgetnas.train.averaging import Average
from budgetnas.train.course import Course
from budgetnas.train.evaluation import Evaluator, Totals, autocast, read_totals, summed_loss
from budgetnas.train.optimizer import learning_rate, make_optimizer, set_learning_rate
from budgetnas.train.replayed import Calls, CapturedCalls, CaptureError, Place, plainly
from budgetnas.train.setup import Setup

SMALLEST_MICRO_BATCH: Final = 2
_OUT_OF_MEMORY: Final = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")


class Observer(Protocol):
    """Whoever follows a training. A method may raise to end it; what it raises passes through unchanged."""

    def step(self, epoch: int, done: int, total: int) -> None:
        """Hear that `done` of `total` steps of `epoch` were made."""

    def epoch(self, epoch: Epoch) -> None:
        """Hear what an epoch gave."""

    def restart(self, setup: Setup, reason: str) -> None:
        """Hear that the training begins again in another setup and why, all its epochs void."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to train on what.

    Attributes:
        architecture: What to build.
        recipe: How to train it.
        seed: Seed of initial weights, order and augmentation.
        fit: Images to learn from.
        evaluation: Images that each epoch ends with a look at, or none; nothing is chosen by them here.
        normalisation: Constants for both.
    """

    architecture: Architecture
    recipe: Recipe
    seed: int
    fit: DeviceImages
    evaluation: DeviceImages
    normalisation: Normalisation


def train(task: Task, setup: Setup, observer: Observer) -> ResNet:
    """Train `task`'s network to the end of its recipe and return it.

    On a CPU, equal task and setup give equal bits. Where memory runs out the training begins again with half the
    micro-batch: gradients are summed over it, while batch normalisation then sees fewer images at a time. Where a
    step cannot be captured as a CUDA graph it begins again without.

    Raises:
        RunFailedError: If a loss is not finite, or memory runs out with the smallest micro-batch.
    """
    while True:
        try:
            with threads(setup.threads):
                return _train_once(task, setup, observer)
        except CaptureError as error:
            setup, reason = replace(setup, graphs=False), f"no CUDA graph can be made of a step ({error})"
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            setup = _smaller(task.recipe, setup)
            reason = (
                f"out of memory, now {setup.micro_batch} images at a time "
                "(gradients are summed; batch normalisation sees fewer images)"
            )
        if task.fit.device.type == "cuda":
            torch.cuda.empty_cache()
        observer.restart(setup, reason)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether PyTorch means that memory ran out, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


class Trainer:
    """A network in training: what one epoch changes.

    Within an epoch the host asks the device for nothing; it reads all figures at the end.

    Args:
        task: What to train on what.
        setup: Where and in which precision.
    """

    def __init__(self, task: Task, setup: Setup) -> None:
        device = setup.torch_device
        self.task, self.setup = task, setup
        self.network = build(task.architecture, seed=task.seed)
        self.network.to(device=device, memory_format=setup.memory_format)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.network, task.recipe, device)
        self.normalise = Normaliser.of(task.normalisation, device, setup.memory_format)
        self.generator = torch.Generator().manual_seed(task.seed)
        self.totals = Totals(device)
        self._course = Course(len(task.fit), task.recipe.augmentation, device)
        self._calls, evaluating = _calls(setup)
        self.average = Average(self.network, task.recipe.ema_decay) if task.recipe.ema_decay else None
        self.evaluator = Evaluator(self.outcome, task.evaluation, self.normalise, setup, evaluating)

    @property
    def outcome(self) -> ResNet:
        """The network that is evaluated and returned: the average where the recipe has one."""
        return self.network if self.average is None else self.average.network

    def epoch(self, number: int, observer: Observer) -> Epoch:
        """Train and evaluate one epoch."""
        started = time.perf_counter()
        recipe, size = self.task.recipe, len(self.task.fit)
        rate, steps = learning_rate(recipe, number), num_steps(size, recipe.batch)
        set_learning_rate(self.optimizer, rate)
        order = epoch_order(size, recipe.batch, self.generator)
        for done in self.steps(order):
            observer.step(number, done, steps)
        self.evaluator.run(tick=lambda: observer.step(number, steps, steps))
        (loss, correct), (eval_loss, eval_correct) = read_totals(self.totals, self.evaluator.totals)
        trained, evaluated = len(order), len(self.task.evaluation)
        return Epoch(
            epoch=number,
            train_loss=loss / trained,
            train_accuracy=correct / trained,
            eval_loss=eval_loss / evaluated if evaluated else math.nan,
            eval_accuracy=eval_correct / evaluated if evaluated else math.nan,
            learning_rate=rate,
            seconds=time.perf_counter() - started,
        )

    def steps(self, order: Tensor) -> Iterator[int]:
        """Make one optimiser step for each batch of `order`, summing up in `totals`; yield how many were made."""
        self.network.train()
        self.totals.reset()
        self._course.begin(order, self.generator)
        for done, size in enumerate(batch_sizes(len(order), self.task.recipe.batch), start=1):
            self._calls(self._make_step, size)
            yield done

    def _make_step(self, size: int) -> None:
        indices, draws = self._course.next(size)
        batch = self.task.fit.take(indices)
        images = augment(batch.images, self.task.recipe.augmentation, draws)
        pieces = _pieces(size, self.setup.micro_batch or size)
        self.optimizer.zero_grad(set_to_none=True)
        for some, labels in zip(images.tensor_split(pieces), batch.labels.tensor_split(pieces), strict=True):
            with autocast(self.setup):
                logits = self.network(self.normalise(some))
            loss = summed_loss(logits, labels, self.task.recipe.label_smoothing)
            (loss / size).backward()  # type: ignore[no-untyped-call]
            self.totals.add(loss.detach(), logits.detach(), labels)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()


def _calls(setup: Setup) -> tuple[Calls, Calls]:
    """Return how steps are made, and how batches are evaluated."""
    if not setup.graphs:
        return plainly, plainly
    place = Place.on(setup.torch_device)
    return CapturedCalls(place), CapturedCalls(place)


def _train_once(task: Task, setup: Setup, observer: Observer) -> ResNet:
    trainer = Trainer(task, setup)
    for number in range(1, task.recipe.epochs + 1):
        epoch = trainer.epoch(number, observer)
        _check_finite(epoch, task)
        observer.epoch(epoch)
    return trainer.outcome


def _check_finite(epoch: Epoch, task: Task) -> None:
    losses = [("training", epoch.train_loss), *([("evaluation", epoch.eval_loss)] if len(task.evaluation) else [])]
    for name, loss in losses:
        if not math.isfinite(loss):
            raise RunFailedError(f"the {name} loss is {loss} in epoch {epoch.epoch} ({task.recipe.describe()})")


def _pieces(images: int, micro: int) -> int:
    """Return into how many nearly equal pieces a batch is split: never a single image, which has no variance."""
    return max(1, min(math.ceil(images / micro), images // 2))


def _smaller(recipe: Recipe, setup: Setup) -> Setup:
    micro = setup.micro_batch or recipe.batch
    if micro <= SMALLEST_MICRO_BATCH:
        raise RunFailedError(f"out of memory on {setup.device}, even with {micro} images at a time")
    return setup.with_micro_batch(max(SMALLEST_MICRO_BATCH, micro // 2))


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with so many threads while inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
