from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from budgetnas.data import Data, DataRequest, load_data
from budgetnas.data import folder as folder_module
from budgetnas.data.cache import MAX_ENTRIES
from budgetnas.data.contents import describe_difference
from budgetnas.data.test_split import load_test
from budgetnas.errors import InputError

SIDE = 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


def save(path: Path, level: int, *, mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).convert(mode).save(path)


def fill(part: Path, classes: dict[str, int]) -> None:
    """Write plain images; every one of a class has a level of its own."""
    for name, count in classes.items():
        for index in range(count):
            save(part / name / f"{index:02}.png", index)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "my photos"
    fill(root / "train", {"cat": 20, "dog": 10})
    fill(root / "test", {"cat": 4, "dog": 4})
    return root


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


def test_a_plain_folder(folder: Path) -> None:
    data = load(folder)
    assert data.classes == ("cat", "dog")
    assert (data.in_channels, data.resolution, data.flip, data.is_cifar10) == (3, SIDE, True, False)
    assert data.notices == ()
    assert np.bincount(data.all_train.labels).tolist() == [20, 10]
    assert np.bincount(data.validation.labels).tolist() == [2, 1]
    assert np.bincount(data.train.labels).tolist() == [18, 9]
    assert data.all_train.images[:, 0, 0, 0].tolist() == [*range(20), *range(10)]
    assert data.all_train.images.dtype == np.uint8
    assert data.identity.name == "folder-my-photos"
    assert np.bincount(load_test(DataRequest(f"folder:{folder}")).labels).tolist() == [4, 4]


def test_subsets_of_a_folder(folder: Path) -> None:
    data = load(folder, subset=9, subset_eval=2)
    assert np.bincount(data.train.labels).tolist() == [6, 3]
    assert np.bincount(data.all_train.labels).tolist() == [6, 3]
    assert np.bincount(data.validation.labels).tolist() == [1, 1]
    assert "--subset 28: must be at most the 27 images of the training split" in refused(folder, subset=28)


def test_the_split_seed_changes_the_split_and_the_identity_but_not_the_content(folder: Path) -> None:
    first, second = load(folder), load(folder, split_seed=1)
    assert first.identity.content_hash == second.identity.content_hash
    assert first.identity.digest() != second.identity.digest()
    levels = [data.validation.images[:, 0, 0, 0].tolist() for data in (first, second)]
    assert levels[0] != levels[1]


def test_where_the_folder_lies_does_not_matter(folder: Path, tmp_path: Path) -> None:
    before = load(folder).identity
    moved = folder.rename(tmp_path / "elsewhere")
    assert load(moved).identity.content_hash == before.content_hash


def test_every_byte_and_name_of_either_split_counts(folder: Path) -> None:
    hashes = [load(folder).identity.content_hash]
    save(folder / "test" / "cat" / "00.png", 99)
    hashes.append(load(folder).identity.content_hash)
    (folder / "train" / "cat" / "00.png").rename(folder / "train" / "cat" / "zero.png")
    hashes.append(load(folder).identity.content_hash)
    assert len(set(hashes)) == 3


def test_conversions_are_counted(folder: Path) -> None:
    for index, mode in enumerate(("L", "L", "RGBA", "P")):
        save(folder / "train" / "dog" / f"{index}-{mode}.png", 10, mode=mode)
    for index in range(3):
        save(folder / "train" / "cat" / f"wide{index}.jpg", 10, size=(30, 12))
    assert load(folder).notices == (
        "1 image with transparency composed on white",
        "2 grey images converted to RGB",
        "1 palette image converted to RGB",
        "3 images resized to 8x8 (shorter side, centre crop)",
    )


def test_the_resolution_is_the_most_common_shorter_side_of_the_training_images(folder: Path) -> None:
    fill(folder / "test", {"cat": 50})
    for index in range(40):
        save(folder / "train" / "dog" / f"tall{index}.png", index, size=(12, 20))
    assert load(folder).resolution == 12
    assert load_test(DataRequest(f"folder:{folder}")).images.shape[1:] == (3, 12, 12)
    assert load(folder, resolution=16).train.images.shape[1:] == (3, 16, 16)


def test_a_wrong_guess_at_the_resolution_is_put_right(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folder / "train" / "cat" / "00.png", 0, size=(20, 20))
    monkeypatch.setattr(folder_module, "_SAMPLE", 1)
    counts = count_decodes(monkeypatch)
    assert load(folder).resolution == SIDE
    assert counts == [30, 30]


def test_large_images_default_to_64(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(3):
            save(tmp_path / "train" / name / f"{index}.jpg", 9, size=(100, 90))
    assert load(tmp_path).resolution == 64


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


@pytest.mark.parametrize("train", ["Train", "TRAINING", "train"])
@pytest.mark.parametrize("test", ["Test", "testing", "tests"])
def test_splits_in_the_usual_spellings(tmp_path: Path, train: str, test: str) -> None:
    fill(tmp_path / train, {"cat": 5, "dog": 5})
    fill(tmp_path / test, {"cat": 2, "dog": 2})
    fill(tmp_path / "unlabelled", {"x": 2})
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert len(data.all_train) == 10
    assert len(load_test(DataRequest(f"folder:{tmp_path}"))) == 4
    assert data.notices == (f"1 folder other than {train}/ and {test}/ not used: unlabelled",)


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "dev"])
def test_a_folders_own_validation_split_is_used(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(folder).identity.content_hash
    for index, level in enumerate((100, 101)):
        save(folder / name / "cat" / f"{index}.png", level)
        save(folder / name / "dog" / f"{index}.png", level + 10)
    data = load(folder)
    assert f"{name}/ is the validation split (4 images)" in data.notices
    assert data.identity.content_hash != before
    assert data.train.images[:, 0, 0, 0].tolist() == [*range(20), *range(10)]
    assert data.validation.images[:, 0, 0, 0].tolist() == [100, 101, 110, 111]
    assert data.validation.labels.tolist() == [0, 0, 1, 1]
    assert len(data.all_train) == 34
    counts = count_decodes(monkeypatch)
    assert np.array_equal(load(folder).validation.images, data.validation.images)
    assert counts == []
    assert len(load(folder, subset_eval=2).validation) == 2


def test_a_validation_folder_without_a_training_folder_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "val", {"cat": 5, "dog": 5})
    assert "has val/ but no train/" in refused(tmp_path)


def test_a_validation_folder_may_lack_a_class_but_has_no_other(folder: Path) -> None:
    fill(folder / "val", {"cat": 2})
    assert "val/ has no images of 1 class: dog" in load(folder).notices
    fill(folder / "val", {"cow": 2})
    assert "val/ has classes that train/ does not: cow" in refused(folder)


def test_two_folders_for_a_split_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 5, "dog": 5})
    fill(tmp_path / "Training", {"cat": 5, "dog": 5})
    assert "two folders for the train split: Training/ and train/" in refused(tmp_path)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("seg_train/cat", "seg_test/cat", "seg_pred/x"), "look like splits, not like classes: seg_test, seg_train"),
        (("trainImages/cat", "valImages/cat"), "look like splits, not like classes: trainImages, valImages"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "inside a class folder: cat/test, cat/train"),
        (("photos/Train/cat", "photos/Test/cat"), "inside a class folder: photos/Test, photos/Train"),
        (("images/train/cat", "labels/train/cat"), "inside a class folder: images/train"),
    ],
)
def test_splits_are_not_taken_as_classes(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for name in folders:
        fill(tmp_path, {name: 5})
    assert message in refused(tmp_path)


def test_a_class_may_have_a_name_with_the_word_of_a_split(tmp_path: Path) -> None:
    fill(tmp_path, {"test tube": 5, "flask": 5})
    assert load(tmp_path).classes == ("flask", "test tube")


def test_links_that_lead_nowhere_and_other_odd_entries_are_named(folder: Path) -> None:
    (folder / "train" / "cat" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "train" / "bird").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "test" / "dog" / "pipe.png")
    (folder / "val").symlink_to(folder / "nowhere")
    (folder / "train" / "dog" / "@eaDir").mkdir()
    save(folder / "train" / "dog" / "@eaDir" / "thumbnail.png", 3)
    data = load(folder)
    assert data.classes == ("cat", "dog")
    assert data.notices == (
        "4 entries ignored, such as links that lead nowhere or back to a folder above: "
        "val, train/cat/gone.png, train/bird, test/dog/pipe.png",
    )


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "avif"])
def test_further_suffixes(folder: Path, suffix: str) -> None:
    image = Image.new("RGB", (SIDE, SIDE), (9, 9, 9))
    image.save(folder / "train" / "dog" / f"x.{suffix}", format="AVIF" if suffix == "avif" else "JPEG")
    assert len(load(folder).all_train) == 31


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


def test_the_own_resolution_by_its_number_decodes_nothing(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(folder)
    counts = count_decodes(monkeypatch)
    assert load(folder, resolution=first.resolution).identity == first.identity
    assert counts == []
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_without_a_test_folder_a_fifth_is_set_aside(tmp_path: Path) -> None:
    root = tmp_path / "set"
    fill(root / "train", {"cat": 20, "dog": 10})
    data, test = load(root), load_test(DataRequest(f"folder:{root}"))
    assert np.bincount(test.labels).tolist() == [4, 2]
    assert len(data.all_train) == 24
    pairs = [(int(y), int(x[0, 0, 0])) for part in (data.all_train, test) for x, y in zip(part.images, part.labels)]  # noqa: B905
    assert len(set(pairs)) == 30
    assert any("6 of 30 images (20 %" in notice for notice in data.notices)
    other = load_test(DataRequest(f"folder:{root}", split_seed=1))
    assert not np.array_equal(test.images, other.images)
    assert load(root, split_seed=1).identity.content_hash == data.identity.content_hash


def test_class_folders_may_lie_in_the_directory_itself(tmp_path: Path) -> None:
    root = tmp_path / "set"
    fill(root, {"cat": 5, "dog": 5})
    data = load(root)
    assert data.classes == ("cat", "dog")
    assert "without a train/ folder" in data.notices[0]


def test_other_files_and_folders_are_counted_and_hidden_ones_are_not(folder: Path) -> None:
    (folder / "train" / "cat" / "notes.txt").write_text("x")
    (folder / "train" / "index.csv").write_text("x")
    (folder / "train" / "cat" / ".DS_Store").write_text("x")
    (folder / "train" / ".hidden").mkdir()
    (folder / "raw").mkdir()
    data = load(folder)
    assert data.classes == ("cat", "dog")
    assert data.notices == (
        "1 folder other than train/ and test/ not used: raw",
        "2 files ignored: not an image by suffix or place",
    )


def test_suffixes_of_any_case_links_and_nested_folders_count(folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "far" / "deep" / "x.PNG", 77)
    (folder / "train" / "dog" / "linked").symlink_to(tmp_path / "far")
    (folder / "train" / "dog" / "round").symlink_to(folder / "train" / "dog")
    assert np.bincount(load(folder).all_train.labels).tolist() == [20, 11]


def test_a_test_folder_may_lack_a_class(folder: Path) -> None:
    for file in (folder / "test" / "dog").iterdir():
        file.unlink()
    assert load(folder).notices == ("test/ has no images of 1 class: dog",)
    assert set(load_test(DataRequest(f"folder:{folder}")).labels) == {0}


def test_layouts_that_cannot_be_used(tmp_path: Path) -> None:
    root = tmp_path / "set"
    assert "does not exist" in refused(root)
    root.mkdir()
    assert "has no class folders" in refused(root)
    (root / "file").write_text("")
    assert "is not a folder" in refused(root / "file")
    fill(root / "test", {"cat": 3})
    assert "has test/ but no train/" in refused(root)
    (root / "train").mkdir()
    assert "has no class folders" in refused(root)
    fill(root / "train", {"cat": 3})
    assert "a single class, 'cat'" in refused(root)
    (root / "train" / "dog").mkdir()
    assert "class 'dog' has no images" in refused(root)
    save(root / "train" / "dog" / "0.png", 0)
    assert "class 'dog' has 1 training image, and needs at least 2" in refused(root)
    fill(root / "test", {"cow": 1})
    assert "test/ has classes that train/ does not: cow" in refused(root)


def test_an_empty_test_folder_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 3, "dog": 3})
    (tmp_path / "test" / "cat").mkdir(parents=True)
    assert "has no images" in refused(tmp_path)


def test_too_few_images_for_three_splits(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 3, "dog": 2})
    assert "class 'dog' has 2 images, and needs at least 3" in refused(tmp_path)


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


def test_a_cache_that_cannot_be_written_is_no_failure(
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
