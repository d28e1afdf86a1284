"""The schedule of an epoch: which images come when, and what is done to them, decided before its first step.

All of it lies on the device in memory that never moves, and a place in it that moves with every batch. A step takes
no number from the host then: it can be captured once and replayed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from budgetnas.space.recipe import Augmentation
from budgetnas.training.augmentation import AugmentationParameters, draw
from budgetnas.training.device import num_steps
from budgetnas.training.mixing import draw_mixing, is_mixed


class EpochSchedule:
    """Indices of images in their order, and the draws of their augmentation.

    Args:
        size: Most images in one epoch.
        augmentation: What is drawn for each.
        device: Where the images lie.
        batch: Images in one step.
    """

    def __init__(self, size: int, augmentation: Augmentation, device: torch.device, batch: int) -> None:
        self._augmentation = augmentation
        self._order = torch.zeros(size, dtype=torch.int64, device=device)
        self._draws = draw(size, augmentation, torch.Generator()).to(device)
        self._place = torch.zeros((), dtype=torch.int64, device=device)
        self._batch = batch
        self._mixing = torch.zeros(num_steps(size, batch), 4, device=device) if is_mixed(augmentation) else None
        self._step = torch.zeros(1, dtype=torch.int64, device=device)

    def begin(self, order: Tensor, generator: torch.Generator) -> None:
        """Begin an epoch in this order, with fresh draws.

        Args:
            order: (N,), int64, on the CPU: no more indices than the schedule has places.
            generator: Source of the draws, on the CPU.
        """
        self._order[: len(order)].copy_(order)
        self._draws.copy_(draw(len(order), self._augmentation, generator))
        self._place.zero_()
        if self._mixing is not None:
            steps = num_steps(len(order), self._batch)
            self._mixing[:steps].copy_(draw_mixing(steps, self._augmentation, generator))
            self._step.zero_()

    def next_mixing(self) -> Tensor | None:
        """Return how the next batch is mixed, a row of `draw_mixing`, and move on; None if batches are not mixed."""
        if self._mixing is None:
            return None
        row = self._mixing.index_select(0, self._step)[0]
        self._step += 1
        return row

    def next(self, count: int) -> tuple[Tensor, AugmentationParameters]:
        """Return the indices and draws of the next `count` images, and move on."""
        places = self._place + torch.arange(count, device=self._order.device)
        self._place += count
        return self._order.index_select(0, places), self._draws.at(places)
