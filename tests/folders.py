"""Folders of small images, and loading them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from budgetnas.data import Data, DataRequest, load_data
from budgetnas.data import folder as folder_module
from budgetnas.errors import InputError

SIDE = 8


def save(path: Path, level: int, *, mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).convert(mode).save(path)


def fill(part: Path, classes: dict[str, int]) -> None:
    """Write plain images, all different: red is the index in its class, green and blue follow from part and class."""
    for name, count in classes.items():
        green, blue = hashlib.sha256(f"{part.name}/{name}".encode()).digest()[:2]
        (part / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("RGB", (SIDE, SIDE), (index, green, blue)).save(part / name / f"{index:02}.png")


def load(root: Path, **options: int) -> Data:
    return load_data(DataRequest(f"folder:{root}", **options))  # type: ignore[arg-type]


def refused(root: Path, **options: int) -> str:
    with pytest.raises(InputError) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each decoding from here on."""
    counts: list[int] = []
    original = folder_module.decode_files

    def counting(root: Path, files: tuple[object, ...], *args: int, **options: tuple[object, ...]) -> object:
        counts.append(len(files))
        return original(root, files, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(folder_module, "decode_files", counting)
    return counts


def photos(tmp_path: Path) -> Path:
    """Make a folder of 30 training and 8 test images of two classes."""
    root = tmp_path / "my photos"
    fill(root / "train", {"cat": 20, "dog": 10})
    fill(root / "test", {"cat": 4, "dog": 4})
    return root
