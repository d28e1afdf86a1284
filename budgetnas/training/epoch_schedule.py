"""The schedule of an epoch: which images come when, and what is done to them, decided before its first step.

All of it lies on the device in memory that never moves, and a place in it that moves with every batch. A step takes
no number from the host then: it can be captured once and replayed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from budgetnas.space.recipe import Augmentation
from budgetnas.training.augmentation import AugmentationParameters, draw


class EpochSchedule:
    """Indices of images in their order, and the draws of their augmentation.

    Args:
        size: Most images in one epoch.
        augmentation: What is drawn for each.
        device: Where the images lie.
    """

    def __init__(self, size: int, augmentation: Augmentation, device: torch.device) -> None:
        self._augmentation = augmentation
        self._order = torch.zeros(size, dtype=torch.int64, device=device)
        self._draws = draw(size, augmentation, torch.Generator()).to(device)
        self._place = torch.zeros((), dtype=torch.int64, device=device)

    def begin(self, order: Tensor, generator: torch.Generator) -> None:
        """Begin an epoch in this order, with fresh draws.

        Args:
            order: (N,), int64, on the CPU: no more indices than the schedule has places.
            generator: Source of the draws, on the CPU.
        """
        self._order[: len(order)].copy_(order)
        self._draws.copy_(draw(len(order), self._augmentation, generator))
        self._place.zero_()

    def next(self, count: int) -> tuple[Tensor, AugmentationParameters]:
        """Return the indices and draws of the next `count` images, and move on."""
        places = self._place + torch.arange(count, device=self._order.device)
        self._place += count
        return self._order.index_select(0, places), self._draws.at(places)
