"""Strong changes to a whole batch on its device, each image with its own: TrivialAugment and random erasing.

No operation waits for the device and all shapes are fixed, so that a CUDA graph can capture them. Every image passes
through three stages: a move (a gather with a matrix for each image), a table of 256 levels for each channel, and a
blend with a gray or a blurred copy. A stage changes only the images that drew one of its operations.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as functional
from torch import Tensor

OPERATIONS: Final = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""The operations of TrivialAugment in torchvision's order; each image draws any of them equally often."""
BINS: Final = 31
"""Strengths of each operation, drawn equally often."""
_SIGNED: Final = OPERATIONS[1:10]
_LEVELS: Final = 256
_ERASED_AREA: Final = (0.02, 0.33)
_ERASED_RATIO: Final = (0.3, 3.3)
_ERASING_TRIES: Final = 10


def magnitudes_of(operation: str) -> Tensor:
    """Return the (`BINS`,) magnitudes of an operation in the "wide" space of Müller and Hutter (2021), as torchvision.

    The unit depends on the operation. Shears are tangents, translations whole pixels, rotations degrees; Brightness,
    Color, Contrast and Sharpness have the factor minus 1. All of these get a random sign. Posterize has the distance
    between the levels that are kept, Solarize the lowest level that is inverted, and all other operations have 0.
    """
    match operation:
        case "ShearX" | "ShearY" | "Brightness" | "Color" | "Contrast" | "Sharpness":
            return torch.linspace(0.0, 0.99, BINS)
        case "TranslateX" | "TranslateY":
            return torch.linspace(0.0, 32.0, BINS).floor()
        case "Rotate":
            return torch.linspace(0.0, 135.0, BINS)
        case "Posterize":
            return torch.exp2((torch.arange(BINS) / ((BINS - 1) / 6)).round())
        case "Solarize":
            return (255 * torch.linspace(1.0, 0.0, BINS).double()).float().ceil()
        case _:
            return torch.zeros(BINS)


def draw_operations(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw TrivialAugment for `count` images, on the CPU.

    Returns:
        (N,), int64: index of the operation in `OPERATIONS`; (N,), float32: its magnitude, see `magnitudes_of`.
    """
    operations = torch.randint(len(OPERATIONS), (count,), generator=generator)
    bins = torch.randint(BINS, (count,), generator=generator)
    signs = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    table = torch.stack([magnitudes_of(operation) for operation in OPERATIONS])
    signed = torch.tensor([operation in _SIGNED for operation in OPERATIONS])
    return operations, table[operations, bins] * torch.where(signed[operations], signs, 1.0)


def trivial_augment(images: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Return the images, each changed by its operation as torchvision's ``TrivialAugmentWide`` does it.

    Moves take the nearest pixel; what comes in from outside the frame is black.

    Args:
        images: (N, C, H, W), uint8.
        operations: (N,), int64, indices in `OPERATIONS`, on the images' device.
        magnitudes: (N,), float32.

    Returns:
        (N, C, H, W), uint8.
    """
    moved = _move(images, operations, magnitudes)
    gray = _gray(moved)
    tables = _tables(moved, gray, operations, magnitudes)
    levels = tables.gather(2, moved.flatten(2).long()).view(moved.shape)
    return _blend(levels, gray, operations, magnitudes)


def _is(operations: Tensor, name: str) -> Tensor:
    return operations == OPERATIONS.index(name)


def _magnitude(name: str, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Return (N,): the magnitude of the images that drew operation `name`, and 0 for all others."""
    return magnitudes * _is(operations, name)


def _move(images: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Return the images sheared about the top left corner, translated, or turned about the centre."""
    count, _, height, width = images.shape
    device = images.device
    shear_x, shear_y, shift_x, shift_y, degrees = (
        _magnitude(name, operations, magnitudes)[:, None, None]
        for name in ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
    )
    angles = degrees * (math.pi / 180)
    cosine, sine = angles.cos(), angles.sin()
    x = torch.arange(width, device=device) - (width - 1) / 2
    y = (torch.arange(height, device=device) - (height - 1) / 2)[:, None]
    from_x = cosine * x + (shear_x - sine) * y + (shear_x * (height / 2) - shift_x + (width - 1) / 2)
    from_y = (shear_y + sine) * x + cosine * y + (shear_y * (width / 2) - shift_y + (height - 1) / 2)
    columns, rows = from_x.round().long(), from_y.round().long()
    outside = (columns < 0) | (columns >= width) | (rows < 0) | (rows >= height)
    which = torch.arange(count, device=device)[:, None, None]
    pixels = images.permute(0, 2, 3, 1)[which, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    return pixels.masked_fill(outside[..., None], 0).permute(0, 3, 1, 2)


def _gray(images: Tensor) -> Tensor:
    """Return (N, 1, H, W), float32: the brightness of each pixel, a whole number."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().unbind(dim=1)
    return red.mul(0.2989).add(green, alpha=0.587).add(blue, alpha=0.114).floor()[:, None]


def _tables(images: Tensor, gray: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Return (N, C, 256), uint8: the level that each level of a channel becomes."""
    levels = torch.arange(_LEVELS, dtype=torch.float32, device=images.device)
    amount = magnitudes[:, None, None]
    target = (gray.mean(dim=(1, 2, 3)) * _is(operations, "Contrast"))[:, None, None]
    scaled = (levels * (1 + amount) - target * amount).clamp(0, 255)
    step = magnitudes.masked_fill(~_is(operations, "Posterize"), 1.0)[:, None, None]
    by_operation = {
        "Brightness": scaled,
        "Contrast": scaled,
        "Posterize": levels - levels.remainder(step),
        "Solarize": torch.where(levels >= amount, 255 - levels, levels),
        "AutoContrast": _stretched(images, levels),
        "Equalize": _equalized(images, levels),
    }
    tables = levels.expand(*images.shape[:2], _LEVELS)
    for name, table in by_operation.items():
        tables = torch.where(_is(operations, name)[:, None, None], table, tables)
    return tables.to(torch.uint8)


def _stretched(images: Tensor, levels: Tensor) -> Tensor:
    """Return (N, C, 256): levels stretched to 0 to 255 in each channel; unchanged where all pixels are equal."""
    lowest, highest = (extreme.float()[..., None] for extreme in (images.amin((2, 3)), images.amax((2, 3))))
    plain = highest == lowest
    scale = ((highest - lowest) * (1 / 255)).masked_fill(plain, 1.0)
    return torch.where(plain, levels, ((levels - lowest) / scale).clamp(0, 255))


def _equalized(images: Tensor, levels: Tensor) -> Tensor:
    """Return (N, C, 256): levels of an even histogram, as PIL's ``ImageOps.equalize`` computes them."""
    indices = images.flatten(2).long()
    histogram = torch.zeros(*images.shape[:2], _LEVELS, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, indices, torch.ones_like(indices))
    brightest = histogram.gather(2, indices.amax(dim=2, keepdim=True))
    step = (indices.shape[2] - brightest) // 255
    below = histogram.cumsum(dim=2) - histogram
    return torch.where(step == 0, levels, ((below + step // 2) // step.clamp(min=1)).clamp(0, 255).float())


def _blend(images: Tensor, gray: Tensor, operations: Tensor, magnitudes: Tensor) -> Tensor:
    """Return the images with more or less colour, or sharpness: moved away from a gray or a blurred copy."""
    plain = images.float()
    inner = plain[..., 1:-1, 1:-1]
    blurred = ((functional.avg_pool2d(plain, 3, stride=1, divisor_override=1) + 4 * inner) / 13).round()
    from_blurred = functional.pad(inner - blurred, (1, 1, 1, 1))
    color, sharpness = (
        _magnitude(name, operations, magnitudes)[:, None, None, None] for name in ("Color", "Sharpness")
    )
    return (plain + color * (plain - gray) + sharpness * from_blurred).clamp_(0, 255).to(torch.uint8)


def draw_boxes(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw the boxes of random erasing (Zhong et al. 2020) for `count` images, on the CPU.

    A box covers 2 to 33 % of the image, and the ratio of its sides is 0.3 to 3.3 (on a log scale). Of ten draws, the
    first that is smaller than the image is used; if none is, nothing is erased.

    Returns:
        (N, 4), float32: height and width as shares of the image's, both 0 where nothing is erased; then row and column
        of the top left corner, as fractions in [0, 1) of the positions where the box fits.
    """
    shape = (count, _ERASING_TRIES)
    low, high = _ERASED_AREA
    area = torch.rand(shape, generator=generator) * (high - low) + low
    low, high = (math.log(ratio) for ratio in _ERASED_RATIO)
    root = ((torch.rand(shape, generator=generator) * (high - low) + low) / 2).exp()
    sides = torch.stack((area.sqrt() * root, area.sqrt() / root), dim=2)
    first = (sides < 1).all(dim=2).float().argmax(dim=1)
    sides = sides[torch.arange(count), first]
    erased = (torch.rand(count, generator=generator) < probability) & (sides < 1).all(dim=1)
    return torch.cat((sides * erased[:, None], torch.rand(count, 2, generator=generator)), dim=1)


def erase(images: Tensor, boxes: Tensor, color: Tensor) -> Tensor:
    """Return the images, each with its box filled.

    Args:
        images: (N, C, H, W), uint8.
        boxes: (N, 4), float32, on the images' device, see `draw_boxes`.
        color: (1, C, 1, 1), uint8: what the boxes are filled with.
    """
    height, width = images.shape[2:]
    rows, columns = _span(boxes[:, 0], boxes[:, 2], height), _span(boxes[:, 1], boxes[:, 3], width)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], color, images)


def _span(share: Tensor, place: Tensor, length: int) -> Tensor:
    """Return (N, length), bool: which rows or columns a box covers."""
    side = (share * length).round().clamp(max=length - 1)[:, None]
    first = (place[:, None] * (length - side + 1)).floor()
    pixels = torch.arange(length, device=share.device)
    return (pixels >= first) & (pixels < first + side)
