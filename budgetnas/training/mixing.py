"""Batches mixed with themselves: mixup and CutMix, decided for a whole epoch before its first step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from budgetnas.space.recipe import Augmentation
from budgetnas.training.evaluation import summed_loss


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of a batch."""

    labels: Tensor  # (N,), int64
    # (N,), int64: labels of the images that were mixed in, or None for a batch that is not mixed.
    others: Tensor | None = None
    # (), float32: weight of `labels`; the weight of `others` is 1 - share. None for a batch that is not mixed.
    share: Tensor | None = None

    def split(self, pieces: int) -> list[Targets]:
        """Return the targets of nearly equal pieces of the batch, as ``Tensor.tensor_split`` makes them."""
        labels = self.labels.tensor_split(pieces)
        if self.others is None:
            return [Targets(part) for part in labels]
        return [Targets(*parts, self.share) for parts in zip(labels, self.others.tensor_split(pieces), strict=True)]

    def loss(self, logits: Tensor, label_smoothing: float, class_weights: Tensor | None = None) -> Tensor:
        """Return the cross-entropy towards the mixed labels, summed over the batch."""
        loss = summed_loss(logits, self.labels, label_smoothing, class_weights)
        if self.others is None or self.share is None:
            return loss
        other = summed_loss(logits, self.others, label_smoothing, class_weights)
        return self.share * loss + (1 - self.share) * other

    @property
    def main_labels(self) -> Tensor:
        """(N,), int64: each image's label with the larger weight; training accuracy compares with it."""
        if self.others is None or self.share is None:
            return self.labels
        return torch.where(self.share >= 0.5, self.labels, self.others)


def is_mixed(augmentation: Augmentation) -> bool:
    """Return whether batches are mixed."""
    return bool(augmentation.mixup or augmentation.cutmix)


def draw_mixing(batches: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Draw the mixing of each batch, on the CPU.

    A batch gets mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), with a share from the Beta distribution of that
    method. If the recipe has both, each has probability 1/2.

    Returns:
        (batches, 4), float32: the weight of an image outside the box; half the box's side as a share of the image's, 0
        for mixup; row and column of its centre, as shares in [0, 1).
    """
    chance = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    mixup, cutmix = (
        torch.from_numpy(chance.beta(alpha or 1.0, alpha or 1.0, batches)).float()
        for alpha in (augmentation.mixup, augmentation.cutmix)
    )
    if augmentation.mixup and augmentation.cutmix:
        is_cut = torch.from_numpy(chance.random(batches) < 0.5)
    else:
        is_cut = torch.full((batches,), bool(augmentation.cutmix))
    weight = torch.where(is_cut, 1.0, mixup)
    half = torch.where(is_cut, (1 - cutmix).sqrt() / 2, 0.0)
    centres = torch.from_numpy(chance.random((batches, 2))).float()
    return torch.cat((weight[:, None], half[:, None], centres), dim=1)


def mix(images: Tensor, labels: Tensor, drawn: Tensor) -> tuple[Tensor, Targets]:
    """Return a batch in which each image is mixed with the previous image; the first with the last.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,), int64.
        drawn: (4,), float32, on the images' device: a row of `draw_mixing`.

    Returns:
        (N, C, H, W), float32 in 0 to 255, and its targets. The box is cut off at the edges and the share counts its
        pixels, as in torchvision's ``CutMix``.
    """
    height, width = images.shape[2:]
    weight, half, row, column = drawn.unbind()
    rows, columns = _span(row, half, height), _span(column, half, width)
    box = rows[:, None] & columns
    share = weight * (1 - box.sum() / (height * width))
    own, other = images.float(), images.roll(1, 0).float()
    mixed = other + (own - other) * (weight * ~box)
    return mixed, Targets(labels, labels.roll(1, 0), share)


def _span(centre: Tensor, half: Tensor, length: int) -> Tensor:
    """Return (length,), bool: which rows or columns the box covers."""
    middle, reach = (centre * length).floor(), (half * length).floor()
    pixels = torch.arange(length, device=centre.device)
    return (pixels >= middle - reach) & (pixels < middle + reach)
