"""A search over a folder with damaged images, as its user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import run, study_file

STORAGE = ("--storage", "sqlite:///s.db")
FOLDER = ("--data", "folder:photos")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Return a damaged test image of a folder of 60 images."""
    random = np.random.default_rng(0)
    for split, count in (("Train", 24), ("Test", 6)):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{index}.png")
    path = tmp_path / "photos" / "Test" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:50])
    return path


@pytest.mark.slow
def test_a_damaged_test_image_is_found_before_anything_is_trained(tmp_path: Path, damaged: Path) -> None:
    study = study_file(
        tmp_path, data='"folder:photos"', subset="30", subset_eval="4", epochs="1", batch="10", trials="2"
    )
    search = ("search", study, "--study", "s", *STORAGE)
    environment = {"BUDGETNAS_CACHE_DIR": str(tmp_path / "cache")}
    refused = run(tmp_path, *search, **environment)
    assert refused.returncode == 2
    assert "1 file cannot be read as an image: Test/cat/0.png" in refused.stderr
    assert "Test/cat/0.png" in run(tmp_path, "doctor", *FOLDER, *STORAGE, **environment).stdout

    done = run(tmp_path, *search, "--skip-damaged", **environment)
    assert done.returncode == 0, done.stderr
    assert "1 damaged image left out: Test/cat/0.png" in done.stderr
    assert "classes: cat, dog" in done.stderr
    Image.new("RGB", (8, 8)).save(damaged)
    finished = run(tmp_path, "finish", "s", *FOLDER, *STORAGE, "--finalists", "1", "--final-seeds", "2", **environment)
    assert finished.returncode == 0, finished.stderr
    shown = json.loads(run(tmp_path, "show", "s", *STORAGE, "--json", **environment).stdout)
    assert shown["specification"]["data"]["skipped"] == ["Test/cat/0.png"]


@pytest.mark.slow
def test_the_refusal_names_the_images_that_changed(tmp_path: Path, damaged: Path) -> None:
    Image.new("RGB", (8, 8)).save(damaged)
    study = study_file(
        tmp_path, data='"folder:photos"', subset="30", subset_eval="4", epochs="1", batch="10", trials="1"
    )
    environment = {"BUDGETNAS_CACHE_DIR": str(tmp_path / "cache")}
    assert run(tmp_path, "search", study, "--study", "s", *STORAGE, **environment).returncode == 0
    Image.new("RGB", (8, 8), "red").save(damaged)
    again = run(tmp_path, "search", study, "--study", "s", *STORAGE, "--trials", "2", **environment)
    assert again.returncode == 2
    assert "1 file changed: Test/cat/0.png; restore the original images" in again.stderr
