"""One image file's bytes to a square RGB array, saying what had to be changed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from budgetnas.data.images import Images
from budgetnas.data.wording import plural

_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF")
_ORIENTATION_TAG = 0x0112
_SIXTEEN_BITS = 65535


class Change(StrEnum):
    """What was done to an image; the value is the notice's text after the number."""

    SIXTEEN_BIT = "16-bit {images} reduced to 8 bits and converted to RGB"
    TRANSPARENT = "{images} with transparency composed on white"
    GREY = "grey {images} converted to RGB"
    PALETTE = "palette {images} converted to RGB"
    CMYK = "CMYK {images} converted to RGB"
    OTHER = "{images} of other colour modes converted to RGB"
    TURNED = "{images} turned upright (EXIF orientation)"
    RESIZED = "{images} resized to {side}x{side} (shorter side, centre crop)"


class UnreadableImageError(Exception):
    """The bytes are no image that can be used; the message is the reason, as a clause."""


def shorter_side(content: bytes) -> int:
    """Shorter side in pixels, read from the header without decoding.

    Raises:
        UnreadableImageError: The header cannot be read.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return min(image.size)
    except Exception as error:
        raise UnreadableImageError(_reason(content, error)) from error


def decode(content: bytes, side: int) -> tuple[NDArray[np.uint8], list[Change], int]:
    """Decode one image.

    An image of another size is scaled so that its shorter side fits (bicubic, antialiased) and cropped to the
    square at its centre.

    Args:
        content: The file's bytes.
        side: Side of the square in pixels.

    Returns:
        The pixels, ``(3, side, side)``; what was changed; the shorter side that the image had.

    Raises:
        UnreadableImageError: The bytes are not a whole image of a known kind.
    """
    # A decoder given hostile or broken bytes raises nearly anything: OSError, SyntaxError, ValueError, struct.error.
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return _convert(image, side)
    except Exception as error:
        raise UnreadableImageError(_reason(content, error)) from error


def square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Return an opened image as `decode` would: RGB, ``(3, side, side)``.

    Raises:
        UnreadableImageError: Its pixels cannot be read, or are of no known kind.
    """
    try:
        return _convert(image, side)[0]
    except Exception as error:
        raise UnreadableImageError(_reason(b"opened", error)) from error


def _reason(content: bytes, error: Exception) -> str:
    if not content:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known kind, or its header is damaged"
    return str(error) or type(error).__name__


def _convert(opened: Image.Image, side: int) -> tuple[NDArray[np.uint8], list[Change], int]:
    opened.load()
    changes: list[Change] = []
    image: Image.Image = opened
    if image.getexif().get(_ORIENTATION_TAG, 1) in range(2, 9):
        image = ImageOps.exif_transpose(image)
        changes.append(Change.TURNED)
    image, change = _to_rgb(image)
    if change is not None:
        changes.append(change)
    shorter = min(image.size)
    if image.size != (side, side):
        image = resize(image, side)
        changes.append(Change.RESIZED)
    return np.asarray(image).transpose(2, 0, 1), changes, shorter


def _to_rgb(image: Image.Image) -> tuple[Image.Image, Change | None]:
    transparent = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if image.mode == "RGB" and not transparent:
        return image, None
    if image.mode.startswith("I") or image.mode == "F":
        return _from_sixteen_bits(image).convert("RGB"), Change.SIXTEEN_BIT
    if transparent:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB"), Change.TRANSPARENT
    kinds = {"1": Change.GREY, "L": Change.GREY, "P": Change.PALETTE, "CMYK": Change.CMYK}
    return image.convert("RGB"), kinds.get(image.mode, Change.OTHER)


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; Pillow's own conversion would clip."""
    levels = np.asarray(image)
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > _SIXTEEN_BITS:
        raise UnreadableImageError("its pixels are not of 8 or 16 bits; save it with 8 bits a channel")
    scaled = (levels.astype(np.int64) * 255 + _SIXTEEN_BITS // 2) // _SIXTEEN_BITS
    return Image.fromarray(scaled.astype(np.uint8))


def resize(image: Image.Image, side: int) -> Image.Image:
    """Scale the shorter side to ``side`` (bicubic, antialiased) and keep the square at the centre."""
    width, height = image.size
    shorter = min(width, height)
    left, top = (width - shorter) / 2, (height - shorter) / 2
    # Only the square is resampled: a strip of 20,000 x 1 would otherwise be blown up before it is cropped.
    square = (left, top, left + shorter, top + shorter)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=square)


def resized(images: Images, side: int | None) -> tuple[Images, tuple[str, ...]]:
    """Give the images at another side, and a notice that says so; None or their own side changes nothing."""
    own = images.images.shape[-1]
    if side is None or side == own:
        return images, ()
    notice = f"{plural(len(images), 'image')} resized from {own}x{own} to {side}x{side}"
    return Images(_resize_all(images.images, side), images.labels), (notice,)


def _resize_all(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize an array of square images, ``(N, C, H, H)`` to ``(N, C, side, side)``; C is 1 or 3."""
    resized = np.empty((*images.shape[:2], side, side), dtype=np.uint8)
    for index, pixels in enumerate(images):
        planes = [resize(Image.fromarray(plane), side) for plane in pixels]
        resized[index] = np.stack([np.asarray(plane) for plane in planes])
    return resized


def describe_changes(changes: Mapping[Change, int], side: int) -> Iterator[str]:
    """One plain sentence for each kind of change that happened, with its count."""
    for change in Change:
        if count := changes.get(change, 0):
            images = "image" if count == 1 else "images"
            yield f"{count:,} {change.value.format(images=images, side=side)}"
