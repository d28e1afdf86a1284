from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from budgetnas.data import Images
from budgetnas.space.recipe import Normalisation
from budgetnas.training.device import Normaliser, batch_sizes, epoch_order, num_steps, statistics, to_device

CPU = torch.device("cpu")
CONSTANTS = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))


def some(count: int = 6, channels: int = 3) -> Images:
    random = np.random.default_rng(0)
    return Images(random.integers(0, 256, (count, channels, 5, 5), dtype=np.uint8), random.integers(0, 4, count))


def test_normalised_images_are_those_of_the_plain_formula() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, -1, -1)
    mean = torch.tensor(CONSTANTS.mean, dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor(CONSTANTS.std, dtype=torch.float64).view(1, 3, 1, 1)
    expected = (pixels.double() / 255 - mean) / std
    result = Normaliser.of(CONSTANTS, CPU)(pixels)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-6)


def test_normalising_leaves_the_images_alone() -> None:
    images = torch.from_numpy(some().images)
    before = images.clone()
    Normaliser.of(CONSTANTS, CPU)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_normalised_with_their_own_statistics_have_mean_0_and_deviation_1(channels: int) -> None:
    images = some(200, channels)
    result = Normaliser.of(statistics(images), CPU)(torch.from_numpy(images.images)).double()
    torch.testing.assert_close(result.mean(dim=(0, 2, 3)), torch.zeros(channels).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        result.std(dim=(0, 2, 3), correction=0), torch.ones(channels).double(), rtol=0, atol=1e-6
    )


def test_images_are_placed_as_they_are() -> None:
    images = some()
    placed = to_device(images, CPU)
    assert (len(placed), placed.device) == (6, CPU)
    assert (placed.images.dtype, placed.labels.dtype) == (torch.uint8, torch.int64)
    np.testing.assert_array_equal(placed.images.numpy(), images.images)
    np.testing.assert_array_equal(placed.labels.numpy(), images.labels)


def test_images_in_any_memory_order_can_be_placed() -> None:
    images = some()
    turned = Images(images.images[::-1].transpose(0, 1, 3, 2), images.labels[::-1])
    placed = to_device(turned, CPU)
    np.testing.assert_array_equal(placed.images.numpy(), turned.images)


def test_some_of_the_images_can_be_taken() -> None:
    placed = to_device(some(), CPU)
    taken = placed.take(torch.tensor([4, 0, 4]))
    assert torch.equal(taken.images, placed.images[[4, 0, 4]])
    assert torch.equal(taken.labels, placed.labels[[4, 0, 4]])
    assert taken.images.is_contiguous(memory_format=torch.channels_last)


@given(st.integers(1, 300), st.integers(2, 64), st.integers(0, 2**63 - 1))
def test_an_epoch_has_each_image_once_but_no_batch_of_one(size: int, batch: int, seed: int) -> None:
    order = epoch_order(size, batch, torch.Generator().manual_seed(seed))
    sizes = list(batch_sizes(len(order), batch))
    assert len(set(order.tolist())) == len(order)
    assert set(order.tolist()) <= set(range(size))
    assert sum(sizes) == len(order)
    assert len(sizes) == num_steps(size, batch)
    assert all(one == batch for one in sizes[:-1])
    if size == 1:
        assert len(order) == 1
    else:
        assert len(order) == (size - 1 if size % batch == 1 else size)
        assert min(sizes) > 1


def test_orders_are_fresh_and_repeatable() -> None:
    generator = torch.Generator().manual_seed(4)
    first, second = epoch_order(100, 10, generator), epoch_order(100, 10, generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, epoch_order(100, 10, torch.Generator().manual_seed(4)))
