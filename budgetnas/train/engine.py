"""The training loop: a candidate, images and a seed to a trained network and its curve."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from budgetnas.architecture import Architecture
from budgetnas.data.augment import augment
from budgetnas.data.device import DeviceImages, Normaliser, batches, epoch_order, num_steps
from budgetnas.epoch import Epoch
from budgetnas.errors import RunFailedError
from budgetnas.network import ResNet, build
from budgetnas.recipe import Normalisation, Recipe
from budgetnas.train.setup import Setup

EVALUATION_BATCH: Final = 500
SMALLEST_MICRO_BATCH: Final = 2
_OUT_OF_MEMORY: Final = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")


class Observer(Protocol):
    """Whoever follows a training. A method may raise to end it; what it raises passes through unchanged."""

    def step(self, epoch: int, done: int, total: int) -> None:
        """Hear that `done` of `total` steps of `epoch` were made."""

    def epoch(self, epoch: Epoch) -> None:
        """Hear what an epoch gave."""

    def restart(self, setup: Setup) -> None:
        """Hear that the training begins again in another setup, all its epochs void."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to train on what.

    Attributes:
        architecture: What to build.
        recipe: How to train it.
        seed: Seed of initial weights, order and augmentation.
        fit: Images to learn from.
        evaluation: Images that each epoch ends with a look at; nothing is chosen by them here.
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
    micro-batch: gradients are summed over it, while batch normalisation then sees fewer images at a time.

    Raises:
        RunFailedError: If a loss is not finite, or memory runs out with the smallest micro-batch.
    """
    while True:
        try:
            with threads(setup.threads):
                return _train_once(task, setup, observer)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        setup = _smaller(task.recipe, setup)
        if task.fit.device.type == "cuda":
            torch.cuda.empty_cache()
        observer.restart(setup)


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Return the rate in `epoch` (from 1): a cosine from the recipe's rate to 0 in ``t_max`` epochs.

    Loshchilov and Hutter 2017, equation 5 without restarts; like PyTorch's ``CosineAnnealingLR``, stepped once an
    epoch, it rises again beyond ``t_max``.
    """
    return recipe.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / recipe.t_max)) / 2


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over all parameters."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )
    return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def evaluate(
    network: nn.Module,
    images: DeviceImages,
    normalise: Normaliser,
    setup: Setup,
    tick: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy (a share of 1) of `network` on `images`.

    Args:
        network: The network; it is left in evaluation mode.
        images: What to evaluate it on.
        normalise: What the network's images are normalised by.
        setup: Where and in which precision.
        tick: Called before every batch; may raise to end it.
    """
    network.eval()
    batch = min(EVALUATION_BATCH, setup.micro_batch or EVALUATION_BATCH)
    loss = torch.zeros((), dtype=torch.float64, device=images.device)
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            tick()
            part = slice(start, start + batch)
            with _autocast(setup):
                logits = network(normalise(images.images[part]))
            loss += functional.cross_entropy(logits.float(), images.labels[part], reduction="sum")
            correct += (logits.argmax(dim=1) == images.labels[part]).sum()
    return float(loss) / len(images), int(correct) / len(images)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether PyTorch means that memory ran out, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


class Trainer:
    """A network in training: what one epoch changes.

    Args:
        task: What to train on what.
        setup: Where and in which precision.
    """

    def __init__(self, task: Task, setup: Setup) -> None:
        device = setup.torch_device
        self.task, self.setup = task, setup
        self.network = build(task.architecture, seed=task.seed)
        self.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.network, task.recipe)
        self.normalise = Normaliser.of(task.normalisation, device)
        self.generator = torch.Generator().manual_seed(task.seed)

    def epoch(self, number: int, observer: Observer) -> Epoch:
        """Train and evaluate one epoch."""
        started = time.perf_counter()
        rate = learning_rate(self.task.recipe, number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        train_loss, train_accuracy = self._fit(number, observer)
        steps = num_steps(len(self.task.fit), self.task.recipe.batch)
        eval_loss, eval_accuracy = evaluate(
            self.network,
            self.task.evaluation,
            self.normalise,
            self.setup,
            tick=lambda: observer.step(number, steps, steps),
        )
        seconds = time.perf_counter() - started
        return Epoch(number, train_loss, train_accuracy, eval_loss, eval_accuracy, rate, seconds)

    def steps(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Make one optimiser step for each batch of `order`; yield its summed loss and correct answers."""
        self.network.train()
        micro = self.setup.micro_batch or self.task.recipe.batch
        for indices in batches(order, self.task.recipe.batch):
            yield self._step(indices, micro)

    def _fit(self, number: int, observer: Observer) -> tuple[float, float]:
        batch = self.task.recipe.batch
        order = epoch_order(len(self.task.fit), batch, self.generator)
        total = num_steps(len(self.task.fit), batch)
        loss = torch.zeros((), dtype=torch.float64, device=self.setup.torch_device)
        correct = torch.zeros((), dtype=torch.int64, device=self.setup.torch_device)
        for done, (step_loss, step_correct) in enumerate(self.steps(order), start=1):
            loss += step_loss
            correct += step_correct
            observer.step(number, done, total)
        return float(loss) / len(order), int(correct) / len(order)

    def _step(self, indices: Tensor, micro: int) -> tuple[Tensor, Tensor]:
        fit, recipe = self.task.fit, self.task.recipe
        placed = indices.to(fit.device, non_blocking=True)
        images, labels = augment(fit.images[placed], recipe.augmentation, self.generator), fit.labels[placed]
        pieces = _pieces(len(indices), micro)
        losses, correct = [], []
        self.optimizer.zero_grad(set_to_none=True)
        for some, truth in zip(images.tensor_split(pieces), labels.tensor_split(pieces), strict=True):
            with _autocast(self.setup):
                logits = self.network(self.normalise(some))
            loss = functional.cross_entropy(logits.float(), truth, reduction="sum")
            (loss / len(indices)).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            correct.append((logits.detach().argmax(dim=1) == truth).sum())
        self.optimizer.step()
        return torch.stack(losses).sum(), torch.stack(correct).sum()


def _train_once(task: Task, setup: Setup, observer: Observer) -> ResNet:
    trainer = Trainer(task, setup)
    for number in range(1, task.recipe.epochs + 1):
        epoch = trainer.epoch(number, observer)
        _check_finite(epoch, task.recipe)
        observer.epoch(epoch)
    return trainer.network


def _check_finite(epoch: Epoch, recipe: Recipe) -> None:
    for name, loss in (("training", epoch.train_loss), ("evaluation", epoch.eval_loss)):
        if not math.isfinite(loss):
            raise RunFailedError(f"the {name} loss is {loss} in epoch {epoch.epoch} ({recipe.describe()})")


def _pieces(images: int, micro: int) -> int:
    """Return into how many nearly equal pieces a batch is split: never a single image, which has no variance."""
    return max(1, min(math.ceil(images / micro), images // 2))


def _smaller(recipe: Recipe, setup: Setup) -> Setup:
    micro = setup.micro_batch or recipe.batch
    if micro <= SMALLEST_MICRO_BATCH:
        raise RunFailedError(f"out of memory on {setup.device}, even with {micro} images at a time")
    return setup.with_micro_batch(max(SMALLEST_MICRO_BATCH, micro // 2))


def _autocast(setup: Setup) -> torch.autocast:
    return torch.autocast(setup.torch_device.type, torch.bfloat16, enabled=setup.precision == "bf16")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with so many threads while inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
