from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional as reference

from budgetnas.space.recipe import Augmentation
from budgetnas.training.augmentation import augment, cut_out, draw, rotate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changed_by(how: Augmentation, images: Tensor, generator: torch.Generator) -> Tensor:
    return augment(images, how, draw(len(images), how, generator))


def pictures(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    """Noise without black, so that padding is told from pixels and no two crops are equal."""
    return torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=seeded(seed))


def crops(image: Tensor, padding: int, flip: bool) -> Iterator[tuple[tuple[int, int, bool], Tensor]]:
    """Every outcome for one image, made by torchvision as `RandomCrop` and `RandomHorizontalFlip` make them."""
    size = image.shape[-1]
    padded = reference.pad(image, [padding])
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = reference.crop(padded, top, left, size, size)
            yield (top, left, False), crop
            if flip:
                yield (top, left, True), reference.hflip(crop)


def outcome(image: Tensor, changed: Tensor, padding: int, flip: bool) -> tuple[int, int, bool]:
    found = [drawn for drawn, crop in crops(image, padding, flip) if torch.equal(crop, changed)]
    assert len(found) == 1
    return found[0]


@given(
    channels=st.integers(1, 3),
    size=st.integers(4, 9),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0),
)
@settings(max_examples=30)
def test_each_image_is_one_of_torchvision_s_crops(
    channels: int, size: int, padding: int, flip: bool, seed: int
) -> None:
    images = pictures(5, channels, size)
    changed = changed_by(Augmentation(crop_padding=padding, flip=flip), images, seeded(seed % 2**63))
    assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
    for image, result in zip(images, changed, strict=True):
        outcome(image, result, padding, flip)


def test_padding_wider_than_the_image_gives_crops_all_black_or_with_pixels_of_it() -> None:
    images = pictures(200, channels=1, size=4)
    changed = changed_by(Augmentation(crop_padding=9, flip=False), images, seeded())
    black = (changed == 0).flatten(1).all(dim=1)
    assert 0 < int(black.sum()) < 200
    for image, result in zip(images[~black], changed[~black], strict=True):
        assert any(torch.equal(crop, result) for _, crop in crops(image, 9, False))


def test_every_offset_and_both_sides_come_equally_often_and_each_image_draws_its_own() -> None:
    padding, count = 2, 5_000
    image = pictures(1, channels=1, size=5)
    changed = changed_by(Augmentation(crop_padding=padding, flip=True), image.expand(count, -1, -1, -1), seeded())
    drawn = torch.zeros(count, dtype=torch.bool)
    seen = {}
    for drawn_as, crop in crops(image[0], padding, True):
        same = (changed == crop).flatten(1).all(dim=1)
        assert not (drawn & same).any()
        drawn |= same
        seen[drawn_as] = int(same.sum())
    assert drawn.all()
    expected = count / len(seen)
    assert len(seen) == 50
    chi_square = sum((times - expected) ** 2 / expected for times in seen.values())
    assert chi_square < 85.4  # 49 degrees of freedom: one seed in 1,000 gives more
    changes = (changed[:-1] != changed[1:]).flatten(1).any(dim=1).sum()
    assert changes > 0.95 * count


def test_without_padding_images_are_only_mirrored() -> None:
    images = pictures(64)
    changed = changed_by(Augmentation(crop_padding=0), images, seeded())
    mirrored = [torch.equal(result, image.flip(2)) for image, result in zip(images, changed, strict=True)]
    kept = [torch.equal(result, image) for image, result in zip(images, changed, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


def test_without_augmentation_images_are_unchanged_and_nothing_is_drawn() -> None:
    images, generator = pictures(8), seeded()
    before = generator.get_state()
    assert torch.equal(changed_by(Augmentation(crop_padding=0, flip=False), images, generator), images)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("rotation", [0.0, 15.0])
def test_draws_come_from_the_generator_alone(rotation: float) -> None:
    images, how = pictures(16), Augmentation(rotation=rotation)
    torch.manual_seed(1)
    one = changed_by(how, images, seeded(5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(one, changed_by(how, images, seeded(5)))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one, changed_by(how, images, seeded(6)))


def test_the_images_themselves_are_not_changed() -> None:
    images = pictures(4)
    before = images.clone()
    changed_by(Augmentation(rotation=30), images, seeded())
    assert torch.equal(images, before)


@pytest.mark.parametrize("size", [5, 8])
@pytest.mark.parametrize("quarters", [-2, -1, 0, 1, 2, 3])
def test_quarter_turns_are_those_of_rot90(quarters: int, size: int) -> None:
    images = pictures(3, size=size)
    angles = torch.full((3,), quarters * math.pi / 2)
    assert torch.equal(rotate(images, angles), torch.rot90(images, quarters, dims=(2, 3)))


@pytest.mark.parametrize("degrees", [-160.0, -45.0, -7.5, 10.0, 30.0, 90.0])
def test_a_turn_is_torchvision_s(degrees: float) -> None:
    images = pictures(2, size=9)
    expected = reference.rotate(images.float(), degrees, interpolation=reference.InterpolationMode.BILINEAR)
    difference = rotate(images, torch.full((2,), math.radians(degrees))).float() - expected
    assert difference.abs().max() <= 0.501  # rounded to whole levels


def test_each_image_is_turned_by_its_own_angle() -> None:
    images = pictures(4)
    angles = torch.tensor([0.0, math.pi / 2, math.pi, 0.3])
    together = rotate(images, angles)
    alone = torch.cat([rotate(images[one : one + 1], angles[one : one + 1]) for one in range(4)])
    assert torch.equal(together, alone)


def test_pixels_rotated_in_from_outside_are_black() -> None:
    white = torch.full((1, 1, 16, 16), 255, dtype=torch.uint8)
    corners = rotate(white, torch.tensor([math.pi / 4]))[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == [0, 0, 0, 0]


def test_angles_are_spread_over_both_directions_up_to_the_largest() -> None:
    """A bright dot far right of the centre shows the angle by its height."""
    size, count, degrees = 65, 400, 30.0
    image = torch.zeros(1, 1, size, size)
    across = torch.arange(size)[None, :] - (size // 2 + 24)
    down = torch.arange(size)[:, None] - size // 2
    image[0, 0] = 255 * torch.exp(-(across**2 + down**2) / 8)
    how = Augmentation(crop_padding=0, flip=False, rotation=degrees)
    turned = changed_by(how, image.to(torch.uint8).expand(count, -1, -1, -1), seeded()).double()[:, 0]
    weight = turned.sum(dim=(1, 2))
    grid = torch.arange(size, dtype=torch.float64) - size // 2
    right = (turned.sum(dim=1) * grid).sum(dim=1) / weight
    up = -(turned.sum(dim=2) * grid).sum(dim=1) / weight
    angles = torch.rad2deg(torch.atan2(up, right))
    assert angles.abs().max() < degrees + 1
    by_tenth = torch.histc(angles, bins=5, min=-degrees, max=degrees)
    assert by_tenth.min() > 50  # 80 expected in each, with a standard deviation of 8


def test_rotation_crop_and_flip_go_together() -> None:
    images, how = pictures(16), Augmentation(crop_padding=2, rotation=20)
    draws = draw(16, how, seeded(3))
    assert draws.angles is not None and draws.offsets is not None and draws.mirrored is not None
    result = augment(images, how, draws)
    turned = rotate(images, draws.angles)
    for one, (top, left), mirrored, image in zip(turned, draws.offsets, draws.mirrored, result, strict=True):
        crop = reference.crop(reference.pad(one, [2]), int(top), int(left), 8, 8)
        assert torch.equal(image, reference.hflip(crop) if mirrored else crop)


def test_draws_of_some_places_are_those_of_the_whole() -> None:
    images, how = pictures(16), Augmentation(crop_padding=2, rotation=20, cutout=3)
    draws, places = draw(16, how, seeded(3)), torch.tensor([5, 3, 11])
    assert torch.equal(augment(images[places], how, draws.at(places)), augment(images, how, draws)[places])


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    side=st.integers(1, 12),
    shares=st.lists(st.tuples(*[st.floats(0, 1, exclude_max=True, width=32)] * 2), min_size=1, max_size=4),
)
@example(height=1, width=6, side=1, shares=[(0.0, 0.8333333134651184)])
def test_a_square_is_cut_out_as_a_loop_over_pixels_would(
    height: int, width: int, side: int, shares: list[tuple[float, float]]
) -> None:
    images = torch.randint(1, 256, (len(shares), 2, height, width), dtype=torch.uint8, generator=seeded())
    result = cut_out(images, side, torch.tensor(shares))
    for before, after, (down, across) in zip(images, result, shares, strict=True):
        expected = before.clone()
        # The product is rounded to 32 bits: 0.8333333 x 6 is 5 there, and a little less in 64.
        top = min(height - 1, math.floor(np.float32(down) * np.float32(height))) - side // 2
        left = min(width - 1, math.floor(np.float32(across) * np.float32(width))) - side // 2
        for row in range(max(0, top), min(height, top + side)):
            for column in range(max(0, left), min(width, left + side)):
                expected[:, row, column] = 0
        assert torch.equal(after, expected)


def test_every_pixel_is_the_centre_of_a_square_equally_often_and_other_draws_stay() -> None:
    count, size = 4_900, 7
    how = Augmentation(crop_padding=1, cutout=1)
    draws, without = draw(count, how, seeded(4)), draw(count, Augmentation(crop_padding=1), seeded(4))
    assert draws.centres is not None and draws.offsets is not None and without.offsets is not None
    assert torch.equal(draws.offsets, without.offsets)
    white = torch.full((count, 1, size, size), 255, dtype=torch.uint8)
    holes = (cut_out(white, 1, draws.centres) == 0)[:, 0]
    assert (holes.flatten(1).sum(dim=1) == 1).all()
    times = holes.sum(dim=0).double()
    assert float(((times - 100) ** 2 / 100).sum()) < 84.1  # 48 degrees of freedom: one seed in 1,000 gives more


def test_the_square_comes_after_crop_and_flip() -> None:
    images, how = pictures(16), Augmentation(crop_padding=2, rotation=20, cutout=3)
    draws = draw(16, how, seeded(3))
    assert draws.centres is not None
    cropped = draw(16, Augmentation(crop_padding=2, rotation=20), seeded(3))
    plain = augment(images, Augmentation(crop_padding=2, rotation=20), cropped)
    assert torch.equal(augment(images, how, draws), cut_out(plain, 3, draws.centres))


@pytest.mark.parametrize(
    "how",
    [
        Augmentation(),
        Augmentation(crop_padding=0, rotation=5),
        Augmentation(flip=False),
        Augmentation(flip=False, cutout=4),
    ],
)
def test_draws_are_taken_over_in_place(how: Augmentation) -> None:
    images, kept, fresh = pictures(6), draw(9, how, seeded(1)), draw(6, how, seeded(2))
    kept.copy_(fresh)
    assert torch.equal(augment(images, how, kept.at(torch.arange(6))), augment(images, how, fresh))


def test_images_in_either_memory_order_are_changed_alike() -> None:
    images, how = pictures(8), Augmentation(crop_padding=2, rotation=20, cutout=3)
    arranged = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(changed_by(how, arranged, seeded()), changed_by(how, images, seeded()))
