"""Images given as arrays: their checks, splits and identity, and a study that is made on them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import run

import budgetnas
from budgetnas import ImageArrays
from budgetnas.data import DataRequest, load_data
from budgetnas.data.test_split import load_test

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(300) % 3
WHOLE = "labels '{} of shape {}': must be 300 whole numbers, one for each image; {}"
OTHER = RANDOM.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
SMALL: dict[str, Any] = {
    "budget": "6k",
    "epochs": 1,
    "batch_size": 50,
    "trials": 1,
    "space": {"blocks": [[1, 2], [1, 1]], "widths": [4, 6, 8]},
    "device": "cpu",
    "progress": False,
}


def request(arrays: ImageArrays, **changes: Any) -> DataRequest:
    return DataRequest("arrays", arrays=arrays, **changes)


def test_arrays_are_split_like_a_folder_and_normalised_to_channels_first() -> None:
    data = load_data(request(ImageArrays(PIXELS, LABELS, classes=["a", "b", "c"])))
    assert (len(data.train), len(data.validation), len(data.all_train)) == (216, 24, 240)
    test = load_test(request(ImageArrays(PIXELS, LABELS)))
    assert len(test) == 60 and np.bincount(test.labels).tolist() == [20, 20, 20]
    assert data.classes == ("a", "b", "c") and data.in_channels == 3 and data.resolution == 8 and data.flip
    assert "60 of 300 images (20 %, stratified, split seed 0) are set aside as the test split" in data.notices[0]
    every = np.concatenate([data.all_train.images, test.images]).transpose(0, 2, 3, 1)
    assert sorted(map(bytes, every)) == sorted(map(bytes, PIXELS))


def test_given_splits_are_used_as_they_are() -> None:
    arrays = ImageArrays(PIXELS, LABELS, validation=(OTHER[9:], LABELS[9:30]), test=(OTHER[:9], LABELS[:9]), flip=False)
    data = load_data(request(arrays))
    assert (len(data.train), len(data.validation), len(load_test(request(arrays)))) == (300, 21, 9)
    assert not data.flip and data.notices == ()
    assert load_data(request(arrays, resolution=16)).validation.images.shape == (21, 3, 16, 16)


def test_copies_of_training_images_in_other_splits_are_reported() -> None:
    mixed = np.concatenate([PIXELS[:1], OTHER[1:]])
    arrays = ImageArrays(PIXELS, LABELS, validation=(mixed, LABELS[:30]), test=(OTHER[:9], LABELS[:9]))
    assert load_data(request(arrays)).notices == (
        "8 of 9 test images are copies of training images, so test accuracies are too high",
        "1 of 30 validation images is a copy of a training image, so validation accuracies are too high",
    )


def test_the_share_of_the_commonest_class_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.repeat([0, 1], (240, 60))
    assert load_data(request(ImageArrays(PIXELS, labels))).validation_classes.commonest == ("0", 20 / 24)
    options = SMALL | {"progress": True, "storage": tmp_path / "s.db"}
    budgetnas.search(data=(PIXELS, labels), **options)
    assert "24 for validation, of which the commonest class has 83.3%" in capsys.readouterr().err


def test_the_hash_is_that_of_the_content() -> None:
    def digest(**changes: Any) -> str:
        return ImageArrays(**{"images": PIXELS, "labels": LABELS} | changes).content_hash()

    brighter, relabelled = PIXELS.copy(), LABELS.copy()
    brighter[7, 0, 0, 0] ^= 1
    relabelled[[0, 1]] = relabelled[[1, 0]]
    others = [
        digest(images=brighter),
        digest(labels=relabelled),
        digest(classes=["a", "b", "c"]),
        digest(validation=(OTHER, LABELS[:30])),
        digest(test=(OTHER, LABELS[:30])),
    ]
    assert len({digest(), *others}) == 6
    assert digest() == digest(images=torch.from_numpy(PIXELS), labels=torch.from_numpy(LABELS).int())
    assert digest() == digest(images=np.asfortranarray(PIXELS), labels=LABELS.tolist())


def test_grey_images_need_no_axis_of_channels() -> None:
    flat, deep = ImageArrays(PIXELS[..., 0], LABELS), ImageArrays(PIXELS[..., :1], LABELS)
    assert flat.content_hash() == deep.content_hash()
    assert load_data(request(flat)).in_channels == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": PIXELS / 255}, "images 'float64': must be uint8, from 0 to 255; images from 0 to 1 become"),
        ({"images": PIXELS.transpose(0, 3, 1, 2)}, "images '300 x 3 x 8 x 8': must be N x H x W x C with 1 or 3"),
        ({"images": PIXELS[:, :6]}, "images '300 x 6 x 8 x 3': must be square, with sides from 4 to 512 pixels"),
        ({"images": PIXELS[:, :2, :2]}, "images '300 x 2 x 2 x 3': must be square"),
        ({"labels": LABELS[:-1]}, "labels 'int64 of shape (299,)': must be 300 whole numbers, one for each image"),
        ({"labels": LABELS / 1}, WHOLE.format("float64", "(300,)", "labels.astype(int) has")),
        ({"labels": LABELS / 2}, WHOLE.format("float64", "(300,)", "classes, labels = np.unique(")),
        ({"labels": LABELS.astype(str)}, WHOLE.format("<U21", "(300,)", "classes, labels = np.unique(")),
        ({"labels": LABELS[:, None]}, WHOLE.format("int64", "(300, 1)", "labels.ravel()")),
        ({"labels": np.eye(3)[LABELS]}, WHOLE.format("float64", "(300, 3)", "labels.argmax(axis=1)")),
        ({"labels": LABELS - 1}, "labels -1: must be from 0 to 99,999; classes, labels = np.unique("),
        ({"labels": LABELS + 2**62}, "labels 4611686018427387906: must be from 0 to 99,999; classes"),
        ({"labels": LABELS * 0}, "labels: have a single class; a search needs at least two"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "images '0 x 8 x 8 x 3': has no images"),
        ({"images": PIXELS.astype(int)}, "images 'int64': must be uint8, from 0 to 255; images.astype('uint8')"),
        ({"images": PIXELS / 255 * 16}, "images 'float64': must be uint8, from 0 to 255; they reach to 16; if that"),
        ({"images": PIXELS - 300.0}, "images 'float64': must be uint8, from 0 to 255; they reach from -300 to"),
        ({"images": PIXELS * np.nan}, "images 'float64': must be uint8, from 0 to 255; they have values that are not"),
        ({"images": list("abc")}, "images '<U1': must be uint8, from 0 to 255; give an array of numbers"),
        ({"images": [PIXELS[0], PIXELS[0, :4]]}, "images 'list': cannot be read as an array"),
        ({"images": torch.empty(3, 8, 8, device="meta")}, "images 'Tensor': cannot be read as an array"),
        ({"flip": None}, "flip: must be True or False"),
        ({"labels": LABELS + 1}, "labels: class '0' has 0 training images, and needs at least 3; number the classes"),
        ({"classes": ["a", "b"]}, "classes \"['a', 'b']\": must be at least 3 different names, for"),
        ({"classes": ["a", "b", "a"]}, "classes \"['a', 'b', 'a']\": must be at least 3 different names"),
        ({"classes": "abc"}, "classes 'abc': must be at least 3 different names"),
        ({"test": OTHER}, "test 'ndarray': must be a pair (images, labels)"),
        ({"test": (OTHER[:, :4, :4], LABELS[:30])}, "test '3 x 4 x 4': has images of another shape than the training"),
        (
            {"validation": (OTHER, LABELS[:30] + 1)},
            "validation labels 3: is not one of the 3 classes of the training labels",
        ),
    ],
)
def test_errors_name_the_array_and_the_rule(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(budgetnas.InputError, match=f"^{re.escape(words)}"):
        ImageArrays(**{"images": PIXELS, "labels": LABELS} | changes)


def test_tensors_of_a_training_are_read() -> None:
    images = torch.from_numpy(PIXELS).float().requires_grad_()
    with pytest.raises(budgetnas.InputError, match=r"images\.astype\('uint8'\)"):
        ImageArrays(images, torch.from_numpy(LABELS))
    tensors = ImageArrays(torch.from_numpy(PIXELS), torch.from_numpy(LABELS))
    assert tensors.content_hash() == ImageArrays(PIXELS, LABELS).content_hash()


def test_the_names_of_the_classes_may_be_an_array() -> None:
    assert ImageArrays(PIXELS, LABELS, classes=np.array(["a", "b", "c"])).classes == ("a", "b", "c")


def test_a_study_with_flipped_images_is_not_resumed_without(tmp_path: Path) -> None:
    options = SMALL | {"storage": tmp_path / "s.db", "study": "flipped"}
    budgetnas.search(data=(PIXELS, LABELS), **options)
    with pytest.raises(budgetnas.InputError, match=r"^flip False: the study was created with images that training may"):
        budgetnas.search(data=ImageArrays(PIXELS, LABELS, flip=False), **options | {"trials": 2})
    options |= {"study": "upright"}
    upright = budgetnas.search(data=ImageArrays(PIXELS, LABELS, flip=False), **options)
    assert not upright.trials[0].recipe.augmentation.flip
    assert len(budgetnas.search(data=(PIXELS, LABELS), **options | {"trials": 2}).trials) == 2


def test_a_training_ignores_what_a_program_set_for_its_own_tensors(tmp_path: Path) -> None:
    usual = budgetnas.search(data=(PIXELS, LABELS), storage=tmp_path / "usual.db", **SMALL)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.inference_mode():
            other = budgetnas.search(data=(PIXELS, LABELS), storage=tmp_path / "other.db", **SMALL)
        assert torch.get_default_dtype() == torch.float64 and torch.get_default_device() == torch.device("meta")
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert [trial.accuracy for trial in other.trials] == [trial.accuracy for trial in usual.trials]


def test_a_study_on_arrays_resumes_and_explains_how_to_pass_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = budgetnas.search(data=(PIXELS, LABELS), **SMALL)
    assert study.name == "arrays-6k"
    assert study.specification.data.content_hash == ImageArrays(PIXELS, LABELS).content_hash()
    assert budgetnas.search(data=ImageArrays(PIXELS, LABELS), **SMALL).trials == study.trials
    without = budgetnas.open_study("arrays-6k")
    assert without.trials == study.trials, "its records need no images"
    missing = r"^data: is missing: study 'arrays-6k' was made on arrays; give them in Python: data=\(images, labels\)"
    with pytest.raises(budgetnas.InputError, match=missing):
        without.finish(progress=False)
    with pytest.raises(budgetnas.InputError, match=missing):
        budgetnas.search(study="arrays-6k", trials=2, progress=False)
    with pytest.raises(budgetnas.InputError, match="the content of the images differs"):
        budgetnas.search(data=(255 - PIXELS, LABELS), **SMALL)
    with pytest.raises(budgetnas.InputError, match=r"^data 'arrays': arrays cannot be sent to other processes"):
        budgetnas.search(data=(PIXELS, LABELS), workers=2, **SMALL)
    command = run(tmp_path, "finish", "arrays-6k")
    assert command.returncode == 2
    assert "--data: is missing: study 'arrays-6k' was made on arrays; give them in Python" in command.stderr
    opened = budgetnas.open_study("arrays-6k", data=(PIXELS, LABELS))
    result = opened.finish(finalists=1, final_seeds=2, device="cpu", progress=False)
    assert result.test_images == 60
