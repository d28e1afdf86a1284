from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from quiet import Quiet
from small import environment

import budgetnas
from budgetnas.architecture import Architecture, count, count_parts
from budgetnas.architecture.budget import Budget
from budgetnas.bundle import contents
from budgetnas.bundle.card import escaped
from budgetnas.bundle.certificate import certify
from budgetnas.bundle.contents import BundleSource, Metrics, Preprocessing, sha256
from budgetnas.bundle.loading import load
from budgetnas.bundle.onnx_file import INPUT, OPSET, OUTPUT, check_onnx, onnx_words, to_onnx
from budgetnas.bundle.preparing import Preprocessor
from budgetnas.bundle.write import WrittenBundle, check_place, write_bundle
from budgetnas.data import Data, DataRequest, load_data
from budgetnas.errors import BudgetnasError, InputError
from budgetnas.space.recipe import Recipe
from budgetnas.training import RuntimeConfig, Task, train
from budgetnas.training.device import Normaliser, statistics, to_device
from budgetnas.training.network import ResNet, build
from budgetnas.training.weights import to_safetensors

ARCHITECTURE = Architecture((1, 1), (4, 6), (1, 2), block="bottleneck", stem_width=6, in_channels=1, size=8, se=True)
RECIPE = Recipe(optimizer="sgd", learning_rate=0.05, epochs=2, t_max=2, batch=50)
METRICS = Metrics(
    kind="search",
    split="validation",
    accuracy=0.5,
    standard_deviation=None,
    n=1,
    seeds=(0,),
    sentences=("one *network*",),
)


@dataclass(frozen=True)
class Made:
    data: Data
    network: ResNet
    source: BundleSource
    bundle: WrittenBundle

    @property
    def folder(self) -> Path:
        return self.bundle.folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A network trained on real digits, and its bundle."""
    data = load_data(DataRequest("digits", subset=300))
    cpu = torch.device("cpu")
    task = Task(
        ARCHITECTURE,
        RECIPE,
        0,
        to_device(data.train, cpu),
        to_device(data.validation, cpu),
        statistics(data.train),
    )
    network = train(task, RuntimeConfig("cpu", "float32", threads=1), Quiet()).eval()
    source = BundleSource(
        title="digits",
        architecture=ARCHITECTURE,
        recipe=RECIPE,
        seed=0,
        weights=to_safetensors(network),
        preprocessing=Preprocessing(
            classes=data.classes, channels=1, resolution=8, normalisation=statistics(data.train), steps=("as it is",)
        ),
        budget=Budget(60_000),
        metrics=METRICS,
        provenance={"run": 1},
        data=("digits",),
        environment="Trained here.",
        images=data.validation.images,
    )
    return Made(data, network, source, write_bundle(source, tmp_path_factory.mktemp("made") / "b", replace=False))


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Path:
    return shutil.copytree(made.folder, tmp_path / "copy")


def eager(made: Made, pixels: np.ndarray) -> torch.Tensor:
    """Logits of the trained network by the loop's own normalisation, not by the bundle's."""
    normalise = Normaliser.of(statistics(made.data.train), torch.device("cpu"))
    with torch.inference_mode():
        return made.network(normalise(torch.from_numpy(pixels)))


def test_a_loaded_bundle_has_the_logits_of_the_trained_network(made: Made, tmp_path: Path) -> None:
    network, preprocess = budgetnas.load(made.folder)
    assert not network.training
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.fromarray(made.data.validation.images[index, 0]).save(path)
        prepared = preprocess(path)
        assert (prepared.shape, prepared.dtype) == ((1, 1, 8, 8), torch.float32)
        with torch.inference_mode():
            torch.testing.assert_close(
                network(prepared), eager(made, made.data.validation.images[index : index + 1]), rtol=0, atol=1e-5
            )
    state = made.network.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in network.state_dict().items())
    assert any(name.endswith("running_var") for name in state)


def test_the_manifest_has_the_hash_of_every_file(made: Made) -> None:
    manifest = json.loads((made.folder / contents.MANIFEST).read_text())
    assert (manifest["format"], manifest["version"]) == ("budgetnas bundle", 1)
    there = {path.name for path in made.folder.iterdir()}
    assert there == {*manifest["files"], contents.MANIFEST} == set(made.bundle.files)
    for name, expected in manifest["files"].items():
        assert sha256((made.folder / name).read_bytes()) == expected


@pytest.mark.parametrize("name", [*contents.HASHED, contents.MODULE])
def test_a_damaged_or_missing_file_is_named(copy: Path, name: str) -> None:
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{re.escape(name)} is damaged") as caught:
        load(copy)
    assert caught.value.exit_code == 2
    path.unlink()
    with pytest.raises(InputError, match=rf"{re.escape(name)} cannot be read"):
        load(copy)


def test_a_folder_without_a_bundle_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is not a bundle: manifest.json cannot be read"):
        load(tmp_path)
    manifest = json.loads((copy / contents.MANIFEST).read_text())
    for text in ("{", "[]", json.dumps(manifest | {"version": 2}), json.dumps(manifest | {"format": "other"})):
        (copy / contents.MANIFEST).write_text(text)
        with pytest.raises(InputError, match=r"manifest.json is damaged, or of another format"):
            load(copy)
    del manifest["files"][contents.WEIGHTS]
    (copy / contents.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"does not name weights.safetensors"):
        load(copy)


def test_weights_of_another_network_are_refused_though_their_hash_is_right(copy: Path) -> None:
    other = to_safetensors(build(replace(ARCHITECTURE, widths=(4, 8)), seed=0))
    (copy / contents.WEIGHTS).write_bytes(other)
    manifest = json.loads((copy / contents.MANIFEST).read_text())
    manifest["files"][contents.WEIGHTS] = sha256(other)
    (copy / contents.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="cannot load"):
        load(copy)


@pytest.mark.parametrize("batch", [1, 7])
def test_the_onnx_file_agrees_with_the_network(made: Made, batch: int) -> None:
    session = onnxruntime.InferenceSession(made.folder / contents.ONNX, providers=["CPUExecutionProvider"])
    pixels = made.data.validation.images[:batch]
    (logits,) = session.run([OUTPUT], {INPUT: pixels.astype(np.float32)})
    assert logits.shape == (batch, 10)
    np.testing.assert_allclose(logits, eager(made, pixels).numpy(), rtol=0, atol=1e-4)


def test_the_onnx_file_is_plain(made: Made) -> None:
    content = (made.folder / contents.ONNX).read_bytes()
    model = onnx.load_from_string(content)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", OPSET)]
    assert {"Slice", "BatchNormalization"}.isdisjoint(node.op_type for node in model.graph.node)
    assert str(Path(budgetnas.__file__).parent).encode() not in content, "a folder of this machine"
    assert b"stack_trace" not in content
    notes = {item.key: item.value for item in model.metadata_props}
    assert json.loads(notes["classes"]) == list(made.data.classes)
    assert "0 to 255" in notes["use"]


@pytest.mark.slow
def test_an_onnx_file_of_another_network_fails_the_check(made: Made) -> None:
    preprocess = Preprocessor(made.source.preprocessing)
    other = build(ARCHITECTURE, seed=5).eval()
    check = check_onnx(to_onnx(other, made.source.preprocessing), made.network, preprocess, made.source.images)
    assert (check.passed, check.images) == (False, len(made.data.validation))
    assert check.largest_difference > check.tolerance
    with pytest.raises(BudgetnasError, match="the ONNX file differs") as caught:
        check.check()
    assert caught.value.exit_code == 1
    assert made.bundle.onnx.passed and made.bundle.onnx.same_class == len(made.data.validation)


def test_the_certificate_has_the_static_and_the_built_count(made: Made) -> None:
    certificate = json.loads((made.folder / contents.CERTIFICATE).read_text())
    network = load(made.folder).network
    assert [(part["name"], part["static"]) for part in certificate["parts"]] == [
        (part.name, part.counts.params) for part in count_parts(ARCHITECTURE)
    ]
    assert all(part["equal"] and part["built"] == part["static"] for part in certificate["parts"])
    built = sum(parameter.numel() for parameter in network.parameters())
    assert certificate["total"] == {
        "name": "total",
        "static": count(ARCHITECTURE).params,
        "built": built,
        "equal": True,
    }
    assert (certificate["budget"], certificate["fits"]) == (60_000, True)


def test_a_network_with_uncounted_parameters_gets_no_certificate() -> None:
    network = build(ARCHITECTURE, seed=0)
    network.add_module("extra", torch.nn.Linear(2, 2))
    with pytest.raises(BudgetnasError, match="total"):
        certify(ARCHITECTURE, network, None).check()
    network = build(replace(ARCHITECTURE, stem_width=7), seed=0)
    with pytest.raises(BudgetnasError, match="stem: 66 counted, 77 built"):
        certify(ARCHITECTURE, network, None).check()
    assert certify(ARCHITECTURE, build(ARCHITECTURE), Budget(10)).fits is False


def test_only_an_empty_folder_or_an_older_bundle_is_written_to(made: Made, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for replacing in (False, True):
        with pytest.raises(InputError, match="has files and is not a bundle"):
            check_place(tmp_path / "mine", replace=replacing)
    with pytest.raises(InputError, match="--force"):
        check_place(copy, replace=False)
    for name, flag in ((contents.PT, "--pt"), (contents.INT8, "--int8")):
        (copy / name).write_bytes(b"x")
        with pytest.raises(InputError, match=f"has {name}, which the new bundle would not have; add {flag}"):
            write_bundle(made.source, copy, replace=True)
        (copy / name).unlink()
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"other files \(notes.txt\)"):
        write_bundle(made.source, copy, replace=True)
    with pytest.raises(InputError, match="exists and is not a folder"):
        check_place(copy / "notes.txt", replace=True)
    with pytest.raises(InputError, match="does not exist"):
        check_place(tmp_path / "no" / "folder", replace=True)
    assert (copy / "notes.txt").read_text() == (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert check_place(tmp_path / "empty", replace=False) == tmp_path / "empty"


def test_an_older_bundle_is_replaced_as_a_whole(made: Made, copy: Path) -> None:
    (copy / contents.WEIGHTS).unlink()
    write_bundle(replace(made.source, title="the newer"), copy, replace=True)
    assert (copy / contents.CARD).read_text().startswith("# the newer")
    load(copy)
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_line_ends_changed_by_git_are_not_reported_as_damage(made: Made, copy: Path) -> None:
    for name in (contents.ARCHITECTURE, contents.PREPROCESSING, contents.CARD, contents.MODULE):
        path = copy / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(copy).architecture == ARCHITECTURE
    assert (copy / contents.ATTRIBUTES).read_text() == "* -text\n"


def test_files_of_file_managers_are_ignored_and_replaced(made: Made, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for folder in (copy, tmp_path / "new"):
        for name in (".DS_Store", "Thumbs.db", "._weights.safetensors"):
            (folder / name).write_text("x")
        (folder / "__pycache__").mkdir()  # of an import of model.py
        (folder / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"x")
    load(copy)
    for folder in (copy, tmp_path / "new"):
        write_bundle(made.source, folder, replace=True)
        assert not (folder / ".DS_Store").exists() and not (folder / "__pycache__").exists()
        load(folder)


def test_a_bundle_of_an_older_version_has_no_module(copy: Path) -> None:
    manifest = json.loads((copy / contents.MANIFEST).read_text())
    for name in contents.OPTIONAL:
        manifest["files"].pop(name, None)
        (copy / name).unlink(missing_ok=True)
    (copy / contents.MANIFEST).write_text(json.dumps(manifest))
    load(copy)
    manifest["files"]["../other"] = "0"
    (copy / contents.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"names unknown files: \.\./other"):
        load(copy)


def test_the_weights_for_torch_load(made: Made, copy: Path) -> None:
    assert not (copy / contents.PT).exists()
    write_bundle(made.source, copy, replace=True, pt=True)
    weights = torch.load(copy / contents.PT, weights_only=True)
    state = made.network.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())
    load(copy)
    assert 'model.load("model.pt")' in (copy / contents.CARD).read_text()


def test_a_failed_bundle_leaves_no_files(made: Made, copy: Path) -> None:
    other = to_safetensors(build(replace(ARCHITECTURE, widths=(4, 8)), seed=0))
    with pytest.raises(BudgetnasError, match="do not fit"):
        write_bundle(replace(made.source, weights=other), copy.parent / "new", replace=False)
    with pytest.raises(BudgetnasError, match="do not fit"):
        write_bundle(replace(made.source, weights=other), copy, replace=True)
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
    load(copy)


def test_files_are_preprocessed_like_the_images_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    kinds = ("RGB", "L", "RGBA", "P", "CMYK")
    for name in ("a", "b"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for index in range(10):
            height, width = random.integers(9, 30, 2)
            image = Image.fromarray(random.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
            mode = kinds[index % 5]
            suffix = "jpg" if mode == "CMYK" else "png"
            exif = Image.Exif()
            exif[0x0112] = 6
            image.convert(mode).save(tmp_path / "data" / "train" / name / f"{index}.{suffix}", exif=exif)
    shutil.copytree(tmp_path / "data" / "train", tmp_path / "data" / "test")  # else some are set aside
    data = load_data(DataRequest(f"folder:{tmp_path / 'data'}", resolution=8))
    prepare = Preprocessor(
        Preprocessing(classes=data.classes, channels=3, resolution=8, normalisation=statistics(data.train))
    )
    files = sorted((tmp_path / "data" / "train").glob("*/*"))
    for file, expected in zip(files, data.all_train.images, strict=True):
        assert np.array_equal(prepare.pixels(file), expected), file
        with Image.open(file) as image:
            assert np.array_equal(prepare.pixels(image), expected), file


def test_images_may_come_as_files_pillow_images_or_arrays(made: Made, tmp_path: Path) -> None:
    _, preprocess = budgetnas.load(str(made.folder))
    for pixels in made.data.validation.images[:5, 0]:
        path = tmp_path / "one.png"
        Image.fromarray(pixels).save(path)
        colours = np.repeat(pixels[:, :, np.newaxis], 3, axis=2)
        for way in (path, str(path), Image.fromarray(pixels), pixels, colours, Image.fromarray(colours)):
            assert np.array_equal(preprocess.pixels(way)[0], pixels)
    for wrong in (np.zeros((8, 8)), np.zeros((1, 8, 8), np.uint8), np.zeros((0, 8), np.uint8)):
        with pytest.raises(InputError, match="IMAGE"):
            preprocess(wrong)
    with pytest.raises(InputError, match="IMAGE"):
        preprocess(7)


def test_predictions_do_not_depend_on_the_other_images(made: Made) -> None:
    bundle = load(made.folder)
    images = list(made.data.validation.images[:70, 0])
    found = bundle.predict(images)
    assert len(found) == 70
    (alone,) = bundle.predict(images[69])
    np.testing.assert_allclose(found[69].probabilities, alone.probabilities, atol=1e-5)
    assert abs(sum(alone.probabilities) - 1) < 1e-5
    top = alone.top(10)
    assert [share for _, share in top] == sorted(alone.probabilities, reverse=True)
    logits = eager(made, made.data.validation.images[69:70])
    assert alone.best == top[0][0] == bundle.classes[int(logits.argmax())]
    assert bundle.predict([]) == []
    found_two = bundle.predict(images[:2])
    for one in (images[69][:, :, None], Image.fromarray(images[69])):
        assert bundle.predict(one) == [alone]
    several = np.stack(images[:2])
    for array in (several, several[..., None], several[:, None]):
        assert bundle.predict(array) == found_two
    for wrong in (None, 7):
        with pytest.raises(InputError, match="IMAGE"):
            bundle.predict(wrong)  # type: ignore[arg-type]


def test_the_accuracy_in_words_has_its_spread_in_points() -> None:
    several = {"split": "test", "accuracy": 0.97213, "standard_deviation": 0.00391, "n": 2, "seeds": (2000, 2001)}
    words = METRICS.model_copy(update=several).describe()
    assert words == "97.21 %, standard deviation 0.39 points, on test (n = 2, seeds 2000, 2001)"
    assert METRICS.describe() == "50.00 % on validation (n = 1, seed 0)"


def test_the_card_shows_what_a_reader_needs(made: Made) -> None:
    card = (made.folder / contents.CARD).read_text()
    for text in ("| total |", "keeps the budget of 60,000", "50.00 % on validation (n = 1, seed 0)", "0 to 255"):
        assert text in card
    assert f"{count(ARCHITECTURE).params:,} parameters" in card
    assert "budgetnas.load" in card
    assert all(escaped(words) in card for words in onnx_words(made.source.preprocessing))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("*a|b*", r"\*a\|b\*"),
        ("x\n# heading", r"x \# heading"),
        ("[a](http://b)", r"\[a\](http://b)"),
        ("<script>", r"\<script\>"),
        ("- item", "&#45; item"),
        ("12. day", "&#49;2. day"),
    ],
)
def test_names_are_escaped_in_the_card(name: str, shown: str) -> None:
    assert escaped(name) == shown


LOADED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not to be imported")

sys.meta_path.insert(0, Refuse())
import budgetnas
assert "torch" not in sys.modules
network, preprocess = budgetnas.load({folder!r})
bundle = budgetnas.load({folder!r})
print(network(preprocess({image!r})).shape, bundle.predict({image!r})[0].best)
"""


def test_a_bundle_loads_without_the_packages_of_a_search(made: Made, tmp_path: Path) -> None:
    image = tmp_path / "one.png"
    Image.fromarray(made.data.validation.images[0, 0]).save(image)
    blocked = ("optuna", "sqlalchemy", "plotly", "onnx", "onnxruntime", "onnxscript", "typer", "sklearn", "torchvision")
    code = LOADED.format(blocked=blocked, folder=str(made.folder), image=str(image))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch.Size([1, 10])")


def test_a_certificate_has_every_limit_with_its_count(made: Made, tmp_path: Path) -> None:
    counts = count(ARCHITECTURE)
    limits = Budget(60_000, counts.macs, 10 * counts.activations, 1 << 20, counts.ram_bytes)
    bundle = write_bundle(replace(made.source, budget=limits), tmp_path / "b", replace=False)
    certificate = json.loads((bundle.folder / contents.CERTIFICATE).read_text())
    assert (certificate["budget"], certificate["fits"]) == (60_000, True)
    assert [
        (limit["quantity"], limit["most"], limit["count"], limit["counted"], limit["fits"])
        for limit in certificate["limits"]
    ] == [
        ("params", 60_000, counts.params, "built", True),
        ("macs", counts.macs, counts.macs, "static", True),
        ("activations", 10 * counts.activations, counts.activations, "static", True),
        ("weight_bytes", 1 << 20, counts.weight_bytes, "static", True),
        ("ram_bytes", counts.ram_bytes, counts.ram_bytes, "static", True),
    ]
    card = (bundle.folder / contents.CARD).read_text()
    assert "It keeps the budget of 60,000 parameters." in card
    assert f"It keeps the limit of {counts.macs:,} multiply-accumulates with {counts.macs:,} (counted without" in card
    assert "It keeps the limit of 1,048,576 bytes of int8 weights (1024 KiB) with " in card
    over = certify(ARCHITECTURE, build(ARCHITECTURE), Budget(60_000, counts.macs - 1))
    assert (over.fits, [limit.fits for limit in over.limits]) == (False, [True, False])
    assert "BREAKS" in over.limits[1].sentence()
