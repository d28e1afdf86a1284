"""Evaluation of a network, and the sums that evaluation and training keep on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from budgetnas.training.cuda_graphs import Calls, plainly
from budgetnas.training.device import DeviceImages, Normaliser, batch_sizes
from budgetnas.training.runtime import RuntimeConfig

EVALUATION_BATCH: Final = 500


class RunningMetrics:
    """What is summed over batches, on the device: nothing waits for it before it is read."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.float64, device=device)

    def reset(self) -> None:
        """Begin anew."""
        self.loss.zero_()
        self.correct.zero_()

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch's summed loss and its correct answers."""
        self.loss += loss
        self.correct += (logits.argmax(dim=1) == labels).sum()


def read_metrics(*metrics: RunningMetrics) -> list[tuple[float, int]]:
    """Return summed loss and correct answers of each, waiting for the device once."""
    values = torch.stack([one for each in metrics for one in (each.loss, each.correct)]).tolist()
    return [(loss, round(correct)) for loss, correct in zip(values[::2], values[1::2], strict=True)]


class Evaluator:
    """Evaluates a network on all of some images; `metrics` has the outcome.

    Args:
        network: The network.
        images: What to evaluate it on.
        normalise: What the network's images are normalised by.
        runtime: Where and in which precision.
        calls: How a batch is done many times over.
    """

    def __init__(
        self,
        network: nn.Module,
        images: DeviceImages,
        normalise: Normaliser,
        runtime: RuntimeConfig,
        calls: Calls = plainly,
    ) -> None:
        self.metrics = RunningMetrics(images.device)
        self._network, self._images, self._setup = network, images, runtime
        self.normalise = normalise
        self._place = torch.zeros((), dtype=torch.int64, device=images.device)
        self._calls = calls

    def run(self, tick: Callable[[], None]) -> None:
        """Evaluate; the network is left in evaluation mode.

        Args:
            tick: Called before every batch; may raise to end it.
        """
        self._network.eval()
        self.metrics.reset()
        self._place.zero_()
        for size in batch_sizes(len(self._images), min(EVALUATION_BATCH, self._setup.micro_batch or EVALUATION_BATCH)):
            tick()
            self._calls(self._evaluate, size)

    def _evaluate(self, size: int) -> None:
        part = self._images.take(self._place + torch.arange(size, device=self._images.device))
        self._place += size
        with torch.inference_mode():
            with autocast(self._setup):
                logits = self._network(self.normalise(part.images))
            loss = summed_loss(logits, part.labels)
            self.metrics.add(loss, logits, part.labels)


def evaluate(
    network: nn.Module,
    images: DeviceImages,
    normalise: Normaliser,
    runtime: RuntimeConfig,
    tick: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy (a share of 1) of `network` on `images`.

    Args:
        network: The network; it is left in evaluation mode.
        images: What to evaluate it on.
        normalise: What the network's images are normalised by.
        runtime: Where and in which precision.
        tick: Called before every batch; may raise to end it.
    """
    evaluator = Evaluator(network, images, normalise, runtime)
    evaluator.run(tick)
    ((loss, correct),) = read_metrics(evaluator.metrics)
    return loss / len(images), correct / len(images)


def summed_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of a batch, summed over it, never in less than 32 bits."""
    precise = logits.float() if logits.dtype == torch.bfloat16 else logits
    return functional.cross_entropy(precise, labels, reduction="sum", label_smoothing=label_smoothing)


def autocast(runtime: RuntimeConfig) -> torch.autocast:
    """Return the context that a forward pass computes in: bfloat16 where the runtime says so."""
    return torch.autocast(runtime.torch_device.type, torch.bfloat16, enabled=runtime.precision == "bf16")
