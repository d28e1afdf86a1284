"""Folders of images: damaged and changed files, and the cache of decoded images."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import SIDE, count_decodes, load, photos, refused, save
from PIL import Image

from budgetnas.data import Data, DataRequest, load_data
from budgetnas.data.cache import MAX_ENTRIES
from budgetnas.data.contents import describe_difference
from budgetnas.data.decoding import batch_size, in_threads
from budgetnas.data.test_split import load_test
from budgetnas.errors import BudgetnasError, InputError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos(tmp_path)


def test_the_test_split_is_read_without_a_cached_training_part(folder: Path) -> None:
    assert load_test(DataRequest(f"folder:{folder}")).images.shape == (8, 3, SIDE, SIDE)


def test_the_test_split_of_a_folder_that_has_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    data = load(folder)
    request = DataRequest(f"folder:{folder}", resolution=data.resolution, bit_depth=16)
    assert len(load_test(request, data.identity)) == 8
    shutil.copytree(folder, tmp_path / "copy")
    assert len(load_test(replace(request, name=f"folder:{tmp_path / 'copy'}"), data.identity)) == 8
    shutil.copy(folder / "train" / "cat" / "00.png", folder / "test" / "dog" / "x.png")
    with pytest.raises(InputError) as caught:
        load_test(request, data.identity)
    assert "has changed since its training images were loaded: 1 file added: test/dog/x.png" in str(caught.value)
    assert len(load_test(request)) == 9, "without an identity nothing is compared"


def test_the_comparison_reads_no_training_images(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(folder)
    (entry_of(cache) / "train.npy").unlink()
    counts = count_decodes(monkeypatch)
    load_test(DataRequest(f"folder:{folder}"), data.identity)
    assert counts == [8]


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


def fail_to_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the operating system fail for a file, as on a bad disk or a network that is away."""
    original = Path.read_bytes

    def read(path: Path) -> bytes:
        if path.name == name:
            raise OSError(errno.EIO, "Input/output error")
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read)


def test_a_file_that_cannot_be_read_is_not_left_out_as_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "train" / "dog" / "03.png").write_bytes(b"no image")
    fail_to_read(monkeypatch, "15.png")
    assert "train/cat/15.png (Input/output error)" in refused(folder)
    message = refused(folder, skip_damaged=True)
    assert "1 file cannot be read from the disk: train/cat/15.png (Input/output error)" in message
    assert "train/dog/03.png" not in message
    monkeypatch.undo()


def test_memory_that_does_not_suffice_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("budgetnas.data.decoding._to_rgb", fail)
    with pytest.raises(BudgetnasError, match=r"not enough memory to decode test/cat/00\.png"):
        load(folder, skip_damaged=True)


def test_names_that_are_not_utf8_are_escaped_and_cannot_be_left_out(folder: Path) -> None:
    name = os.fsencode(folder / "train" / "dog") + b"/\xff\n.png"
    with open(name, "wb") as file:
        file.write(b"no image")
    assert "train/dog/\\udcff\\n.png (not an image" in refused(folder)
    message = refused(folder, skip_damaged=True)
    assert "1 damaged file with names that are not UTF-8 cannot be recorded: train/dog/\\udcff\\n.png" in message
    os.replace(folder / "train" / "dog" / "03.png", name)
    assert len(load(folder).all_train) == 30


@pytest.mark.parametrize("part", ["train/dog", "test"])
def test_a_part_of_damaged_images_only_is_refused_as_such(folder: Path, part: str) -> None:
    damaged = list((folder / part).rglob("*.png"))
    for path in damaged:
        path.write_bytes(b"no image")
    message = refused(folder, skip_damaged=True)
    assert f"all images in {part}/ are damaged ({len(damaged)} files)" in message
    assert f"repair them, or remove {part}/" in message


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


def test_the_files_in_memory_at_once_are_limited_by_their_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch_size([100] * 1000) == 64
    assert batch_size([1 << 20] * 1000) == 4
    assert batch_size([50 << 20] * 1000) == 1
    assert batch_size([]) == 64
    started: list[int] = []
    results = in_threads(lambda job: started.append(job) or job, range(1000), 2, 4)
    assert next(results) == 0
    time.sleep(0.2)
    assert len(started) <= 2 * 4 * 4
    assert list(results) == list(range(1, 1000))


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
@pytest.mark.parametrize("damage", ["empty", "half", "junk", "header", "zeros", "other shape", "gone"])
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
    elif damage == "header":  # NumPy's parser raises SyntaxError, TypeError and others for it
        path.write_bytes(content.replace(b"'descr'", b"{{{{{{{"))
    elif damage == "zeros":  # a block that was not written before a crash
        path.write_bytes(content[:200] + bytes(100) + content[300:])
    else:
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "junk": b"PK\x03\x04junk"}[damage])
    assert same(load_data(request), data)
    assert np.array_equal(load_test(request).images, test.images)
    assert path.read_bytes() == content


@pytest.mark.parametrize("junk", [b"\0\0", b"x8", b"-5", b"3", b"8\n", b"\xff", b"9" * 5000, b""])
def test_a_damaged_note_of_the_side_is_rebuilt(folder: Path, cache: Path, junk: bytes) -> None:
    request = DataRequest(f"folder:{folder}")
    data = load_data(request)
    [note] = (cache.parent / "sides").iterdir()
    note.write_bytes(junk)
    assert load_test(request).images.shape == (8, 3, SIDE, SIDE)
    assert same(load_data(request), data)
    assert note.read_bytes() == b"8"


def test_a_tilde_in_the_folder_of_the_cache_is_the_home_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", "~/my-cache")
    load(folder)
    assert (tmp_path / "home" / "my-cache" / "data").is_dir()
    assert not (tmp_path / "~").exists()


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


@pytest.mark.parametrize("resolution_first", [False, True])
def test_starts_with_and_without_a_resolution_decode_once(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, resolution_first: bool
) -> None:
    """They share an entry of the cache, if the resolution is the images' own."""
    counts = count_decodes(monkeypatch)
    original = np.save

    def slow(*args: Any, **options: Any) -> None:
        time.sleep(0.3)  # the other start finds nothing in the cache, and must wait
        original(*args, **options)

    monkeypatch.setattr("budgetnas.data.cache.np.save", slow)
    resolutions = ({}, {"resolution": SIDE})[:: -1 if resolution_first else 1]
    starts = [threading.Thread(target=load, args=(folder,), kwargs=options) for options in resolutions]
    for start in starts:
        start.start()
        time.sleep(0.1)
    for start in starts:
        start.join()
    assert counts == [30]
    assert sorted(path.name for path in entry_of(cache).iterdir()) == ["manifest.json", "train.npy"]
