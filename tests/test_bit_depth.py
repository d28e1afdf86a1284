"""16-bit images whose levels use fewer bits, as cameras and scanners save them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import run, study_file

import budgetnas
from budgetnas.data import Data, DataRequest, load_data
from budgetnas.data import folder as folder_module
from budgetnas.data.test_split import load_test
from budgetnas.errors import InputError

SIDE = 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(root: Path, top: int, *, count: int = 12) -> Path:
    """Write random 16-bit images with levels from 0 to `top`, both included."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for index in range(count if split == "train" else 3):
                levels = random.integers(0, top + 1, (SIDE, SIDE), dtype=np.uint16)
                levels[0, :2] = 0, top
                Image.fromarray(levels).save(root / split / name / f"{index:02}.png")
    return root


def load(root: Path, bit_depth: int | None = None) -> Data:
    return load_data(DataRequest(f"folder:{root}", bit_depth=bit_depth))


@pytest.mark.parametrize(("top", "depth"), [(200, 8), (1000, 10), (3841, 12), (4095, 12), (16_383, 14)])
def test_the_levels_of_fewer_bits_become_all_grey_levels(tmp_path: Path, top: int, depth: int) -> None:
    data = load(write(tmp_path / "s", top))
    assert data.identity.bit_depth == depth
    assert data.all_train.images.max() == round(255 * top / (2**depth - 1))
    assert len(np.unique(data.all_train.images)) >= 200
    notice = f"16-bit levels reach {top:,}: 0 to {2**depth - 1:,}, the range of {depth} bits, becomes 0 to 255"
    assert data.notices[-1] == notice
    assert load_test(DataRequest(f"folder:{tmp_path / 's'}")).images.max() == data.all_train.images.max()


@pytest.mark.parametrize("top", [16_384, 65_535])
def test_levels_of_16_bits_keep_bits_and_digest(tmp_path: Path, top: int) -> None:
    data = load(write(tmp_path / "s", top))
    first = np.asarray(Image.open(tmp_path / "s" / "train" / "cat" / "00.png")).astype(np.int64)
    assert np.array_equal(data.all_train.images[0, 0], (first * 255 + 32_767) // 65_535)
    assert "bit_depth" not in data.identity.model_dump(mode="json")
    assert data.notices == ("24 16-bit images reduced to 8 bits and converted to RGB",)


def test_a_requested_depth_is_used_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of an older version goes on with 16 bits, and a study with 12 finds the images of the search."""
    root = write(tmp_path / "s", 3841)
    own = load(root)
    old = load(root, 16)
    assert old.identity.bit_depth is None
    assert len(np.unique(old.all_train.images)) < 20
    monkeypatch.setattr(folder_module, "decode_files", None)  # it would fail
    assert load(root, 12).identity == own.identity == load(root).identity
    assert load(root, 16).identity == old.identity
    with pytest.raises(InputError, match="bit_depth 11: must be one of 8, 10, 12, 14, 16"):
        load(root, 11)


def test_test_images_above_the_range_are_clipped(tmp_path: Path) -> None:
    root = write(tmp_path / "s", 3841)
    Image.fromarray(np.full((SIDE, SIDE), 60_000, dtype=np.uint16)).save(root / "test" / "cat" / "00.png")
    assert load_test(DataRequest(f"folder:{root}")).images[0].min() == 255


@pytest.mark.slow
def test_a_study_and_its_bundle_use_the_depth_of_its_images(tmp_path: Path) -> None:
    write(tmp_path / "s", 3841)
    study = study_file(tmp_path, data='"folder:s"', subset="20", subset_eval="2", epochs="1", batch="10", trials="1")
    storage = ("--storage", "sqlite:///d.db")
    searched = run(tmp_path, "search", study, "--study", "s", *storage)
    assert searched.returncode == 0, searched.stderr
    assert "the range of 12 bits, becomes 0 to 255" in searched.stderr
    for command in ("finish s", "search --study s --trials 11"):
        assert f"budgetnas {command} --data folder:s --storage sqlite:///d.db" in searched.stdout
    again = run(tmp_path, "search", "--study", "s", "--data", "folder:s", "--trials", "2", *storage)
    assert again.returncode == 0, again.stderr
    exported = run(tmp_path, "export", "s", "--run", "1", "--data", "folder:s", "--out", "b", *storage)
    assert exported.returncode == 0, exported.stderr
    assert json.loads((tmp_path / "b" / "preprocessing.json").read_text())["bit_depth"] == 12
    path = tmp_path / "s" / "train" / "cat" / "00.png"
    prepared = budgetnas.load(tmp_path / "b").preprocess.pixels(path)
    expected = load(tmp_path / "s").all_train.images[0]
    assert np.array_equal(prepared, expected)
    with Image.open(path) as image:
        assert np.array_equal(budgetnas.load(tmp_path / "b").preprocess.pixels(image), expected)
