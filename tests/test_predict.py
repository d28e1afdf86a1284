"""`budgetnas predict` on folders, arrays and pickles, to CSV files, with known labels."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score
from small import run, start

import budgetnas
from benchmarks.untrained import write_untrained
from budgetnas.architecture import Architecture
from budgetnas.bundle.contents import Preprocessing
from budgetnas.bundle.image_sources import read_sources
from budgetnas.bundle.plain_pickles import read_plain_pickle
from budgetnas.bundle.predicting import predict_items
from budgetnas.bundle.prediction_csv import csv_file
from budgetnas.bundle.preparing import Preprocessor
from budgetnas.bundle.scores import Scores
from budgetnas.errors import InputError
from budgetnas.metrics import share_interval
from budgetnas.space.recipe import Normalisation

CLASSES = ("cat", "dog", "ship")
PREPROCESSING = Preprocessing(
    classes=CLASSES, channels=3, resolution=8, normalisation=Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)
)
GREY = Preprocessing(classes=CLASSES, channels=1, resolution=8, normalisation=Normalisation(mean=(0.5,), std=(0.25,)))
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of an untrained network."""
    architecture = Architecture((1,), (4,), (1,), stem_width=4, size=8, classes=3)
    place = tmp_path_factory.mktemp("made") / "b"
    write_untrained(place, architecture, PREPROCESSING, PIXELS)
    return place


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of classes with 12 images, a hidden one, a damaged one, and what a file manager leaves."""
    root = tmp_path / "photos"
    for index, pixels in enumerate(PIXELS):
        place = root / CLASSES[index % 3] / ("deep" if index > 8 else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index:02}.png")
    (root / "cat" / "bad.JPG").write_bytes(b"no image")
    (root / "cat" / ".hidden.png").write_bytes(b"no image")
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "00.png").write_bytes(b"no image")
    (root / "notes.txt").write_text("no image")
    return root


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def prepared(path: Path, preprocessing: Preprocessing = PREPROCESSING) -> list[np.ndarray]:
    sources = read_sources([str(path)], preprocessing)
    return [Preprocessor(preprocessing).pixels(item.image) for item in sources.items]


@pytest.mark.parametrize(
    ("shaped", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS.transpose(0, 3, 1, 2), PIXELS),
        (np.asfortranarray(PIXELS), PIXELS),
        (PIXELS[0], PIXELS[:1]),
        (PIXELS[..., 0], PIXELS[..., :1].repeat(3, axis=3)),
        (PIXELS[:, np.newaxis, :, :, 0], PIXELS[..., :1].repeat(3, axis=3)),
        (PIXELS[..., :1], PIXELS[..., :1].repeat(3, axis=3)),
        (PIXELS[0, :, :, 0], PIXELS[:1, :, :, :1].repeat(3, axis=3)),
    ],
    ids=lambda array: "x".join(map(str, array.shape)),
)
def test_arrays_of_each_shape_are_the_same_images_as_files(
    tmp_path: Path, shaped: np.ndarray, expected: np.ndarray
) -> None:
    np.save(tmp_path / "a.npy", shaped)
    found = prepared(tmp_path / "a.npy")
    assert np.array_equal(np.stack(found), expected.transpose(0, 3, 1, 2))
    for preprocessing in (PREPROCESSING, GREY):
        for pixels, image in zip(prepared(tmp_path / "a.npy", preprocessing), expected, strict=True):
            Image.fromarray(image).save(tmp_path / "same.png")
            assert np.array_equal(pixels, Preprocessor(preprocessing).pixels(tmp_path / "same.png"))


def test_an_array_of_another_size_is_resized_as_files_are(tmp_path: Path) -> None:
    large = PIXELS.repeat(3, axis=1).repeat(2, axis=2)
    np.save(tmp_path / "a.npy", large)
    for pixels, image in zip(prepared(tmp_path / "a.npy"), large, strict=True):
        Image.fromarray(image).save(tmp_path / "same.png")
        assert np.array_equal(pixels, Preprocessor(PREPROCESSING).pixels(tmp_path / "same.png"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PIXELS / 255, "uint8"),
        (PIXELS[..., :2], r"\(12, 8, 8, 2\)"),
        (PIXELS[:0], "shape"),
        (PIXELS[0].transpose(2, 0, 1), "three grey images"),
        (PIXELS.reshape(12, -1), r"12 rows of 3 x 8 x 8 values.*reshape rows to \(N, 3, 8, 8\)"),
        (PIXELS.astype(np.uint16), "is of uint16.*scale it as the training images"),
        (np.array([[{}]], dtype=object), "Python objects"),
    ],
)
def test_an_array_that_is_not_of_images_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        read_sources([str(tmp_path / "a.npy")], PREPROCESSING)
    (tmp_path / "b.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match="cannot be read as a NumPy array"):
        read_sources([str(tmp_path / "b.npy")], PREPROCESSING)


def python2_string(content: bytes) -> bytes:
    return b"T" + len(content).to_bytes(4, "little") + content


def python2_pickle(data: np.ndarray, labels: list[int], names: list[bytes]) -> bytes:
    """A pickle as Python 2 wrote the CIFAR files: protocol 2, text as bytes."""
    integer = [b"J" + number.to_bytes(4, "little") for number in (*data.shape, *labels)]
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01"
        + integer[0]
        + integer[1]
        + b"\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + python2_string(data.tobytes())
        + b"tb"
    )
    listed = [b"](" + b"".join(items) + b"e" for items in (integer[2:], [python2_string(name) for name in names])]
    pairs = [b"data", array, b"labels", listed[0], b"filenames", listed[1]]
    keyed = [python2_string(item) if index % 2 == 0 else item for index, item in enumerate(pairs)]
    return b"\x80\x02}(" + b"".join(keyed) + b"u."


ROWS = PIXELS.transpose(0, 3, 1, 2).reshape(12, -1)
LABELS = [index % 3 for index in range(12)]


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    content = python2_pickle(ROWS, LABELS, [b"%d.png" % index for index in range(12)])
    assert pickle.loads(content, encoding="bytes")[b"labels"] == LABELS, "it is a pickle that NumPy reads too"
    (tmp_path / "test_batch").write_bytes(content)
    sources = read_sources([str(tmp_path / "test_batch")], PREPROCESSING)
    assert [item.label for item in sources.items] == LABELS
    assert sources.ids("stem") == [str(index) for index in range(12)]
    assert np.array_equal(np.stack([item.image for item in sources.items]), PIXELS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int, order: Any) -> None:
    content: dict[Any, Any] = {
        b"data": np.array(ROWS, order=order),
        "labels": np.array(LABELS),
        "ids": [np.int64(index) for index in range(12)],
        "share": np.float32(0.5),
        b"none": b"",
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_plain_pickle(tmp_path / "a.pkl")
    assert np.array_equal(found["data"], ROWS) and found["data"].dtype == np.uint8
    assert (found["labels"].tolist(), found["ids"], found["share"]) == (LABELS, list(range(12)), 0.5)
    sources = read_sources([str(tmp_path / "a.pkl")], PREPROCESSING)
    assert [item.id for item in sources.items] == [str(index) for index in range(12)]
    assert [item.label for item in sources.items] == LABELS


class Trap:
    """A pickle of it makes a folder where it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_code_in_a_pickle_is_run(tmp_path: Path, bundle: Path, protocol: int) -> None:
    folder = tmp_path / "made"
    hostile = pickle.dumps({b"data": ROWS, b"more": [Trap(folder)]}, protocol=protocol)
    pickle.loads(hostile)
    assert folder.is_dir(), "the trap works"
    folder.rmdir()
    (tmp_path / "a.pkl").write_bytes(hostile)
    failed = run(tmp_path, "predict", str(bundle), "a.pkl", "--csv", "out.csv")
    assert (failed.returncode, failed.stdout, len(failed.stderr.splitlines())) == (2, "", 1)
    assert "mkdir" in failed.stderr and "no code was run" in failed.stderr
    assert not folder.exists() and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\ngetattr\n.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nfrombuffer\n.",
        pickle.dumps({"data": np.array([{}], dtype=object)}),
        pickle.dumps({"data": np.zeros(3, dtype=[("a", "u1")])}),
        pickle.dumps({"data": ROWS})[:-60],
        pickle.dumps([1]),
        b"",
        b"\x80\x05",
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(tR(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftcnumpy\ndtype\n(Vu1\ntRI00\nC\x01atb.",
    ],
)
def test_a_pickle_of_something_else_is_a_single_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(InputError, match="IMAGE"):
        read_plain_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [1]}, "no 'data'"),
        ({"data": ROWS[:, :-1]}, "side x side"),
        ({"data": ROWS, "labels": [1, 2]}, "'labels' for 12 images"),
        ({"data": [1, 2]}, "list"),
    ],
)
def test_a_pickle_of_another_layout_is_refused(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=message):
        read_sources([str(tmp_path / "a.pkl")], PREPROCESSING)


def test_labels_that_are_not_classes_are_ignored_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"data": ROWS, "labels": [-1] * 12}))
    sources = read_sources([str(tmp_path / "a.pkl")], PREPROCESSING)
    assert {item.label for item in sources.items} == {None}
    assert "not used" in sources.notices[0]


def test_a_folder_gives_a_csv_and_scores_and_lists_damaged_images(tmp_path: Path, bundle: Path, photos: Path) -> None:
    done = run(tmp_path, "predict", str(bundle), "photos", "--csv", "out.csv", "--json")
    assert done.returncode == 2, done.stderr
    assert "1 file in" not in done.stdout and "1 file of photos ignored" in done.stderr
    assert "bad.JPG" in done.stderr.splitlines()[-1]
    assert (tmp_path / "out.csv").read_bytes().startswith(b"id,label\ncat/00.png,")
    header, *found = rows(tmp_path / "out.csv")
    assert header == ["id", "label"]
    names = sorted(
        path.relative_to(photos).as_posix() for path in photos.rglob("[0-9]*.png") if "MACOSX" not in str(path)
    )
    assert [row[0] for row in found] == names and len(names) == 12
    expected = budgetnas.load(bundle).predict([photos / name for name in names])
    assert [row[1] for row in found] == [prediction.best for prediction in expected]
    value = json.loads(done.stdout)
    assert (value["images"], value["csv"], value["predictions"]) == (13, "out.csv", None)
    assert [item["image"] for item in value["unreadable"]] == [os.path.join("photos", "cat/bad.JPG")]
    labels, predicted = [name.partition("/")[0] for name in names], [row[1] for row in found]
    scores = value["scores"]
    assert scores["accuracy"]["estimate"] == accuracy_score(labels, predicted)
    assert scores["confusion"] == confusion_matrix(labels, predicted, labels=list(CLASSES)).tolist()
    assert not list(tmp_path.glob(".out*"))

    shown = run(tmp_path, "predict", str(bundle), "photos")
    assert shown.returncode == 2
    for text in (
        "95 % interval",
        "commonest class cat: 33.33% of the images",
        "of 12 images",
        "images by label (rows) and",
    ):
        assert text in shown.stdout


def test_scores_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 3, 200), generator.integers(0, 3, 200)
    labels[labels == 2] = 0
    scores = Scores.of(CLASSES, labels.tolist(), predicted.tolist())
    assert np.array_equal(scores.confusion, confusion_matrix(labels, predicted, labels=[0, 1, 2]))
    assert scores.accuracy.estimate == accuracy_score(labels, predicted)
    assert scores.accuracy == share_interval(scores.correct, 200)
    assert scores.commonest == ("cat", (labels == 0).mean())
    assert scores.balanced_accuracy == pytest.approx(recall_score(labels, predicted, labels=[0, 1], average="macro"))
    values = scores.to_dict()["by_class"]
    assert [value["images"] for value in values] == [(labels == 0).sum(), (labels == 1).sum(), 0]
    assert values[1]["accuracy"] == (predicted[labels == 1] == 1).mean() and values[2]["accuracy"] is None


def test_the_columns_and_ids_of_a_csv(tmp_path: Path, bundle: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    Image.fromarray(PIXELS[0]).save(tmp_path / '=1, "x".png')
    expected = budgetnas.load(bundle).predict([*PIXELS, PIXELS[0]])

    def written(*options: str) -> list[list[str]]:
        done = run(tmp_path, "predict", str(bundle), "a.npy", '=1, "x".png', "--csv", "out.csv", *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "13 predictions in out.csv\n"
        return rows(tmp_path / "out.csv")

    found = written("--id-column", "Id", "--label-column", "Class", "--values", "index")
    assert found[0] == ["Id", "Class"]
    assert [row[0] for row in found[1:]] == [*map(str, range(12)), '=1, "x".png']
    assert [int(row[1]) for row in found[1:]] == [prediction.index for prediction in expected]
    found = written("--values", "probabilities", "--ids", "stem")
    assert found[0] == ["id", *CLASSES] and found[-1][0] == '=1, "x"'
    shares = np.array([row[1:] for row in found[1:]], dtype=np.float64)
    np.testing.assert_allclose(shares, [prediction.probabilities for prediction in expected], atol=1e-6)
    assert [row[0] for row in written("--ids", "number")[1:]] == [*map(str, range(13))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--id-column", "Id"), "--id-column 'Id': requires --csv"),
        (("--csv", "out.csv", "--values", "indx"), "--values 'indx'"),
        (("--csv", "out.csv", "--ids", "paths"), "did you mean path"),
        (("--csv", "out.csv", "--id-column", "label"), "name of another column"),
        (("--csv", "out.csv", "--values", "probabilities", "--label-column", "x"), "--label-column 'x'"),
        (("--csv", "nowhere/out.csv"), "--csv 'nowhere/out.csv'"),
        (("--csv", "-"), "--csv '-'"),
        (("--csv", "."), "is a folder"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    tmp_path: Path, bundle: Path, options: tuple[str, ...], message: str
) -> None:
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    failed = run(tmp_path, "predict", str(bundle), "a.png", *options)
    assert (failed.returncode, failed.stdout, len(failed.stderr.splitlines())) == (2, "", 1)
    assert message in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_csv_never_replaces_what_was_read(bundle: Path, photos: Path) -> None:
    image = photos / "cat" / "00.png"
    content, weights = image.read_bytes(), (bundle / "weights.safetensors").read_bytes()
    link = photos.parent / "link.csv"
    link.symlink_to(image)
    pipe = photos.parent / "pipe"
    os.mkfifo(pipe)
    for given, place, rule in (
        (photos, image, "is one of the images"),
        (image, link, "is one of the images"),
        (image, bundle / "weights.safetensors", "is a file of the bundle"),
        (image, pipe, "is not a regular file"),
    ):
        failed = run(photos.parent, "predict", str(bundle), str(given), "--csv", str(place))
        assert failed.returncode == 2 and rule in failed.stderr, failed.stderr
    assert image.read_bytes() == content and (bundle / "weights.safetensors").read_bytes() == weights
    link.unlink()
    link.symlink_to("real.csv")
    assert run(photos.parent, "predict", str(bundle), str(image), "--csv", "link.csv").returncode == 0
    assert link.is_symlink() and (photos.parent / "real.csv").read_text().startswith("id,label\n")
    failed = run(photos.parent, "predict", str(bundle), "")
    assert failed.returncode == 2 and "IMAGE '': is empty" in failed.stderr


def test_folders_without_images_or_with_other_folders(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="without images"):
        read_sources([str(tmp_path / "empty")], PREPROCESSING)
    above = read_sources([str(tmp_path)], PREPROCESSING)
    assert {item.label for item in above.items} == {None} and len(above.items) == 13
    (photos / "cats").mkdir()
    Image.fromarray(PIXELS[0]).save(photos / "cats" / "1.png")
    mixed = read_sources([str(photos)], PREPROCESSING)
    assert {item.label for item in mixed.items} == {None}
    assert "cats/" in mixed.notices[-1]
    (tmp_path / "set" / "test").parent.mkdir()
    photos.rename(tmp_path / "set" / "test")
    parts = read_sources([str(tmp_path / "set")], PREPROCESSING)
    assert {item.label for item in parts.items} == {None}
    assert parts.notices[-1].endswith(f"among the classes are test/; {tmp_path}/set/test may have labels")


def test_an_archive_of_arrays_is_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.arange(12))
    with pytest.raises(InputError, match=r"is an archive of arrays \(images, labels\); save one of them"):
        read_sources([str(tmp_path / "a.npz")], PREPROCESSING)


def test_predictions_of_many_images_do_not_depend_on_their_batch(bundle: Path, tmp_path: Path) -> None:
    loaded = budgetnas.load(bundle)
    many = np.concatenate([PIXELS] * 25)
    np.save(tmp_path / "a.npy", many)
    items = read_sources([str(tmp_path / "a.npy")], PREPROCESSING).items
    found = [named.prediction for named in predict_items(loaded.network, loaded.preprocess, items)]
    assert len(found) == 300
    for index in (0, 255, 256, 299):
        (alone,) = loaded.predict(many[index])
        assert found[index] is not None
        np.testing.assert_allclose(found[index].probabilities, alone.probabilities, atol=1e-5)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_csv_leaves_the_file_as_it_was(tmp_path: Path, bundle: Path, number: int, code: int) -> None:
    (tmp_path / "out.csv").write_text("before")
    with pytest.raises(KeyboardInterrupt), csv_file(tmp_path / "out.csv", ["id"]) as write:
        write(["1"])
        raise KeyboardInterrupt
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.csv", "before")]

    os.mkfifo(tmp_path / "a.png")  # reading it waits for a writer that never comes
    process = start(tmp_path, "predict", str(bundle), "a.png", "--csv", "out.csv")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.csv.*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.wait(), out, err) == (code, "", "Stopped. No predictions were written.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "out.csv"]
    assert (tmp_path / "out.csv").read_text() == "before"


def test_csv_cells_are_quoted_and_odd_names_kept(tmp_path: Path) -> None:
    names = ['a,"b"', "line\nbreak", "é", os.fsdecode(b"\xff.png")]
    with csv_file(tmp_path / "out.csv", ["id"]) as write:
        for name in names:
            write([name])
    content = (tmp_path / "out.csv").read_bytes()
    assert b"\r" not in content
    found = [row[0] for row in csv.reader(io.StringIO(content.decode("utf-8"), newline=""))]
    assert found == ["id", *names[:3], "\\udcff.png"]


def test_a_name_that_is_too_long_is_that_of_an_image_that_cannot_be_read() -> None:
    assert [item.size_bytes for item in read_sources(["x" * 300], PREPROCESSING).items] == [0]
