"""Folders of images: damaged and changed files, and the cache of decoded images."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from folders import SIDE, count_decodes, load, photos, refused, save
from PIL import Image

from budgetnas.data import Data, DataRequest, load_data
from budgetnas.data.cache import MAX_ENTRIES
from budgetnas.data.contents import describe_difference
from budgetnas.data.test_split import load_test


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos(tmp_path)


def test_the_test_split_is_read_without_a_cached_training_part(folder: Path) -> None:
    assert load_test(DataRequest(f"folder:{folder}")).images.shape == (8, 3, SIDE, SIDE)


def test_all_damaged_images_of_both_splits_are_named_at_once(folder: Path) -> None:
    for path in ("test/cat/00.png", "train/dog/03.png"):
        (folder / path).write_bytes(b"no image")
    truncated = folder / "test" / "dog" / "01.png"
    truncated.write_bytes(truncated.read_bytes()[:50])
    message = refused(folder)
    assert "3 files cannot be read as an image" in message
    assert all(path in message for path in ("test/cat/00.png", "test/dog/01.png", "train/dog/03.png"))
    assert "--skip-damaged" in message


def test_damaged_images_are_left_out_on_request_and_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = folder / "test" / "cat" / "00.png"
    good = damaged.read_bytes()
    damaged.write_bytes(b"no image")
    (folder / "train" / "dog" / "03.png").write_bytes(b"")
    request = DataRequest(f"folder:{folder}", skip_damaged=True)
    data = load_data(request)
    assert data.identity.skipped == ("test/cat/00.png", "train/dog/03.png")
    assert "2 damaged images left out: test/cat/00.png, train/dog/03.png" in data.notices
    assert (len(data.all_train), len(load_test(request))) == (29, 7)
    counts = count_decodes(monkeypatch)
    assert load_data(request).identity == data.identity
    assert counts == []
    assert "2 files cannot be read" in refused(folder)
    damaged.write_bytes(good)
    resumed = DataRequest(f"folder:{folder}", skipped=data.identity.skipped, resolution=data.resolution)
    assert load_data(resumed).identity == data.identity, "a repaired image stays out of its study"
    assert len(load_test(resumed)) == 7


def test_an_identity_without_skipped_files_has_the_digest_of_older_versions(folder: Path) -> None:
    identity = load(folder).identity
    assert "skipped" not in identity.model_dump(mode="json")
    fields = "name", "content_hash", "subset", "subset_eval", "split_seed", "resolution"
    canonical = json.dumps({name: getattr(identity, name) for name in sorted(fields)}, separators=(",", ":"))
    assert identity.digest() == hashlib.sha256(canonical.encode()).hexdigest()[:16]


def test_changed_files_are_named(folder: Path) -> None:
    before = load(folder).identity.content_hash
    save(folder / "train" / "cat" / "00.png", 99)
    (folder / "train" / "cat" / "01.png").rename(folder / "train" / "cat" / "one.png")
    after = load(folder).identity.content_hash
    assert describe_difference(before, after) == (
        "1 file changed: train/cat/00.png; 1 file added: train/cat/one.png; 1 file missing: train/cat/01.png"
    )
    assert describe_difference(before, "0" * 64) == ""


def test_images_that_swap_their_names_are_decoded_again(folder: Path) -> None:
    """Sizes and times are equal, as in images out of a reproducible archive."""
    for path in folder.rglob("*.png"):
        image = Image.new("RGB", (SIDE, SIDE), (255, 0, 0) if "cat" in path.parts else (0, 0, 255))
        image.save(path.with_suffix(".bmp"))
        path.unlink()
    for path in folder.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    before = load(folder)
    train = folder / "train"
    (train / "cat").rename(train / "other")
    (train / "dog").rename(train / "cat")
    (train / "other").rename(train / "dog")
    after = load(folder)
    assert after.identity.content_hash != before.identity.content_hash
    assert after.all_train.images[0, 0, 0, 0] == 0


def test_the_images_own_resolution_given_as_a_number_decodes_nothing(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(folder)
    counts = count_decodes(monkeypatch)
    assert load(folder, resolution=first.resolution).identity == first.identity
    assert counts == []
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("content", [b"", b"text", "half"])
def test_a_broken_image_is_named(folder: Path, content: bytes | str) -> None:
    path = folder / "train" / "dog" / "03.png"
    path.write_bytes(path.read_bytes()[:50] if isinstance(content, str) else content)
    message = refused(folder)
    assert str(folder) in message
    assert "1 file cannot be read as an image: train/dog/03.png" in message
    assert "repair or remove them" in message


def test_broken_images_are_named_from_threads_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budgetnas.data.decoding._MIN_MEAN_BYTES_FOR_THREADS", 0)
    monkeypatch.setattr("budgetnas.data.decoding._BATCH", 3)
    good = load(folder)
    assert good.all_train.images[:, 0, 0, 0].tolist() == [*range(20), *range(10)]
    (folder / "train" / "dog" / "03.png").write_bytes(b"")
    assert "03.png" in refused(folder)


def test_threads_do_not_change_the_hash(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(folder).identity
    monkeypatch.setattr("budgetnas.data.decoding._MIN_MEAN_BYTES_FOR_THREADS", 0)
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(cache / "other"))
    assert load(folder).identity == before


def same(first: Data, second: Data) -> bool:
    return (
        first.identity == second.identity
        and first.notices == second.notices
        and first.classes == second.classes
        and np.array_equal(first.all_train.images, second.all_train.images)
        and np.array_equal(first.train.labels, second.train.labels)
    )


def entry_of(cache: Path) -> Path:
    [entry] = [path for path in cache.iterdir() if path.is_dir()]
    return entry


def test_a_second_start_decodes_nothing(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folder / "train" / "cat" / "grey.png", 9, mode="L")
    counts = count_decodes(monkeypatch)
    first, test = load(folder), load_test(DataRequest(f"folder:{folder}"))
    assert counts == [31, 8]
    assert same(first, load(folder))
    assert np.array_equal(test.images, load_test(DataRequest(f"folder:{folder}")).images)
    assert counts == [31, 8]
    assert sorted(path.name for path in entry_of(cache).iterdir()) == ["manifest.json", "test.npy", "train.npy"]


def test_loading_writes_no_test_images(folder: Path, cache: Path) -> None:
    load(folder)
    assert not (entry_of(cache) / "test.npy").exists()


def test_a_changed_file_is_noticed(folder: Path) -> None:
    before = load(folder)
    path = folder / "train" / "cat" / "00.png"
    save(path, 200)
    os.utime(path, ns=(1, 1))
    assert load(folder).all_train.images[0].max() == 200
    assert load(folder).identity != before.identity


@pytest.mark.parametrize("name", ["manifest.json", "train.npy", "test.npy"])
@pytest.mark.parametrize("damage", ["empty", "half", "junk", "other shape", "gone"])
def test_a_damaged_entry_is_rebuilt(folder: Path, cache: Path, name: str, damage: str) -> None:
    request = DataRequest(f"folder:{folder}")
    data, test = load_data(request), load_test(request)
    path = entry_of(cache) / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "other shape" and path.suffix == ".npy":
        np.save(path, np.zeros((2, 3, SIDE, SIDE), dtype=np.uint8))
    elif damage == "other shape":
        path.write_text(json.dumps({**json.loads(content), "resolution": 9}))
    else:
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "junk": b"PK\x03\x04junk"}[damage])
    assert same(load_data(request), data)
    assert np.array_equal(load_test(request).images, test.images)
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_not_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert len(load(folder).all_train) == 30
        assert len(load_test(DataRequest(f"folder:{folder}"))) == 8
    assert "not cached" in caplog.text


def test_a_full_disk_leaves_no_half_file(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("budgetnas.data.cache.np.save", full)
    assert len(load(folder).all_train) == 30
    assert not list(cache.rglob(".tmp-*"))


def test_the_most_recently_used_entries_are_kept(folder: Path, cache: Path) -> None:
    for resolution in range(4, 4 + MAX_ENTRIES):
        load(folder, resolution=resolution)
    for age, path in enumerate(sorted(cache.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, ns=(10**9 * age, 10**9 * age))
    load(folder, resolution=4)  # used again: the second oldest goes in its place
    load(folder, resolution=100)
    kept = {json.loads(path.read_text())["resolution"] for path in cache.rglob("manifest.json")}
    assert len(kept) == MAX_ENTRIES
    assert {4, 100} <= kept


def test_starts_at_the_same_time_decode_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_decodes(monkeypatch)
    loaded: list[Data] = []
    starts = [threading.Thread(target=lambda: loaded.append(load(folder))) for _ in range(4)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert counts == [30]
    assert all(same(loaded[0], data) for data in loaded)
