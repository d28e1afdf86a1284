"""The int8 file: its weights against the counter, its accuracy against the float file, its place in a bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from quiet import Quiet

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import Budget
from budgetnas.bundle import contents
from budgetnas.bundle.contents import BundleSource, Int8Images, Metrics, Preprocessing, sha256
from budgetnas.bundle.int8_file import calibration_images, compare_int8, to_int8, weights_in_file
from budgetnas.bundle.loading import load
from budgetnas.bundle.onnx_file import predicted_classes, to_onnx
from budgetnas.bundle.preparing import Preprocessor
from budgetnas.bundle.write import write_bundle
from budgetnas.data import Data, DataRequest, load_data
from budgetnas.errors import BudgetnasError
from budgetnas.metrics import Int8Reading
from budgetnas.space.recipe import Normalisation, Recipe
from budgetnas.training import RuntimeConfig, Task, train
from budgetnas.training.device import statistics, to_device
from budgetnas.training.network import ResNet, build
from budgetnas.training.weights import to_safetensors

GATED = Architecture((1, 1), (8, 16), (1, 2), stem_width=8, in_channels=1, size=8, se=True)
RECIPE = Recipe(optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, epochs=20, t_max=20, batch=32)
METRICS = Metrics(
    kind="search", split="validation", accuracy=0.5, standard_deviation=None, n=1, seeds=(0,), sentences=()
)


@dataclass(frozen=True)
class Made:
    data: Data
    network: ResNet
    preprocessing: Preprocessing
    exported: bytes
    images: Int8Images
    quantised: bytes


@pytest.fixture(scope="module")
def made() -> Made:
    """A gated network trained on real digits, its ONNX file, and its int8 file."""
    data, cpu = load_data(DataRequest("digits")), torch.device("cpu")
    constants = statistics(data.train)
    task = Task(GATED, RECIPE, 0, to_device(data.train, cpu), to_device(data.validation, cpu), constants)
    network = train(task, RuntimeConfig("cpu", "float32", threads=1), Quiet()).eval()
    preprocessing = Preprocessing(classes=data.classes, channels=1, resolution=8, normalisation=constants)
    exported = to_onnx(network, preprocessing)
    calibration = calibration_images(data.train.images, 0)
    images = Int8Images(calibration, 0, data.validation.images, data.validation.labels, trained_on=False)
    return Made(data, network, preprocessing, exported, images, to_int8(exported, calibration, preprocessing))


def test_the_int8_file_has_the_bytes_that_are_counted(made: Made) -> None:
    """Found without the graph: the tensors of each type, less the zero points; a scale for each bias."""
    tensors = onnx.load_from_string(made.quantised).graph.initializer
    numbers = {onnx.TensorProto.INT8: 0, onnx.TensorProto.INT32: 0}
    for tensor in tensors:
        if tensor.data_type in numbers and "zero_point" not in tensor.name:
            numbers[tensor.data_type] += int(np.prod(tensor.dims))
    weights, biases = numbers.values()
    assert weights + 4 * biases + 4 * biases == weights_in_file(made.quantised) == count(GATED).weight_bytes
    floats = [np.prod(tensor.dims) for tensor in tensors if tensor.data_type == onnx.TensorProto.FLOAT]
    assert max(floats) <= 16, "scales of channels, but no weights"


def test_the_int8_file_is_nearly_as_accurate_on_all_validation_images(made: Made) -> None:
    result = compare_int8(made.exported, made.quantised, made.images, count(GATED), sha256(made.quantised))
    assert result.images == len(made.data.validation) == 144
    assert result.float_accuracy > 0.7
    assert result.loss_points <= 1.5, "a gain is no loss; the line below limits both"
    assert result.same_class >= 0.97 * result.images
    assert result.sizes.file == len(made.quantised)
    assert result.sizes.weights_in_file == result.sizes.weights_counted == count(GATED).weight_bytes
    assert result.sizes.file > result.sizes.weights_in_file
    assert f"a loss of {result.loss_points:.2f} points" in result.sentences[0]
    assert "not evaluated on the test split" in result.sentences[2]


def test_activations_are_quantised_too_and_the_input_is_what_the_float_file_takes(made: Made) -> None:
    session = onnxruntime.InferenceSession(made.quantised, providers=["CPUExecutionProvider"])
    (inputs,), (outputs,) = session.get_inputs(), session.get_outputs()
    assert (inputs.name, inputs.type, inputs.shape[1:]) == ("images", "tensor(float)", [1, 8, 8])
    assert (outputs.name, outputs.shape[1:]) == ("logits", [10])
    graph = onnx.load_from_string(made.quantised).graph
    quantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "Add", "Mul")][
        2:
    ]  # less the normalisation
    assert len(layers) > 8
    assert all(name in quantised for node in layers for name in node.input)
    notes = {prop.key: prop.value for prop in onnx.load_from_string(made.quantised).metadata_props}
    assert json.loads(notes["classes"]) == list(made.data.classes)


def test_the_same_network_and_images_give_the_same_file(made: Made) -> None:
    again = to_int8(to_onnx(made.network, made.preprocessing), made.images.calibration, made.preprocessing)
    assert again == made.quantised
    other = calibration_images(made.data.train.images, 1)
    assert not np.array_equal(other, made.images.calibration)
    assert np.array_equal(calibration_images(made.data.train.images, 1), other)
    assert to_int8(made.exported, other[:8], made.preprocessing) != made.quantised


def test_fewer_images_than_asked_for_are_all_taken() -> None:
    few = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    assert len(calibration_images(few, 0)) == 3


def test_a_counter_that_is_wrong_stops_the_export(made: Made) -> None:
    counts = count(GATED)._replace(weight_bytes=count(GATED).weight_bytes + 1)
    with pytest.raises(BudgetnasError, match=r"the int8 file has .* bytes of weights, but"):
        compare_int8(made.exported, made.quantised, made.images, counts, "")


def test_a_layer_that_was_left_in_float_is_noticed(made: Made) -> None:
    with pytest.raises(BudgetnasError, match="is not quantised"):
        weights_in_file(made.exported)


def test_kernels_that_fuse_layers_may_differ_but_the_definition_does_not(made: Made) -> None:
    pixels = made.images.pixels
    defined = predicted_classes(made.quantised, pixels, as_defined=True)
    assert np.array_equal(defined, predicted_classes(made.quantised, pixels, as_defined=True))
    assert (defined == predicted_classes(made.quantised, pixels)).mean() > 0.95


def source_of(made: Made, images: Int8Images | None) -> BundleSource:
    return BundleSource(
        title="digits",
        architecture=GATED,
        recipe=RECIPE,
        seed=0,
        weights=to_safetensors(made.network),
        preprocessing=made.preprocessing,
        budget=Budget(60_000, max_weight_bytes=64 << 10, max_ram_bytes=4 << 10),
        metrics=METRICS,
        provenance={"run": 1},
        data=("digits",),
        environment="Trained here.",
        images=made.data.validation.images,
        int8=images,
    )


def test_a_bundle_with_an_int8_file(made: Made, tmp_path: Path) -> None:
    reading = Int8Reading(sha256(made.quantised), 0.875, float_accuracy=0.9)
    bundle = write_bundle(source_of(made, replace(made.images, test=reading)), tmp_path / "b", replace=False)
    assert bundle.int8 is not None and bundle.int8.test == reading
    assert sha256((bundle.folder / contents.INT8).read_bytes()) == reading.sha256
    stored = json.loads((bundle.folder / contents.METRICS).read_text())["int8"]
    assert (stored["images"], stored["accuracy"]) == (len(made.data.validation), bundle.int8.accuracy)
    assert stored["sizes"]["weights_in_file"] == stored["sizes"]["weights_counted"] == count(GATED).weight_bytes
    assert stored["test"] == {"sha256": reading.sha256, "accuracy": 0.875, "float_accuracy": 0.9}
    card = (bundle.folder / contents.CARD).read_text()
    assert "## int8" in card and "not balanced" not in card
    assert (
        "Accuracy on the test split, evaluated once, after the final: 87.50%; the same network in float has 90.00%."
    ) in card
    assert (
        f"| of it weights, scales and biases | {count(GATED).weight_bytes:,} | {count(GATED).weight_bytes:,} |" in card
    )
    assert load(bundle.folder).architecture == GATED
    (bundle.folder / contents.INT8).write_bytes(b"")
    with pytest.raises(Exception, match=contents.INT8):
        load(bundle.folder)


def test_a_bundle_whose_int8_file_is_not_the_evaluated_one_says_so(made: Made, tmp_path: Path) -> None:
    images = replace(made.images, test=Int8Reading("0" * 64, 0.875), trained_on=True)
    bundle = write_bundle(source_of(made, images), tmp_path / "b", replace=False)
    assert bundle.int8 is not None
    assert bundle.int8.sentences[2] == (
        "The int8 file that was evaluated on the test split has other bytes. Accuracy of that file: 87.50%."
    )
    assert "validation images, on which it was trained: " in bundle.int8.sentences[0]


def test_an_int8_file_of_a_study_by_balanced_accuracy_says_that_its_own_is_not(made: Made) -> None:
    reading = Int8Reading(sha256(made.quantised), 0.875)
    images = replace(made.images, test=reading, balanced=True)
    result = compare_int8(made.exported, made.quantised, images, count(GATED), reading.sha256)
    validation, _, test = result.sentences
    assert validation.startswith("Accuracy over all images, not balanced, on all 144 validation images: ")
    assert test == (
        "Accuracy over all images, not balanced, on the test split, evaluated once, after the final: 87.50%."
    )


def test_a_bundle_without_an_int8_file_is_as_before(made: Made, tmp_path: Path) -> None:
    bundle = write_bundle(source_of(made, None), tmp_path / "b", replace=False)
    assert bundle.int8 is None and contents.INT8 not in bundle.files
    assert "int8" not in json.loads((bundle.folder / contents.METRICS).read_text())
    assert "## int8" not in (bundle.folder / contents.CARD).read_text()


SHAPES = (
    Architecture((1,), (4,), (1,), stem_width=8, block="bottleneck", size=9, classes=3),
    Architecture((1, 1), (5, 7), (1, 2), stem_width=4, block="bottleneck", se=True, size=16, in_channels=1),
    Architecture((2, 1, 1), (8, 8, 12), (1, 2, 2), stem_width=8, stem_stride=4, stem_kernel=7, size=40),
    Architecture((1, 1, 1), (16, 32, 64), (1, 2, 2), stem_width=16),
)


@pytest.mark.slow
@pytest.mark.parametrize("network", SHAPES, ids=Architecture.describe)
def test_networks_of_every_kind_have_the_bytes_that_are_counted(network: Architecture) -> None:
    side, channels = network.size, network.in_channels
    preprocessing = Preprocessing(
        classes=tuple(map(str, range(network.classes))),
        channels=1 if channels == 1 else 3,
        resolution=side,
        normalisation=Normalisation(mean=(0.5,) * channels, std=(0.25,) * channels),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (32, channels, side, side), dtype=np.uint8)
    built = trained_statistics(build(network, seed=0), preprocessing, pixels)
    quantised = to_int8(to_onnx(built, preprocessing), pixels, preprocessing)
    assert weights_in_file(quantised) == count(network).weight_bytes


def trained_statistics(network: ResNet, preprocessing: Preprocessing, pixels: NDArray[np.uint8]) -> ResNet:
    """Give batch normalisation other statistics than 0 and 1, so that folding shows."""
    with torch.no_grad():
        network(Preprocessor(preprocessing).normalised(pixels))
    return network.eval()
