"""Random augmentation of a whole batch on its device, with parameters for each image.

All parameters of an epoch are drawn on the CPU, so they are the same for every device. The device then augments each
batch in a few operations, without reading values from the host.
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
    """Random parameters of N images; None for a change that the recipe does not make."""

    angles: Tensor | None = None  # (N,), float32: angle of the rotation in radians, counter-clockwise
    offsets: Tensor | None = None  # (N, 2), int64: first row and column of the crop in the padded image
    mirrored: Tensor | None = None  # (N,), bool: whether to mirror the image left to right
    # (N, 2), float32 in [0, 1): row and column of the centre of the black square, as fractions of the sides.
    centres: Tensor | None = None
    operations: Tensor | None = None  # (N,), int64: operation of TrivialAugment
    magnitudes: Tensor | None = None  # (N,), float32: its magnitude
    boxes: Tensor | None = None  # (N, 4), float32: box of random erasing

    def to(self, device: torch.device) -> AugmentationParameters:
        """Return the parameters on `device`."""
        return AugmentationParameters(*(None if part is None else part.to(device) for part in self._parts()))

    def at(self, positions: Tensor) -> AugmentationParameters:
        """Return the parameters of the images at `positions`."""
        parts = (None if part is None else part.index_select(0, positions) for part in self._parts())
        return AugmentationParameters(*parts)

    def copy_(self, source: AugmentationParameters) -> None:
        """Copy the parameters of at most N images for the same changes, in place."""
        for target, values in zip(self._parts(), source._parts(), strict=True):
            if target is not None and values is not None:
                target[: len(values)].copy_(values)

    def _parts(self) -> tuple[Tensor | None, ...]:
        images = self.angles, self.offsets, self.mirrored, self.centres
        return *images, self.operations, self.magnitudes, self.boxes


def draw(count: int, augmentation: Augmentation, generator: torch.Generator) -> AugmentationParameters:
    """Return random parameters for `count` images, on the CPU.

    Only the changes that the recipe makes draw from `generator`, which is on the CPU too.
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
    images: Tensor, augmentation: Augmentation, parameters: AugmentationParameters, mean_color: Tensor | None = None
) -> Tensor:
    """Return the augmented images.

    In this order: rotation, crop and flip, TrivialAugment, cutout, random erasing. Images are augmented before
    normalisation, so pixels from outside the frame are black, as with the usual transforms of PIL images.

    Args:
        images: (N, C, H, W), uint8.
        augmentation: The recipe's augmentation.
        parameters: Its parameters for N images, on their device.
        mean_color: (1, C, 1, 1), uint8, on their device: the color of erased boxes; None without random erasing.

    Returns:
        (N, C, H, W), uint8.
    """
    if parameters.angles is not None:
        images = rotate(images, parameters.angles)
    if parameters.offsets is not None or parameters.mirrored is not None:
        images = crop_and_flip(images, augmentation.crop_padding, parameters, augmentation.padding)
    if parameters.operations is not None and parameters.magnitudes is not None:
        images = trivial_augment(images, parameters.operations, parameters.magnitudes)
    if parameters.centres is not None:
        images = cut_out(images, augmentation.cutout, parameters.centres)
    if parameters.boxes is not None and mean_color is not None:
        images = erase(images, parameters.boxes, mean_color)
    return images


def crop_and_flip(
    images: Tensor, padding: int, parameters: AugmentationParameters, padded_with: Padding = "zeros"
) -> Tensor:
    """Return crops of the original size from the padded images, some of them mirrored.

    Crop and flip are a single gather of pixels: each image has its own row indices and column indices.

    Args:
        images: (N, C, H, W), uint8.
        padding: Pixels added on each side.
        parameters: Offsets, and which images to mirror.
        padded_with: Zeros, or the image reflected at its outermost pixels.
    """
    count, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if parameters.mirrored is not None:
        columns = torch.where(parameters.mirrored[:, None], width - 1 - columns, columns)
    if parameters.offsets is not None:
        rows = rows + parameters.offsets[:, :1]
        columns = columns + parameters.offsets[:, 1:]
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


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Return the images, each rotated about its centre, by bilinear interpolation.

    Pixels from outside the frame are black.

    Args:
        images: (N, C, H, W), uint8.
        angles: (N,), in radians, counter-clockwise, on the images' device.
    """
    _, _, height, width = images.shape
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    matrices = torch.stack(
        (
            torch.stack((cosine, -sine * height / width, zero), dim=1),
            torch.stack((sine * width / height, cosine, zero), dim=1),
        ),
        dim=1,
    )
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    rotated = functional.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return rotated.round_().to(torch.uint8)


def cut_out(images: Tensor, side: int, centres: Tensor) -> Tensor:
    """Return the images, each with a black square around a pixel, clipped at the frame.

    As in DeVries and Taylor (2017): a square near the edge covers fewer pixels. With an even side, the centre is the
    first pixel of the square's second half.

    Args:
        images: (N, C, H, W), uint8.
        side: Side of the square in pixels.
        centres: (N, 2), fractions of height and width in [0, 1), on the images' device.
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
