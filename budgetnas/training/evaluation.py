"""Evaluation of a network, and the running metrics of evaluation and training on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from budgetnas.metrics import balanced_accuracy
from budgetnas.training.cuda_graphs import CapturedCalls
from budgetnas.training.device import DeviceImages, Normaliser, batch_sizes
from budgetnas.training.gpu import MPS
from budgetnas.training.runtime import DTYPES, RuntimeConfig

EVALUATION_BATCH: Final = 500


class Evaluation(NamedTuple):
    """The result of a network on images."""

    loss: float  # mean cross-entropy
    accuracy: float  # share of 1
    balanced_accuracy: float  # mean of the accuracies of all classes that have images
    correct: tuple[int, ...]  # number of correct predictions of each class


class RunningMetrics:
    """Sums over batches, kept on the device; only `read_metrics` waits for the device.

    ``mps`` has no float64. In float32 counts are exact up to 16,777,216 images.
    """

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == MPS else torch.float64
        self.loss = torch.zeros((), dtype=dtype, device=device)
        self.correct = torch.zeros((), dtype=dtype, device=device)

    def reset(self) -> None:
        """Set the sums to zero."""
        self.loss.zero_()
        self.correct.zero_()

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch's summed loss and its correct predictions."""
        self.loss += loss
        self.correct += (logits.argmax(dim=1) == labels).sum()


class EvaluationMetrics(RunningMetrics):
    """Sums over batches, and the correct predictions of each class."""

    def __init__(self, device: torch.device, classes: int) -> None:
        super().__init__(device)
        self._classes = torch.arange(classes, device=device)
        self.correct_by_class = torch.zeros_like(self._classes)

    def reset(self) -> None:
        """Set the sums to zero."""
        super().reset()
        self.correct_by_class.zero_()

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch's summed loss and its correct predictions."""
        super().add(loss, logits, labels)
        hits = logits.argmax(dim=1) == labels
        self.correct_by_class += ((labels[:, None] == self._classes) & hits[:, None]).sum(dim=0)


def read_metrics(*metrics: RunningMetrics) -> list[tuple[float, int]]:
    """Return summed loss and number of correct predictions of each, waiting for the device once."""
    values = torch.stack([value for sums in metrics for value in (sums.loss, sums.correct)]).tolist()
    return [(loss, round(correct)) for loss, correct in zip(values[::2], values[1::2], strict=True)]


class Evaluator:
    """Evaluates a network on images; `metrics` has the result."""

    def __init__(
        self,
        network: nn.Module,
        images: DeviceImages,
        normalise: Normaliser,
        runtime: RuntimeConfig,
        classes: int,
        captured: CapturedCalls | None = None,  # captures batches as CUDA graphs; None for plain calls
    ) -> None:
        self.metrics = EvaluationMetrics(images.device, classes)
        self.images_by_class: tuple[int, ...] = tuple(torch.bincount(images.labels, minlength=classes).tolist())
        self._network, self._images, self._runtime = network, images, runtime
        self.normalise = normalise
        self._position = torch.zeros((), dtype=torch.int64, device=images.device)
        self._captured = captured

    def run(self, tick: Callable[[], None]) -> None:
        """Evaluate, and leave the network in evaluation mode.

        Args:
            tick: Called before every batch; may raise to end the evaluation.
        """
        self._network.eval()
        self.metrics.reset()
        self._position.zero_()
        batch = min(EVALUATION_BATCH, self._runtime.micro_batch or EVALUATION_BATCH)
        for size in batch_sizes(len(self._images), batch):
            tick()
            if self._captured is None:
                self._evaluate(size)
            else:
                self._captured(self._evaluate, size)

    def correct_by_class(self) -> tuple[int, ...]:
        """Return the number of correct predictions of each class, waiting for the device."""
        return tuple(self.metrics.correct_by_class.tolist())

    def _evaluate(self, size: int) -> None:
        part = self._images.take(self._position + torch.arange(size, device=self._images.device))
        self._position += size
        with torch.inference_mode():
            with autocast(self._runtime):
                logits = self._network(self.normalise(part.images))
            loss = summed_loss(logits, part.labels)
            self.metrics.add(loss, logits, part.labels)


def evaluate(
    network: nn.Module,
    images: DeviceImages,
    normalise: Normaliser,
    runtime: RuntimeConfig,
    tick: Callable[[], None] = lambda: None,  # called before every batch; may raise to end the evaluation
    *,
    classes: int,
) -> Evaluation:
    """Evaluate `network` on `images`; it is left in evaluation mode."""
    evaluator = Evaluator(network, images, normalise, runtime, classes)
    evaluator.run(tick)
    ((loss, correct),) = read_metrics(evaluator.metrics)
    by_class = evaluator.correct_by_class()
    balanced = balanced_accuracy(by_class, evaluator.images_by_class)
    return Evaluation(loss / len(images), correct / len(images), balanced, by_class)


def summed_loss(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of a batch, summed over it, in at least 32 bits.

    With class weights it is PyTorch's: the term of each class in a target has the weight of that class.
    """
    precise = logits.float() if logits.dtype.itemsize < 4 else logits
    weights = None if class_weights is None else class_weights.to(precise.dtype)
    return functional.cross_entropy(precise, labels, weights, reduction="sum", label_smoothing=label_smoothing)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return (classes,), float32: weights inversely proportional to the images of each class.

    Their mean over the images is 1, so the scale of the loss does not change. A class without images has weight 0.
    `labels`, (N,), int64, are those of the training images.
    """
    images = torch.bincount(labels, minlength=classes).double()
    weights = len(labels) / (images * (images > 0).sum())
    return torch.where(images > 0, weights, 0.0).float()


def autocast(runtime: RuntimeConfig) -> torch.autocast:
    """Return the autocast context of a forward pass, enabled for half precisions."""
    half = None if runtime.precision == "float32" else DTYPES[runtime.precision]
    return torch.autocast(runtime.torch_device.type, half, enabled=half is not None)
