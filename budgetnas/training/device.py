"""Images on the device, decoded once and kept as uint8, and the batches drawn from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from budgetnas.data import Images, channel_statistics
from budgetnas.space.recipe import Normalisation


@dataclass(frozen=True, slots=True)
class DeviceImages:
    """A split on the device."""

    # (N, C, H, W), uint8; `to_device` lays them out channels-last, so the channels of a pixel are adjacent.
    images: Tensor
    labels: Tensor  # (N,), int64

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    @property
    def device(self) -> torch.device:
        """The device of the images."""
        return self.images.device

    def empty(self) -> DeviceImages:
        """Return zero images of the same shape on the same device."""
        return self.take(torch.empty(0, dtype=torch.int64, device=self.device))

    def joined_with(self, other: DeviceImages) -> DeviceImages:
        """Return these images followed by those of `other`."""
        pixels = torch.cat([part.images.permute(0, 2, 3, 1) for part in (self, other)]).permute(0, 3, 1, 2)
        return DeviceImages(pixels, torch.cat([self.labels, other.labels]))

    def take(self, indices: Tensor) -> DeviceImages:
        """Return the images at `indices`, which must be on the same device."""
        pixels = self.images.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
        return DeviceImages(pixels, self.labels.index_select(0, indices))


def to_device(images: Images, device: torch.device) -> DeviceImages:
    """Return `images` on `device`."""
    pixels = torch.from_numpy(np.ascontiguousarray(images.images.transpose(0, 2, 3, 1)))
    labels = torch.from_numpy(np.ascontiguousarray(images.labels))
    return DeviceImages(pixels.to(device).permute(0, 3, 1, 2), labels.to(device))


def statistics(images: Images) -> Normalisation:
    """Return mean and standard deviation of each channel of `images`, for values in [0, 1]."""
    mean, std = channel_statistics(images.images)
    return Normalisation(mean=mean, std=std)


@dataclass(frozen=True, slots=True)
class Normaliser:
    """Turns uint8 images into normalised float32 ones."""

    scale: Tensor  # (1, C, 1, 1), factor of a pixel value of 0 to 255
    shift: Tensor  # (1, C, 1, 1), added afterwards
    memory_format: torch.memory_format = torch.channels_last  # memory layout of the result
    # (1, C, 1, 1), uint8: the pixel value that is normalised to nearly 0; None if not needed.
    mean_color: Tensor | None = None

    @classmethod
    def of(
        cls,
        constants: Normalisation,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> Normaliser:
        """Return the normaliser of these constants on `device`."""
        mean = torch.tensor(constants.mean, dtype=torch.float64).view(1, -1, 1, 1)
        std = torch.tensor(constants.std, dtype=torch.float64).view(1, -1, 1, 1)
        scale, shift = 1 / (255 * std), -mean / std
        color = (255 * mean).round().clamp(0, 255).to(torch.uint8)
        return cls(scale.float().to(device), shift.float().to(device), memory_format, color.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """Return (images / 255 - mean) / std as float32; float32 images may be overwritten."""
        plain = images.to(dtype=self.scale.dtype, memory_format=self.memory_format)
        return plain.mul_(self.scale).add_(self.shift)


def epoch_size(size: int, batch: int) -> int:
    """Return how many of `size` images an epoch uses.

    A last batch of a single image is dropped: batch normalisation of a single image has no variance.
    """
    return size - 1 if size > 1 and size % batch == 1 else size


def epoch_order(size: int, batch: int, generator: torch.Generator) -> Tensor:
    """Return a random order of an epoch's images, as `epoch_size` indices on the CPU."""
    return torch.randperm(size, generator=generator)[: epoch_size(size, batch)]


def num_steps(size: int, batch: int) -> int:
    """Return how many batches an epoch of `size` images has."""
    return -(-epoch_size(size, batch) // batch)


def batch_sizes(size: int, batch: int) -> Iterator[int]:
    """Yield the size of each batch of `size` images; the last may be smaller."""
    for start in range(0, size, batch):
        yield min(batch, size - start)
