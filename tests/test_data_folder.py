"""Folders of images: layouts, splits, conversions and notices."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from folders import SIDE, count_decodes, fill, load, photos, refused, save
from PIL import Image

from budgetnas.data import DataRequest
from budgetnas.data import folder as folder_module
from budgetnas.data.test_split import load_test


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos(tmp_path)


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


def test_test_files_that_are_training_files_too_are_counted(folder: Path) -> None:
    for index in range(2):
        shutil.copy(folder / "train" / "cat" / f"0{index}.png", folder / "test" / "dog" / f"copy{index}.png")
    told = "2 of 10 test images are copies of training images, so test accuracies are too high"
    assert load(folder).notices == (told,)
    assert load(folder).notices == (told,), "from the cache"


def test_training_files_that_are_in_two_classes_are_counted(folder: Path) -> None:
    shutil.copy(folder / "train" / "cat" / "03.png", folder / "train" / "dog" / "copy.png")
    shutil.copy(folder / "train" / "cat" / "04.png", folder / "train" / "cat" / "copy.png")
    told = "2 training files with the same bytes in different classes: train/cat/03.png, train/dog/copy.png"
    assert load(folder).notices == (told,)


def test_conversions_are_counted(folder: Path) -> None:
    for index, mode in enumerate(("L", "L", "RGBA", "P")):
        save(folder / "train" / "dog" / f"{index}-{mode}.png", 60 + 30 * index, mode=mode)
    for index in range(3):
        save(folder / "train" / "cat" / f"wide{index}.jpg", 80 * index, size=(30, 12))
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


def test_the_test_images_have_the_side_of_training_and_validation_images_together(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(40):
        save(folder / "val" / "cat" / f"{index}.png", index, size=(12, 12))
    assert load(folder).resolution == 12
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "empty"))
    assert load_test(DataRequest(f"folder:{folder}")).images.shape == (8, 3, 12, 12)


def test_images_that_need_more_memory_than_there_is_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2**20))
    assert load(folder).resolution == SIDE
    message = refused(folder, resolution=512)
    assert "--resolution 512: 30 images of 512x512 pixels need about 0.0 GiB of memory" in message
    assert "smaller resolution, or fewer images" in message


def test_a_wrong_guess_of_the_resolution_is_corrected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("name", ["val", "Valid", "validation"])
def test_splits_in_a_folder_above_or_below_are_refused_with_the_folder_to_pass(tmp_path: Path, name: str) -> None:
    """`train/train` next to `train/val`, as some archives unpack, must not become classes of these names."""
    for split in ("train", name):
        fill(tmp_path / "photos" / "train" / split, {"cat": 5, "dog": 5})
    first, second = sorted((name, "train"))
    assert f"the splits are inside train/: train/{first}, train/{second}" in refused(tmp_path / "photos")
    assert f"folder:{tmp_path / 'photos' / 'train'}" in refused(tmp_path / "photos")
    assert f"folder:{tmp_path / 'photos'}" in refused(tmp_path)
    assert f"{name}/ is the validation split (10 images)" in load(tmp_path / "photos" / "train").notices


def test_a_notice_of_unused_folders_names_the_validation_folder_as_used(folder: Path) -> None:
    fill(folder / "val", {"cat": 2, "dog": 2})
    fill(folder / "unlabelled", {"x": 2})
    assert "1 folder other than train/, val/ and test/ not used: unlabelled" in load(folder).notices


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


@pytest.mark.parametrize("above", ["my photos", "my photos/train", "."])
def test_a_link_to_a_folder_above_its_class_is_not_followed(folder: Path, tmp_path: Path, above: str) -> None:
    (folder / "train" / "cat" / "up").symlink_to(tmp_path / above)
    data = load(folder)
    assert np.bincount(data.all_train.labels).tolist() == [20, 10]
    assert "1 entry ignored, such as links that lead nowhere or back to a folder above: train/cat/up" in data.notices


def test_a_link_to_itself_is_ignored_and_named(folder: Path) -> None:
    for place in ("train/cat/loop.png", "train/loop", "loop"):
        (folder / place).symlink_to(folder / place)
    [notice] = load(folder).notices
    assert notice.startswith("3 entries ignored") and notice.endswith(": loop, train/cat/loop.png, train/loop")


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
        "2 files ignored: not an image by suffix or place (.csv, .txt)",
    )


def test_a_notice_of_ignored_files_names_the_commonest_suffixes(folder: Path) -> None:
    for name in ("a.HEIC", "b.heic", "c.txt", "d.txt", "e.csv", "f.xml", "README"):
        (folder / "train" / "cat" / name).write_text("x")
    told = "7 files ignored: not an image by suffix or place (.heic, .txt, no suffix and 2 more)"
    assert load(folder).notices == (told,)


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


def test_a_test_folder_of_images_without_classes_is_refused_with_a_hint(folder: Path) -> None:
    for path in sorted((folder / "test").glob("*/*.png")):
        path.rename(folder / "test" / f"{path.parent.name}-{path.name}")
    message = refused(folder)
    assert "has no images in class folders, but 8 images outside of class folders" in message
    assert "lay them out as test/CLASS/image.jpg, or move test/ elsewhere to have a split made" in message
    (folder / "test" / "unknown").mkdir()
    assert "move test/ elsewhere to have a split made" in refused(folder)


def test_too_few_images_for_three_splits(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 3, "dog": 2})
    assert "class 'dog' has 2 images, and needs at least 3" in refused(tmp_path)
