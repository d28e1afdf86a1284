from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps
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


@pytest.mark.parametrize("orientation", range(1, 10))
def test_every_exif_orientation_is_turned_as_pillow_turns_it(orientation: int) -> None:
    image = Image.frombytes("RGB", (8, 8), np.random.default_rng(0).bytes(192))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = as_file(image, exif=exif)
    pixels, made, *_ = decode(content, 8)
    with Image.open(io.BytesIO(content)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(pixels.transpose(1, 2, 0), expected)
    assert made == ([Change.TURNED] if 2 <= orientation <= 8 else [])


def test_odd_exif_data_that_viewers_ignore_are_no_damage() -> None:
    """The resolution is given as text."""
    entries = [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x011A, 2, 3, b"72\0\0")]
    fields = b"".join(struct.pack("<HHI", *head) + value for *head, value in entries)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + bytes(4)
    assert decode(as_file(Image.new("RGB", (8, 8)), "JPEG", exif=exif), 8).changes == [Change.TURNED]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_frames_are_reported_and_the_first_is_used(kind: str) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("white", "black"))
    several = decode(as_file(first, kind, save_all=True, append_images=[second]), 8)
    assert Change.FRAMES in several.changes
    assert several.pixels.min() > 250
    assert Change.FRAMES not in decode(as_file(first, kind), 8).changes


def test_a_gif_whose_second_frame_is_damaged_is_used() -> None:
    content = as_file(Image.new("P", (8, 8)), "GIF").removesuffix(b";")
    assert decode(content + b"!\xf9\x01\0\0;", 8).changes == [Change.PALETTE]


def test_an_image_with_too_many_pixels_is_to_be_scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match=r"exceeds limit of 200 pixels; scale it down$"):
        decode(as_file(Image.new("RGB", (20, 20))), 8)


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
