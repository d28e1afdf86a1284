"""The schedule of an epoch, decided before its first step: order, augmentation and mixing of the images.

It is stored at a fixed place in the device's memory, with a position that advances with every batch. So a training step
needs no value from the host, and can be captured once as a CUDA graph and replayed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from budgetnas.space.recipe import Augmentation
from budgetnas.training.augmentation import AugmentationParameters, draw
from budgetnas.training.device import num_steps
from budgetnas.training.mixing import draw_mixing, is_mixed


class EpochSchedule:
    """Indices of images in their order, their augmentation parameters, and how batches are mixed.

    An epoch has at most `size` images, a step has `batch`.
    """

    def __init__(self, size: int, augmentation: Augmentation, device: torch.device, batch: int) -> None:
        self._augmentation = augmentation
        self._order = torch.zeros(size, dtype=torch.int64, device=device)
        self._parameters = draw(size, augmentation, torch.Generator()).to(device)
        self._position = torch.zeros((), dtype=torch.int64, device=device)
        self._batch = batch
        self._mixing = torch.zeros(num_steps(size, batch), 4, device=device) if is_mixed(augmentation) else None
        self._step = torch.zeros(1, dtype=torch.int64, device=device)

    def begin(self, order: Tensor, generator: torch.Generator) -> None:
        """Begin an epoch in this order, with fresh random parameters.

        Args:
            order: (N,), int64, on the CPU, N at most `size`.
            generator: Random source, on the CPU.
        """
        self._order[: len(order)].copy_(order)
        self._parameters.copy_(draw(len(order), self._augmentation, generator))
        self._position.zero_()
        if self._mixing is not None:
            steps = num_steps(len(order), self._batch)
            self._mixing[:steps].copy_(draw_mixing(steps, self._augmentation, generator))
            self._step.zero_()

    def next_mixing(self) -> Tensor | None:
        """Return the mixing of the next batch, a row of `draw_mixing`, and advance; None if batches are not mixed."""
        if self._mixing is None:
            return None
        row = self._mixing.index_select(0, self._step)[0]
        self._step += 1
        return row

    def next(self, count: int) -> tuple[Tensor, AugmentationParameters]:
        """Return indices and augmentation parameters of the next `count` images, and advance."""
        positions = self._position + torch.arange(count, device=self._order.device)
        self._position += count
        return self._order.index_select(0, positions), self._parameters.at(positions)
