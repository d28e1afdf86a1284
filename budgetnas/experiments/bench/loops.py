"""Three training loops for the same network, images and recipe.

The reference is the usual loop of tutorials: a `DataLoader` over PIL images augmented individually, float32, the
default memory layout, and `.item()` after every step. The tuned reference adds channels-last layout, pinned memory, and
bf16 or fp16 if that is faster. Ours is `budgetnas.training`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from budgetnas.errors import plural
from budgetnas.space.recipe import Normalisation, Recipe
from budgetnas.training import RuntimeConfig, Task
from budgetnas.training.device import epoch_order, num_steps
from budgetnas.training.engine import Trainer, float32_convolutions
from budgetnas.training.evaluation import read_metrics
from budgetnas.training.network import ResNet, build
from budgetnas.training.optimizer import learning_rates
from budgetnas.training.runtime import DTYPES, Precision


class Run(Protocol):
    """A started training."""

    network: ResNet

    def steps(self, epoch: int) -> Iterator[None]:
        """Train `epoch` (from 1) and yield after each step; at the end its loss and accuracy are on the host."""


class Loop(Protocol):
    """A training loop."""

    @property
    def name(self) -> str:
        """Name of the loop."""

    @property
    def keeps_memory(self) -> bool:
        """Whether the process keeps freed memory for the next step (`keep_freed_memory`), on a CPU."""

    def start(self, task: Task) -> Run:
        """Start a training."""

    def describe(self) -> str:
        """Return the settings in a few words."""


@dataclass(frozen=True, slots=True)
class OurLoop:
    """The loop of `budgetnas.training`."""

    runtime: RuntimeConfig

    name = "ours"
    keeps_memory = True

    def start(self, task: Task) -> Run:
        """Start a training."""
        return _OurRun(task, self.runtime)

    def describe(self) -> str:
        """Return the settings in a few words."""
        graphs = ", CUDA graphs" if self.runtime.graphs else ""
        return f"{self.runtime.precision}, {self.runtime.layout}, images on the device, fused optimiser{graphs}"


class _OurRun:
    def __init__(self, task: Task, runtime: RuntimeConfig) -> None:
        self._task, self._trainer = task, Trainer(task, runtime)
        self.network = self._trainer.outcome

    def steps(self, epoch: int) -> Iterator[None]:
        recipe, size = self._task.recipe, len(self._task.train)
        order = epoch_order(size, recipe.batch, self._trainer.generator)
        for _ in self._trainer.steps(order, learning_rates(recipe, epoch, num_steps(size, recipe.batch))):
            yield
        read_metrics(self._trainer.metrics)


@dataclass(frozen=True, slots=True)
class ReferenceLoop:
    """The usual PyTorch loop, plain or tuned."""

    device: torch.device  # device of the training
    tuned: bool = False  # whether memory is channels-last, and pinned and copied asynchronously for a GPU
    precision: Precision = "float32"  # or autocast in ``bf16`` or ``fp16``, the latter with a `GradScaler`
    workers: int = 0  # processes that prepare images; 0 to prepare them in the training process

    keeps_memory = False

    @property
    def name(self) -> str:
        """Name of the loop."""
        return "tuned reference" if self.tuned else "reference"

    def start(self, task: Task) -> Run:
        """Start a training."""
        return _ReferenceRun(task, self)

    def describe(self) -> str:
        """Return the settings in a few words."""
        order = "channels-last" if self.tuned else "contiguous"
        workers = plural(self.workers, "worker")
        return f"{self.precision}, {order}, PIL images, DataLoader with {workers}, .item() every step"


class _ReferenceRun:
    def __init__(self, task: Task, loop: ReferenceLoop) -> None:
        self._loop, self._recipe = loop, task.recipe
        self._format = torch.channels_last if loop.tuned else torch.contiguous_format
        self.network = build(task.architecture, seed=task.seed)
        self.network.to(device=loop.device, memory_format=self._format)  # type: ignore[call-overload]
        self._loader = _loader(task, loop)
        self._criterion = nn.CrossEntropyLoss()
        self._optimizer = _optimizer(self.network, task.recipe)
        self._scaler = torch.amp.GradScaler(loop.device.type, enabled=loop.precision == "fp16")
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, T_max=task.recipe.t_max)

    def steps(self, epoch: int) -> Iterator[None]:
        self.network.train()
        total_loss, correct = 0.0, 0
        for images, labels in self._loader:
            loss, batch_correct = self._step(images, labels)
            total_loss += loss
            correct += batch_correct
            yield
        self._schedule.step()

    def _step(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        device, tuned = self._loop.device, self._loop.tuned
        images = images.to(device, non_blocking=tuned, memory_format=self._format)
        labels = labels.to(device, non_blocking=tuned)
        self._optimizer.zero_grad()
        dtype = DTYPES[self._loop.precision]
        with float32_convolutions("tf32"):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                outputs = self.network(images)
                loss = self._criterion(outputs, labels)
            self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return loss.item(), int((outputs.argmax(dim=1) == labels).sum().item())


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images converted to tensors individually, like torchvision's own data sets."""

    def __init__(self, task: Task) -> None:
        self._pixels = task.train.images.permute(0, 2, 3, 1).cpu().numpy()
        self._labels = task.train.labels.tolist()
        self._transform = pil_transform(task.recipe, task.normalisation, task.architecture.size)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self._pixels[index]
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        return self._transform(image), self._labels[index]


def pil_transform(recipe: Recipe, normalisation: Normalisation, size: int) -> Any:
    """Return torchvision's transforms for a recipe's augmentation, in its order."""
    augmentation = recipe.augmentation
    steps: list[Any] = []
    if augmentation.rotation:
        steps.append(transforms.RandomRotation(augmentation.rotation, transforms.InterpolationMode.BILINEAR))
    if augmentation.crop_padding:
        steps.append(transforms.RandomCrop(size, padding=augmentation.crop_padding))
    if augmentation.flip:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose(
        [*steps, transforms.ToTensor(), transforms.Normalize(normalisation.mean, normalisation.std)]
    )


def _loader(task: Task, loop: ReferenceLoop) -> DataLoader[tuple[Tensor, int]]:
    images = PilImages(task)
    return DataLoader(
        images,
        batch_size=task.recipe.batch,
        shuffle=True,
        drop_last=len(images) % task.recipe.batch == 1,  # a single image has no variance
        num_workers=loop.workers,
        persistent_workers=loop.workers > 0,
        pin_memory=loop.tuned and loop.device.type == "cuda",
        generator=torch.Generator().manual_seed(task.seed),
    )


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        make: Any = torch.optim.AdamW if recipe.decoupled_decay else torch.optim.Adam
    else:
        make = partial(torch.optim.SGD, momentum=recipe.momentum, nesterov=recipe.nesterov)
    made: torch.optim.Optimizer = make(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return made
