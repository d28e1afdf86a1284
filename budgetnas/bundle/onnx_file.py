"""The network as an ONNX file, and a check of its logits against the PyTorch network on real images."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from budgetnas.bundle.contents import Preprocessing
from budgetnas.bundle.preparing import Preprocessor
from budgetnas.errors import BudgetnasError
from budgetnas.training.device import Normaliser
from budgetnas.training.network import StridedPointwiseConv

OPSET: Final = 18
INPUT: Final = "images"
OUTPUT: Final = "logits"
RELATIVE_TOLERANCE: Final = 1e-4
"""Relative to the largest logit: another order of float32 sums differs by about 1e-6, a wrong graph by far more."""
_BATCH: Final = 250


@dataclass(frozen=True, slots=True)
class OnnxCheck:
    """Comparison of the ONNX file in ONNX Runtime with the PyTorch network."""

    images: int  # number of real images
    largest_difference: float  # largest absolute difference between two logits
    tolerance: float  # largest difference allowed
    same_class: int  # number of images with the same predicted class

    @property
    def passed(self) -> bool:
        """Whether the file agrees with the network."""
        return self.largest_difference <= self.tolerance and self.same_class == self.images

    def describe(self) -> str:
        """Return the result as a line."""
        agree = "classes agree on all" if self.same_class == self.images else f"classes agree on {self.same_class:,}"
        return (
            f"{self.images:,} validation images, largest absolute difference of a logit "
            f"{self.largest_difference:.1e} (at most {self.tolerance:.1e}), {agree}"
        )

    def check(self) -> None:
        """Raise an error unless the check passed.

        Raises:
            BudgetnasError: With the differences.
        """
        if not self.passed:
            raise BudgetnasError(f"the ONNX file differs from the network: {self.describe()}, so the export stopped")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def onnx_words(preprocessing: Preprocessing) -> tuple[str, ...]:
    """Return input and output of the ONNX file, in words."""
    side, channels = preprocessing.resolution, preprocessing.channels
    return (
        f"input {INPUT}: float32 (batch, {channels}, {side}, {side}), pixel values from 0 to 255, not normalised",
        "normalisation is inside the file",
        f"output {OUTPUT}: float32 (batch, {len(preprocessing.classes)}), before the softmax",
        f"batch is dynamic; opset {OPSET}; batch normalisation is folded into the convolutions",
    )


def check_exporter() -> None:
    """Export and run a convolution before a training; raise `BudgetnasError` if the installed packages cannot."""
    try:
        _session(_model(nn.Conv2d(1, 2, 1), torch.zeros(2, 1, 4, 4)).SerializeToString())
    except Exception as error:  # PyTorch's exporter raises anything, depending on the version of onnxscript
        reason = f"torch {torch.__version__}: {' '.join(str(error).split())[:200]}"
        hint = "pip install --upgrade onnx onnxscript onnxruntime"
        raise BudgetnasError(f"the installed packages cannot write an ONNX file ({reason}); {hint}") from None


def to_onnx(network: nn.Module, preprocessing: Preprocessing) -> bytes:
    """Return `network` with its normalisation as an ONNX file.

    The network is in evaluation mode on the CPU; it is not modified.
    """
    side = preprocessing.resolution
    example = torch.zeros(2, preprocessing.channels, side, side)
    return described(_model(_WithNormalisation(network, preprocessing), example), preprocessing)


def _model(network: nn.Module, example: Tensor) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 16)},),
        )
    assert program is not None, "the exporter returns a program when it is given no file"
    return program.model_proto


def check_onnx(content: bytes, network: nn.Module, preprocess: Preprocessor, pixels: NDArray[np.uint8]) -> OnnxCheck:
    """Compare an ONNX file with the PyTorch network.

    The network is in evaluation mode on the CPU; the pixels are real images, (N, C, side, side), 0 to 255.
    """
    session = _session(content)
    largest = highest = 0.0
    same = 0
    for start in range(0, len(pixels), _BATCH):
        part = pixels[start : start + _BATCH]
        (exported,) = session.run([OUTPUT], {INPUT: part.astype(np.float32)})
        with torch.inference_mode():
            eager = network(preprocess.normalised(part)).numpy()
        largest = max(largest, float(np.abs(exported - eager).max(initial=0.0)))
        highest = max(highest, float(np.abs(eager).max(initial=0.0)))
        same += int((exported.argmax(axis=1) == eager.argmax(axis=1)).sum())
    return OnnxCheck(len(pixels), largest, RELATIVE_TOLERANCE * max(1.0, highest), same)


def predicted_classes(content: bytes, pixels: NDArray[np.uint8], *, as_defined: bool = False) -> NDArray[np.int64]:
    """Return the classes that an ONNX file predicts for images, (N, C, side, side), 0 to 255.

    With `as_defined` each operator is computed by itself as ONNX defines it, without fused int8 kernels. Those of some
    processors saturate.
    """
    session = _session(content, optimised=not as_defined)
    parts = (pixels[start : start + _BATCH].astype(np.float32) for start in range(0, len(pixels), _BATCH))
    return np.concatenate([session.run([OUTPUT], {INPUT: part})[0].argmax(axis=1) for part in parts])


class _WithNormalisation(nn.Module):
    """A copy of a network for pixels from 0 to 255.

    Each `StridedPointwiseConv` is replaced by a plain `nn.Conv2d`: on a CPU it slices its input first, and not every
    accelerator supports strided slices in an ONNX file.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        normalise = Normaliser.of(preprocessing.normalisation, torch.device("cpu"), torch.contiguous_format)
        self.register_buffer("scale", normalise.scale)
        self.register_buffer("shift", normalise.shift)
        self.network = _with_plain_convolutions(copy.deepcopy(network)).eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images * self.scale + self.shift)  # type: ignore[no-any-return]


def _with_plain_convolutions(network: nn.Module) -> nn.Module:
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, StridedPointwiseConv):
                plain = nn.Conv2d(child.in_channels, child.out_channels, 1, child.stride, bias=False)  # type: ignore[arg-type]
                plain.weight = child.weight
                module.add_module(name, plain)
    return network


def described(model: onnx.ModelProto, preprocessing: Preprocessing) -> bytes:
    """Return the file with our notes instead of the exporter's, which contain paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.helper.set_model_props(
        model, {"classes": json.dumps(preprocessing.classes), "use": "; ".join(onnx_words(preprocessing))}
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _session(content: bytes, *, optimised: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what PyTorch's exporter logs, warns of and prints (onnxscript 0.6 does); errors are still raised."""
    with errors_only("torch.onnx"), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def errors_only(name: str | None) -> Iterator[None]:
    """Let a logger, or the root without a name, show nothing but errors."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
