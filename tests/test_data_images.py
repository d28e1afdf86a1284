from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pydantic import ValidationError

from budgetnas.data import DataIdentity, channel_statistics
from budgetnas.data.decoding import Change, UnreadableImageError, decode, resized, shorter_side
from budgetnas.data.images import Images


def as_file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 3), st.just(3), st.just(4))))
def test_channel_statistics_agree_with_numpy(images: np.ndarray) -> None:
    means, stds = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    expected = scaled.std(axis=(0, 2, 3))
    assert means == pytest.approx(scaled.mean(axis=(0, 2, 3)), abs=1e-12)
    assert stds == pytest.approx(np.where(expected < 1e-12, 1, expected), abs=1e-7)


def test_channel_statistics_do_not_depend_on_the_order() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1500, 1, 4, 4), dtype=np.uint8)
    assert channel_statistics(images) == channel_statistics(images[::-1])


def test_channel_statistics_of_a_constant_channel_can_be_divided_by() -> None:
    assert channel_statistics(np.full((2, 1, 4, 4), 51, dtype=np.uint8)) == ((0.2,), (1.0,))


def test_channel_statistics_of_an_empty_array_are_rejected() -> None:
    with pytest.raises(ValueError, match="empty"):
        channel_statistics(np.empty((0, 3, 4, 4), dtype=np.uint8))


COLOUR = (200, 100, 50)


@pytest.mark.parametrize(
    ("image", "kind", "expected", "changes"),
    [
        (Image.new("RGB", (8, 8), COLOUR), "PNG", COLOUR, []),
        (Image.new("L", (8, 8), 70), "PNG", (70, 70, 70), [Change.GREY]),
        (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255), [Change.GREY]),
        (Image.new("P", (8, 8)), "GIF", (0, 0, 0), [Change.PALETTE]),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG", (255, 255, 255), [Change.TRANSPARENT]),
        (Image.new("RGBA", (8, 8), (*COLOUR, 255)), "PNG", COLOUR, [Change.TRANSPARENT]),
        (Image.new("LA", (8, 8), (0, 0)), "PNG", (255, 255, 255), [Change.TRANSPARENT]),
        (Image.new("I;16", (8, 8), 65535), "PNG", (255, 255, 255), [Change.SIXTEEN_BIT]),
        (Image.new("I;16", (8, 8), 257 * 9), "TIFF", (9, 9, 9), [Change.SIXTEEN_BIT]),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF", (255, 255, 255), [Change.CMYK]),
        (Image.new("RGB", (20, 9), COLOUR), "BMP", COLOUR, [Change.RESIZED]),
    ],
    ids=lambda value: f"{value.mode} {value.size}" if isinstance(value, Image.Image) else None,
)
def test_every_mode_becomes_rgb(
    image: Image.Image, kind: str, expected: tuple[int, int, int], changes: list[Change]
) -> None:
    pixels, made, shorter, _ = decode(as_file(image, kind), 8)
    assert pixels.shape == (3, 8, 8)
    assert tuple(pixels[:, 4, 4]) == expected
    assert made == changes
    assert shorter == min(image.size)


def test_a_transparent_palette_is_composed_on_white() -> None:
    image = Image.new("P", (8, 8), 0)
    pixels, made, *_ = decode(as_file(image, transparency=0), 8)
    assert tuple(pixels[:, 0, 0]) == (255, 255, 255)
    assert made == [Change.TRANSPARENT]


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (8, 8))
    image.paste((255, 0, 0), (0, 0, 8, 4))  # red above; orientation 6 turns it to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels, made, *_ = decode(as_file(image, exif=exif), 8)
    assert pixels[0, :, 6].tolist() == [255] * 8
    assert pixels[0, :, 1].tolist() == [0] * 8
    assert made == [Change.TURNED]


def test_the_centre_of_an_oblong_is_kept() -> None:
    image = Image.new("RGB", (300, 100))
    image.paste((255, 255, 255), (100, 0, 200, 100))
    pixels, _, shorter, _ = decode(as_file(image), 10)
    assert pixels[:, 1:-1, 1:-1].min() == 255
    assert pixels.min() > 200
    assert shorter == 100


def test_a_thin_strip_is_decoded() -> None:
    assert decode(as_file(Image.new("RGB", (20_000, 1), COLOUR)), 64)[0].shape == (3, 64, 64)


whole_jpeg = as_file(Image.effect_noise((40, 40), 90).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"this is not an image", "not an image"),
        (whole_jpeg[: len(whole_jpeg) // 2], "truncated"),
        (as_file(Image.new("F", (4, 4)), "TIFF"), "8 or 16 bits"),
    ],
)
def test_a_broken_image_is_reported_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason):
        decode(content, 8)


def test_the_shorter_side_is_read_from_the_header_alone() -> None:
    assert shorter_side(whole_jpeg[:700]) == 40
    with pytest.raises(UnreadableImageError):
        shorter_side(b"GIF")


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_resized_with_a_notice(channels: int) -> None:
    images = Images(np.full((2, channels, 8, 8), 9, dtype=np.uint8), np.zeros(2, dtype=np.int64))
    larger, notices = resized(images, 12)
    assert larger.images.shape == (2, channels, 12, 12)
    assert set(larger.images.ravel()) == {9}
    assert notices == ("2 images resized from 8x8 to 12x12",)
    assert resized(images, 8) == resized(images, None) == (images, ())


IDENTITY = DataIdentity(
    name="cifar10", content_hash="ab" * 32, subset=2000, subset_eval=None, split_seed=0, resolution=32
)


def test_identity_round_trips_through_json() -> None:
    assert DataIdentity.model_validate_json(IDENTITY.model_dump_json()) == IDENTITY
    with pytest.raises(ValidationError):
        DataIdentity.model_validate({**json.loads(IDENTITY.model_dump_json()), "extra": 1})


def test_identity_digest_is_pinned_and_tells_every_field_apart() -> None:
    assert IDENTITY.digest() == "7a4b6801703bc051"
    other = {"name": "x", "content_hash": "0", "subset": None, "subset_eval": 9, "split_seed": 1, "resolution": 8}
    digests = {IDENTITY.model_copy(update={field: value}).digest() for field, value in other.items()}
    assert len(digests | {IDENTITY.digest()}) == 7


def test_identity_label_is_for_people() -> None:
    assert IDENTITY.label() == "cifar10, subset 2,000"
    every = IDENTITY.model_copy(update={"subset": None, "subset_eval": 1500, "split_seed": 3})
    assert every.label() == "cifar10, evaluation subset 1,500, split seed 3"
