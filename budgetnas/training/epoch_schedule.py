"""The schedule of an epoch, decided before its first step: the order of the images and their augmentation.

It is stored on the device in memory that never moves, with a position that advances with every batch. A step then needs
no number from the host, so it can be captured once and replayed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from budgetnas.space.recipe import Augmentation
from budgetnas.training.augmentation import AugmentationParameters, draw


class EpochSchedule:
    """Indices of images in their order, and their augmentation parameters.

    Args:
        size: Largest number of images in an epoch.
        augmentation: The recipe's augmentation.
        device: Device of the images.
    """

    def __init__(self, size: int, augmentation: Augmentation, device: torch.device) -> None:
        self._augmentation = augmentation
        self._order = torch.zeros(size, dtype=torch.int64, device=device)
        self._parameters = draw(size, augmentation, torch.Generator()).to(device)
        self._position = torch.zeros((), dtype=torch.int64, device=device)

    def begin(self, order: Tensor, generator: torch.Generator) -> None:
        """Begin an epoch in this order, with fresh augmentation parameters.

        Args:
            order: (N,), int64, on the CPU, N at most `size`.
            generator: Random source, on the CPU.
        """
        self._order[: len(order)].copy_(order)
        self._parameters.copy_(draw(len(order), self._augmentation, generator))
        self._position.zero_()

    def next(self, count: int) -> tuple[Tensor, AugmentationParameters]:
        """Return indices and augmentation parameters of the next `count` images, and advance."""
        positions = self._position + torch.arange(count, device=self._order.device)
        self._position += count
        return self._order.index_select(0, positions), self._parameters.at(positions)
