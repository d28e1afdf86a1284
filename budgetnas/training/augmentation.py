"""Random changes to a whole batch on its device, each image with its own draw.

Drawing and changing are two things: the draws of a whole epoch are made at once on the CPU, the same ones for every
device, and a batch is then changed by a few operations on its device without asking for a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from budgetnas.space.recipe import Augmentation, Padding
from budgetnas.training.strong_augmentation import draw_boxes, draw_operations, erase, trivial_augment


@dataclass(frozen=True, slots=True)
class AugmentationParameters:
    """What chance decides about each of N images; nothing for a change that is not made.

    Attributes:
        angles: (N,), float32: angle of the rotation in radians, counter-clockwise.
        offsets: (N, 2), int64: row and column of the padded image that the crop begins at.
        mirrored: (N,), bool: whether the image is mirrored left to right.
        centres: (N, 2), float32 in [0, 1): row and column of the black square's centre, as shares of the sides.
        operations: (N,), int64: operation of TrivialAugment.
        magnitudes: (N,), float32: its magnitude.
        boxes: (N, 4), float32: box of random erasing.
    """

    angles: Tensor | None = None
    offsets: Tensor | None = None
    mirrored: Tensor | None = None
    centres: Tensor | None = None
    operations: Tensor | None = None
    magnitudes: Tensor | None = None
    boxes: Tensor | None = None

    def to(self, device: torch.device) -> AugmentationParameters:
        """Return the same draws on `device`."""
        return AugmentationParameters(*(None if one is None else one.to(device) for one in self._parts()))

    def at(self, places: Tensor) -> AugmentationParameters:
        """Return the draws of some of the images, in the order of `places`."""
        return AugmentationParameters(*(None if one is None else one.index_select(0, places) for one in self._parts()))

    def copy_(self, others: AugmentationParameters) -> None:
        """Take over the values of other draws of the same changes, no more of them, in the memory that is there."""
        for mine, other in zip(self._parts(), others._parts(), strict=True):
            if mine is not None and other is not None:
                mine[: len(other)].copy_(other)

    def _parts(self) -> tuple[Tensor | None, ...]:
        images = self.angles, self.offsets, self.mirrored, self.centres
        return *images, self.operations, self.magnitudes, self.boxes


def draw(count: int, augmentation: Augmentation, generator: torch.Generator) -> AugmentationParameters:
    """Return the draws for `count` images, on the CPU.

    Args:
        count: Number of images.
        augmentation: What to do, and how much.
        generator: Source of all draws, on the CPU; a change that is not made draws nothing from it.
    """
    angles = offsets = mirrored = centres = operations = magnitudes = boxes = None
    if augmentation.rotation:
        angles = (torch.rand(count, generator=generator) * 2 - 1) * math.radians(augmentation.rotation)
    if augmentation.crop_padding:
        offsets = torch.randint(0, 2 * augmentation.crop_padding + 1, (count, 2), generator=generator)
    if augmentation.flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
    if augmentation.cutout:
        centres = torch.rand(count, 2, generator=generator)
    if augmentation.trivial_augment:
        operations, magnitudes = draw_operations(count, generator)
    if augmentation.erasing:
        boxes = draw_boxes(count, augmentation.erasing, generator)
    return AugmentationParameters(angles, offsets, mirrored, centres, operations, magnitudes, boxes)


def augment(
    images: Tensor, augmentation: Augmentation, draws: AugmentationParameters, mean_color: Tensor | None = None
) -> Tensor:
    """Return the images changed as `draws` of this augmentation say.

    In this order: rotation, crop and flip, TrivialAugment, cutout, random erasing. Applied to images before
    normalisation, so that what comes in from outside the frame is black, as it is with the usual transforms of PIL
    images.

    Args:
        images: (N, C, H, W), uint8.
        augmentation: What was drawn for.
        draws: What chance decided, for N images, on their device.
        mean_color: (1, C, 1, 1), uint8, on their device: what boxes are erased with; needed for random erasing only.

    Returns:
        (N, C, H, W), uint8.
    """
    if draws.angles is not None:
        images = turn(images, draws.angles)
    if draws.offsets is not None or draws.mirrored is not None:
        images = crop_and_flip(images, augmentation.crop_padding, draws, augmentation.padding)
    if draws.operations is not None and draws.magnitudes is not None:
        images = trivial_augment(images, draws.operations, draws.magnitudes)
    if draws.centres is not None:
        images = cut_out(images, augmentation.cutout, draws.centres)
    if draws.boxes is not None and mean_color is not None:
        images = erase(images, draws.boxes, mean_color)
    return images


def crop_and_flip(
    images: Tensor, padding: int, draws: AugmentationParameters, padded_with: Padding = "zeros"
) -> Tensor:
    """Return crops, back to size, of the padded images, some of them mirrored.

    Crop and flip are one gather of pixels: an index for each image and row, and for each image and column.

    Args:
        images: (N, C, H, W), uint8.
        padding: Pixels added on each side.
        draws: Offsets and which images are mirrored.
        padded_with: What is added: zeros, or the image reflected at its outermost pixels.
    """
    count, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if draws.mirrored is not None:
        columns = torch.where(draws.mirrored[:, None], width - 1 - columns, columns)
    if draws.offsets is not None:
        rows = rows + draws.offsets[:, :1]
        columns = columns + draws.offsets[:, 1:]
    pixels = images.permute(0, 2, 3, 1)
    if padded_with == "reflect":
        padded, rows, columns = pixels, _reflected(rows - padding, height), _reflected(columns - padding, width)
    else:
        padded = functional.pad(pixels, (0, 0, *(padding,) * 4))
    which = torch.arange(count, device=device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _reflected(indices: Tensor, length: int) -> Tensor:
    """Return the pixels of an image at indices outside it, reflected at its outermost pixels as often as needed."""
    last = max(1, length - 1)
    return (last - (indices.remainder(2 * last) - last).abs()).clamp(max=length - 1)


def turn(images: Tensor, angles: Tensor) -> Tensor:
    """Return the images, each turned about its centre.

    Bilinear; what comes in from outside the frame is black.

    Args:
        images: (N, C, H, W), uint8.
        angles: (N,), in radians, counter-clockwise, on the images' device.
    """
    _, _, height, width = images.shape
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    turns = torch.stack(
        (
            torch.stack((cosine, -sine * height / width, zero), dim=1),
            torch.stack((sine * width / height, cosine, zero), dim=1),
        ),
        dim=1,
    )
    grid = functional.affine_grid(turns, list(images.shape), align_corners=False)
    turned = functional.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return turned.round_().to(torch.uint8)


def cut_out(images: Tensor, side: int, centres: Tensor) -> Tensor:
    """Return the images, each with a black square about a pixel of it; what lies outside the frame is cut off.

    As DeVries and Taylor (2017) do it, so that a square near the edge covers fewer pixels. With an even side, the
    centre is the first pixel of the square's second half.

    Args:
        images: (N, C, H, W), uint8.
        side: Side of the square in pixels.
        centres: (N, 2), shares of height and width in [0, 1), on the images' device.
    """
    height, width = images.shape[2:]
    down = _covered(centres[:, 0], height, side)
    across = _covered(centres[:, 1], width, side)
    return images.masked_fill((down[:, :, None] & across[:, None, :])[:, None], 0)


def _covered(centres: Tensor, length: int, side: int) -> Tensor:
    """Return (N, length), bool: which rows or columns the square covers."""
    pixels = torch.arange(length, device=centres.device)
    first = (centres * length).long().clamp(max=length - 1)[:, None] - side // 2
    return (pixels >= first) & (pixels < first + side)
