"""The network as an int8 ONNX file: post-training static quantisation, and its accuracy compared with the float file.

Weights are quantised per output channel and symmetrically, activations per tensor, by ONNX Runtime (format QDQ).
The normalisation at the input stays float: a microcontroller's driver quantises the image.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from budgetnas.architecture import Counts
from budgetnas.bundle.contents import INT8, Int8Images, Preprocessing
from budgetnas.bundle.onnx_file import INPUT, described, errors_only, predicted_classes
from budgetnas.errors import BudgetnasError
from budgetnas.metrics import Int8Reading

CALIBRATION_IMAGES: Final = 512
_CALIBRATION_BATCH: Final = 32
_WEIGHTED: Final = ("Conv", "Gemm")
_QUANTISED: Final = (*_WEIGHTED, "Add", "Mul", "Relu", "Sigmoid", "MaxPool", "ReduceMean", "Reshape", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of the int8 file, predicted by the counter and measured."""

    float_file: int  # the float ONNX file
    file: int  # the int8 file
    weights_counted: int  # weights, scales and biases, as ``count`` has them
    weights_in_file: int  # the same tensors in the file
    ram_counted: int  # peak of activations, as ``count`` has it; no file has it


@dataclass(frozen=True, slots=True)
class Int8Result:
    """Accuracy and sizes of the int8 file."""

    images: int  # number of validation images; all of them
    trained_on: bool  # whether the network was trained on these images
    float_accuracy: float  # accuracy of the float file on them, a share of 1
    accuracy: float  # accuracy of the int8 file, computed as ONNX defines its operators
    same_class: int  # number of images to which both files give the same class
    kernels_same_class: int  # number of images to which the int8 kernels of this processor give the int8 file's class
    calibration_images: int  # number of training images that set the ranges of activations
    calibration_seed: int  # seed of their choice
    sha256: str  # hash of the int8 file
    sizes: Sizes
    test: Int8Reading | None  # the evaluation of the network's int8 file on the test split, or None without any
    balanced: bool  # whether the objective is the balanced accuracy; the accuracies here are over all images

    @property
    def loss_points(self) -> float:
        """The accuracy lost, in percentage points."""
        return 100 * (self.float_accuracy - self.accuracy)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The result in sentences."""
        seen = ", on which it was trained" if self.trained_on else ""
        accuracy = "Accuracy over all images, not balanced," if self.balanced else "Accuracy"
        kernels = (
            "The int8 kernels of this processor agree on all."
            if self.kernels_same_class == self.images
            else f"The int8 kernels of this processor agree on {self.kernels_same_class:,}: they round otherwise."
        )
        if self.test is None:
            test = "It was not evaluated on the test split."
        elif self.test.sha256 == self.sha256:
            test = f"{accuracy} on the test split, evaluated once, after the final: {self.test.describe()}."
        else:
            test = (
                f"The int8 file that was evaluated on the test split has other bytes. {accuracy} of that file: "
                f"{self.test.describe()}."
            )
        return (
            f"{accuracy} on all {self.images:,} validation images{seen}: {self.accuracy:.2%}; float "
            f"{self.float_accuracy:.2%}, a loss of {self.loss_points:.2f} points. The class is the same on "
            f"{self.same_class:,}. {kernels}",
            f"Static quantisation per channel, calibrated on {self.calibration_images:,} training images "
            f"(seed {self.calibration_seed}).",
            test,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"file": INT8, **asdict(self), "loss_points": self.loss_points}


def to_int8(exported: bytes, pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> bytes:
    """Return a float ONNX file of `budgetnas.bundle.onnx_file` as an int8 file.

    The activations of `pixels`, (N, C, side, side), 0 to 255, set the ranges. `preprocessing` has classes and
    normalisation for the notes of the file.

    Raises:
        BudgetnasError: If ONNX Runtime cannot quantise the file.
    """
    nodes = _normalisation(onnx.load_from_string(exported).graph)
    # ONNX Runtime warns that the file should be preprocessed, which the exporter has done.
    with tempfile.TemporaryDirectory() as folder, errors_only(None):
        source, place = Path(folder) / "float.onnx", Path(folder) / INT8
        source.write_bytes(exported)  # ONNX Runtime 1.20 loses the weights of a model that is given in memory
        try:
            quantize_static(
                source,
                place,
                _Calibration(pixels),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTISED),
                nodes_to_exclude=nodes,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        except Exception as error:  # onnxruntime raises anything, depending on its version
            reason = " ".join(str(error).split())[:200]
            raise BudgetnasError(f"ONNX Runtime cannot quantise the network: {reason}") from error
        return described(onnx.load(place), preprocessing)


def compare_int8(exported: bytes, quantised: bytes, images: Int8Images, counts: Counts, sha256: str) -> Int8Result:
    """Return accuracy and sizes of an int8 file.

    Raises:
        BudgetnasError: If its weights are not those that the counter predicts.
    """
    in_file = weights_in_file(quantised)
    if in_file != counts.weight_bytes:
        difference = f"has {in_file:,} bytes of weights, but {counts.weight_bytes:,} are counted"
        raise BudgetnasError(f"the int8 file {difference}, so the export stopped")
    classes = predicted_classes(exported, images.pixels)
    int8 = predicted_classes(quantised, images.pixels, as_defined=True)
    kernels = predicted_classes(quantised, images.pixels)
    return Int8Result(
        images=len(images.labels),
        trained_on=images.trained_on,
        float_accuracy=float((classes == images.labels).mean()),
        accuracy=float((int8 == images.labels).mean()),
        same_class=int((classes == int8).sum()),
        kernels_same_class=int((kernels == int8).sum()),
        calibration_images=len(images.calibration),
        calibration_seed=images.seed,
        sha256=sha256,
        test=images.test,
        balanced=images.balanced,
        sizes=Sizes(len(exported), len(quantised), counts.weight_bytes, in_file, counts.ram_bytes),
    )


def calibration_images(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return at most `CALIBRATION_IMAGES` images, drawn evenly with `seed`."""
    number = min(CALIBRATION_IMAGES, len(images))
    return images[np.sort(np.random.default_rng(seed).choice(len(images), number, replace=False))]


def weights_in_file(content: bytes) -> int:
    """Return the bytes that an int8 file has for weights, their scales, and biases of convolutions and linear layers.

    Zero points of weights (all 0) and scales of biases (products of other scales) are not counted.

    Raises:
        BudgetnasError: If a weight is not int8, or a bias not int32.
    """
    graph = onnx.load_from_string(content).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {node.output[0]: node.input for node in graph.node if node.op_type == "DequantizeLinear"}
    total = 0
    for node in (node for node in graph.node if node.op_type in _WEIGHTED):
        weight, bias = (inputs.get(name) for name in node.input[1:3])
        if weight is None or bias is None:
            raise BudgetnasError(f"layer {node.name} of the int8 file is not quantised, so the export stopped")
        kinds = tensors[weight[0]].data_type, tensors[bias[0]].data_type
        if kinds != (onnx.TensorProto.INT8, onnx.TensorProto.INT32):
            raise BudgetnasError(f"layer {node.name} of the int8 file has another type, so the export stopped")
        total += sum(onnx.numpy_helper.to_array(tensors[name]).nbytes for name in (weight[0], weight[1], bias[0]))
    return total


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Batches of images for ONNX Runtime's calibration."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        starts = range(0, len(pixels), _CALIBRATION_BATCH)
        self._batches = iter([pixels[start : start + _CALIBRATION_BATCH] for start in starts])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next batch, or None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.astype(np.float32)}


def _normalisation(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes before the first convolution."""
    names = []
    for node in graph.node:
        if node.op_type == "Conv":
            break
        names.append(node.name)
    return names
