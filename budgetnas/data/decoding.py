"""Decoding image files to square RGB arrays, singly or many at once, with a note of every conversion."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from budgetnas.data.identity import ContentHash
from budgetnas.data.images import Images, empty_images
from budgetnas.data.request import BIT_DEPTHS, FULL_DEPTH
from budgetnas.errors import BudgetnasError, listed, plural

_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF", "AVIF")
_ORIENTATION_TAG = 0x0112
_TURNS: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILE_HASH_LENGTH = 16
_BATCH = 64
_BATCHES_AHEAD = 4
_BATCH_BYTES = 4 << 20
# Below this mean file size most of the work holds Python's global interpreter lock: 10,000 JPEGs of 32x32 pixels took
# nearly 40 % longer with two threads than with a single thread.
_MIN_MEAN_BYTES_FOR_THREADS = 8192

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


class ImageFile(NamedTuple):
    """An image file."""

    relative: str  # POSIX path relative to the folder
    label: int  # class index
    size_bytes: int
    # Inode, modification time and status change time, which differ when another file takes its place.
    stamp: tuple[int, int, int]

    @classmethod
    def of(cls, relative: str, label: int, stat: os.stat_result) -> ImageFile:
        """Return the file with these facts of the file system."""
        return cls(relative, label, stat.st_size, (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns))


class Change(StrEnum):
    """A conversion of images; the value is the text of its notice, which follows the number of images."""

    SIXTEEN_BIT = "16-bit {images} reduced to 8 bits and converted to RGB"
    TRANSPARENT = "{images} with transparency composed on white"
    GREY = "grey {images} converted to RGB"
    PALETTE = "palette {images} converted to RGB"
    CMYK = "CMYK {images} converted to RGB"
    OTHER = "{images} of other colour modes converted to RGB"
    TURNED = "{images} turned upright (EXIF orientation)"
    FRAMES = "{images} with several frames or pages, of which only the first is used"
    RESIZED = "{images} resized to {side}x{side} (shorter side, centre crop)"


class UnreadableImageError(Exception):
    """The bytes are not a usable image; the message is the reason, as a clause."""


def shorter_side(content: bytes) -> int:
    """Return the shorter side in pixels from the header, without decoding.

    Raises:
        UnreadableImageError: If the header cannot be read.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return min(image.size)
    except Exception as error:
        raise UnreadableImageError(_reason(content, error)) from error


class UnreadFileError(UnreadableImageError):
    """The operating system failed to read the file, which may be undamaged."""


class Square(NamedTuple):
    """A decoded image."""

    pixels: NDArray[np.uint8]  # ``(3, side, side)``
    changes: list[Change]  # its conversions
    shorter_side: int  # its shorter side before, in pixels
    highest: int | None  # highest level of a 16-bit image, or None of others


def decode(content: bytes, side: int, bit_depth: int = FULL_DEPTH) -> Square:
    """Decode an image.

    An image of another size is scaled so that its shorter side fits (bicubic, antialiased), and cropped to the square
    at its centre. Levels of a 16-bit image are scaled from the range of `bit_depth` bits, and clipped to it.

    Raises:
        UnreadableImageError: If the bytes are not a whole image of a known kind.
    """
    # A decoder given hostile or broken bytes raises nearly anything: OSError, SyntaxError, ValueError, struct.error.
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return _convert(image, side, bit_depth)
    except MemoryError:  # says nothing about the file
        raise
    except Exception as error:
        raise UnreadableImageError(_reason(content, error)) from error


def square(image: Image.Image, side: int, bit_depth: int = FULL_DEPTH) -> NDArray[np.uint8]:
    """Return an opened image as `decode` does: RGB, ``(3, side, side)``.

    Raises:
        UnreadableImageError: If its pixels cannot be read, or are of an unknown kind.
    """
    try:
        return _convert(image, side, bit_depth).pixels
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableImageError(_reason(b"opened", error)) from error


def _reason(content: bytes, error: Exception) -> str:
    if not content:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known kind, or its header is damaged"
    if isinstance(error, Image.DecompressionBombError):
        return f"{str(error).split(',')[0]}; scale it down"
    return str(error) or type(error).__name__


def _convert(opened: Image.Image, side: int, bit_depth: int) -> Square:
    changes: list[Change] = []
    if _has_frames(opened):
        changes.append(Change.FRAMES)
    opened.load()
    image: Image.Image = opened
    # Not ImageOps.exif_transpose: it also writes the EXIF data anew, and fails on odd tags that viewers ignore.
    turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG))
    if turn is not None:
        image = image.transpose(turn)
        changes.append(Change.TURNED)
    highest = None
    if image.mode.startswith("I") or image.mode == "F":
        image, highest = _from_sixteen_bits(image, bit_depth)
        changes.append(Change.SIXTEEN_BIT)
    image, change = _to_rgb(image)
    if change is not None and highest is None:
        changes.append(change)
    shorter = min(image.size)
    if image.size != (side, side):
        image = resize(image, side)
        changes.append(Change.RESIZED)
    return Square(np.asarray(image).transpose(2, 0, 1), changes, shorter, highest)


def _has_frames(opened: Image.Image) -> bool:
    """Return whether an image that is not loaded yet has several frames or pages."""
    if opened.format == "MPO":  # a camera's JPEG with a preview
        return False
    try:
        return bool(getattr(opened, "is_animated", False))
    except Exception:  # a damaged second frame of a GIF, whose first is used
        return False


def _to_rgb(image: Image.Image) -> tuple[Image.Image, Change | None]:
    transparent = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if image.mode == "RGB" and not transparent:
        return image, None
    if transparent:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB"), Change.TRANSPARENT
    kinds = {"1": Change.GREY, "L": Change.GREY, "P": Change.PALETTE, "CMYK": Change.CMYK}
    return image.convert("RGB"), kinds.get(image.mode, Change.OTHER)


def _from_sixteen_bits(image: Image.Image, bit_depth: int) -> tuple[Image.Image, int]:
    """Scale the levels of `bit_depth` bits to 0..255, where Pillow's own conversion would clip; return the highest."""
    levels = np.asarray(image)
    highest = levels.max()
    if levels.dtype.kind == "f" or levels.min() < 0 or highest >= 1 << FULL_DEPTH:
        raise UnreadableImageError("its pixels are not of 8 or 16 bits; save it with 8 bits a channel")
    top = (1 << bit_depth) - 1
    scaled = (np.minimum(levels, top).astype(np.int64) * 255 + top // 2) // top
    return Image.fromarray(scaled.astype(np.uint8)), int(highest)


def depth_of(highest: int | None) -> int:
    """Return the fewest bits, among `BIT_DEPTHS`, that hold the highest level of 16-bit images; 16 without any."""
    return FULL_DEPTH if highest is None else next(bits for bits in BIT_DEPTHS if highest < 1 << bits)


def resize(image: Image.Image, side: int) -> Image.Image:
    """Return the square at the centre, scaled to ``side`` (bicubic, antialiased)."""
    width, height = image.size
    shorter = min(width, height)
    left, top = (width - shorter) / 2, (height - shorter) / 2
    # Only the square is resampled: scaling a strip of 20,000 x 1 before cropping would take gigabytes.
    square = (left, top, left + shorter, top + shorter)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=square)


def resized(images: Images, side: int | None) -> tuple[Images, tuple[str, ...]]:
    """Return the images resized to `side`, and a notice; unchanged if `side` is None or their own side."""
    own = images.images.shape[-1]
    if side is None or side == own:
        return images, ()
    notice = f"{plural(len(images), 'image')} resized from {own}x{own} to {side}x{side}"
    return Images(_resize_all(images.images, side), images.labels), (notice,)


def _resize_all(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize square images from ``(N, C, H, H)`` to ``(N, C, side, side)``, where C is 1 or 3."""
    resized = empty_images(len(images), images.shape[1], side)
    for index, pixels in enumerate(images):
        planes = [resize(Image.fromarray(plane), side) for plane in pixels]
        resized[index] = np.stack([np.asarray(plane) for plane in planes])
    return resized


def describe_changes(changes: Mapping[Change, int], side: int) -> Iterator[str]:
    """Yield a sentence for each kind of conversion that happened, with its count."""
    for change in Change:
        if count := changes.get(change, 0):
            images = "image" if count == 1 else "images"
            yield f"{count:,} {change.value.format(images=images, side=side)}"


@dataclass(frozen=True)
class Decoded:
    """Decoded files."""

    images: NDArray[np.uint8]  # ``(N, 3, side, side)``, uint8, in the order of the files
    content_hash: str  # hash of all files, including those that were only checked, in hex
    changes: Counter[Change]  # number of converted images, by kind
    shorter_sides: Counter[int]  # number of images by shorter side in pixels
    file_hashes: dict[str, str]  # hash of each file, 16 hex digits, by path
    damaged: dict[str, str]  # reason for each damaged file, by path; its pixels are undefined
    unread: set[str]  # the damaged files that the operating system failed to read
    highest: int | None  # highest level of the 16-bit images, or None without any


def decode_files(
    root: Path,
    files: Sequence[ImageFile],
    side: int,
    bit_depth: int = FULL_DEPTH,
    *,
    only_checked: Sequence[ImageFile] = (),
) -> Decoded:
    """Decode image files.

    The files `only_checked` are hashed and decoded, but their pixels are not kept.
    """
    images = empty_images(len(files), 3, side)
    changes: Counter[Change] = Counter()
    sides: Counter[int] = Counter()
    hashes: dict[str, str] = {}
    damaged: dict[str, str] = {}
    unread: set[str] = set()
    highest: int | None = None

    def read(job: tuple[ImageFile, int | None]) -> _Read:
        file, row = job
        content = b""
        try:
            content = _content(root, file)
            image = decode(content, side, bit_depth)
        except UnreadableImageError as error:
            return _Read(file.relative, content, damage=str(error), unread=isinstance(error, UnreadFileError))
        except MemoryError as error:
            raise BudgetnasError(f"not enough memory to decode {listed([file.relative])}") from error
        if row is None:
            return _Read(file.relative, content)
        images[row] = image.pixels
        return _Read(file.relative, content, image.changes, image.shorter_side, image.highest)

    jobs: list[tuple[ImageFile, int | None]] = [(file, row) for row, file in enumerate(files)]
    jobs += [(file, None) for file in only_checked]
    jobs.sort(key=lambda job: job[0].relative)
    content_hash = ContentHash()
    sizes = [file.size_bytes for file, _ in jobs]
    for file in in_threads(read, jobs, num_threads(sizes), batch_size(sizes)):
        content_hash.add(file.relative, file.content)
        hashes[file.relative] = hashlib.sha256(file.content).hexdigest()[:_FILE_HASH_LENGTH]
        changes.update(file.changes)
        if file.damage:
            damaged[file.relative] = file.damage
            if file.unread:
                unread.add(file.relative)
        elif file.shorter_side:
            sides[file.shorter_side] += 1
        if file.highest is not None:
            highest = max(file.highest, highest or 0)
    return Decoded(images, content_hash.hexdigest(), changes, sides, hashes, damaged, unread, highest)


class _Read(NamedTuple):
    """A file that was read: its content, its conversions, and why it is not a complete image, if it is not."""

    relative: str
    content: bytes
    changes: Sequence[Change] = ()
    shorter_side: int = 0
    highest: int | None = None
    damage: str = ""
    unread: bool = False


def count_shorter_sides(root: Path, files: Sequence[ImageFile]) -> Counter[int]:
    """Return the number of images by shorter side in pixels, from their headers; unreadable files are left out."""

    def measure(file: ImageFile) -> int:
        try:
            return shorter_side(_content(root, file))
        except UnreadableImageError:
            return 0

    sides = Counter(in_threads(measure, files, num_threads([file.size_bytes for file in files])))
    del sides[0]
    return sides


def _content(root: Path, file: ImageFile) -> bytes:
    try:
        return (root / file.relative).read_bytes()
    except OSError as error:
        raise UnreadFileError(error.strerror or str(error)) from error


def num_threads(sizes_bytes: Sequence[int]) -> int:
    """Return the number of threads to decode files of these sizes with: 1 if they are small."""
    if sum(sizes_bytes) < _MIN_MEAN_BYTES_FOR_THREADS * len(sizes_bytes):
        return 1
    return min(os.cpu_count() or 1, 16)


def batch_size(sizes_bytes: Sequence[int]) -> int:
    """Return how many files of these sizes make a batch; their contents stay in memory until it has been hashed."""
    mean = sum(sizes_bytes) // max(len(sizes_bytes), 1)
    return max(1, min(_BATCH, _BATCH_BYTES // max(mean, 1)))


def in_threads(
    function: Callable[[_Job], _Result], jobs: Sequence[_Job], threads: int, batch: int | None = None
) -> Generator[_Result, None, None]:
    """Yield the results in the order of the jobs, with a bounded number in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of oddities in files that it reads all the same
        yield from map(function, jobs) if threads == 1 else _pooled(function, jobs, threads, batch or _BATCH)


def _pooled(function: Callable[[_Job], _Result], jobs: Sequence[_Job], threads: int, size: int) -> Iterator[_Result]:
    def run(batch: Sequence[_Job]) -> list[_Result]:
        return [function(job) for job in batch]

    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    pending: deque[Future[list[_Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for batch in batches:
                pending.append(pool.submit(run, batch))
                if len(pending) >= threads * _BATCHES_AHEAD:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
