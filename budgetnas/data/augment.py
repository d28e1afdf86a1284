"""Random changes to a whole batch on its device, each image with its own draw."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from budgetnas.recipe import Augmentation


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Return randomly rotated, cropped and mirrored images.

    Applied to images before normalisation, so that what comes in from outside the frame is black, as it is
    with the usual transforms of PIL images.

    Args:
        images: (N, C, H, W), uint8.
        augmentation: What to do, and how much.
        generator: Source of all draws, on the CPU: the same draws on every device.

    Returns:
        (N, C, H, W), uint8.
    """
    if augmentation.rotation:
        images = rotate(images, augmentation.rotation, generator)
    if augmentation.crop_padding or augmentation.flip:
        images = crop_and_flip(images, augmentation.crop_padding, augmentation.flip, generator)
    return images


def crop_and_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Return random crops, back to size, of the images padded with zeros; half of them mirrored if `flip`.

    Crop and flip are one gather of pixels: an index for each image and row, and for each image and column.

    Args:
        images: (N, C, H, W), uint8.
        padding: Zeros on each side, in pixels.
        flip: Whether to mirror half of the images.
        generator: Source of the draws, on the CPU.
    """
    count, _, height, width = images.shape
    offsets = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    rows = torch.arange(height) + offsets[0]
    columns = torch.arange(width).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + offsets[1]
    padded = functional.pad(images, (padding,) * 4) if padding else images
    device = images.device
    rows, columns = rows.to(device, non_blocking=True), columns.to(device, non_blocking=True)
    which = torch.arange(count, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def rotate(images: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Return the images, each turned about its centre by an angle drawn evenly from -degrees to degrees.

    Args:
        images: (N, C, H, W), uint8.
        degrees: Largest angle.
        generator: Source of the draws, on the CPU.
    """
    angles = (torch.rand(len(images), generator=generator) * 2 - 1) * math.radians(degrees)
    return turn(images, angles)


def turn(images: Tensor, angles: Tensor) -> Tensor:
    """Return the images, each turned about its centre.

    Bilinear; what comes in from outside the frame is black.

    Args:
        images: (N, C, H, W), uint8.
        angles: (N,), in radians, counter-clockwise, on the CPU.
    """
    count, _, height, width = images.shape
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros(count)
    turns = torch.stack(
        (
            torch.stack((cosine, -sine * height / width, zero), dim=1),
            torch.stack((sine * width / height, cosine, zero), dim=1),
        ),
        dim=1,
    ).to(images.device, non_blocking=True)
    grid = functional.affine_grid(turns, list(images.shape), align_corners=False)
    turned = functional.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)
    return turned.round_().to(torch.uint8)
