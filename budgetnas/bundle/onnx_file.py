"""The network as an ONNX file, and the check that it says the same as the eager network on real images."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
"""Of the largest logit: float32 sums in another order differ by some 1e-6 of it, a wrong graph by far more."""
_BATCH: Final = 250


@dataclass(frozen=True, slots=True)
class OnnxCheck:
    """The ONNX file in ONNX Runtime beside the eager network.

    Attributes:
        images: Real images that both were given.
        largest_difference: Largest absolute difference of a logit.
        tolerance: How large it may be.
        same_class: Images for which both have the same class.
    """

    images: int
    largest_difference: float
    tolerance: float
    same_class: int

    @property
    def passed(self) -> bool:
        """Whether the file says the same as the network."""
        return self.largest_difference <= self.tolerance and self.same_class == self.images

    def describe(self) -> str:
        """Return the outcome in one line."""
        agree = "classes agree on all" if self.same_class == self.images else f"classes agree on {self.same_class:,}"
        return (
            f"{self.images:,} validation images, largest absolute difference of a logit "
            f"{self.largest_difference:.1e} (at most {self.tolerance:.1e}), {agree}"
        )

    def check(self) -> None:
        """Raise unless it passed.

        Raises:
            BudgetnasError: With what differs.
        """
        if not self.passed:
            raise BudgetnasError(f"the ONNX file differs from the network: {self.describe()}; nothing was exported")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "images": self.images,
            "largest_difference": self.largest_difference,
            "tolerance": self.tolerance,
            "same_class": self.same_class,
        }


def onnx_words(preprocessing: Preprocessing) -> tuple[str, ...]:
    """Return in words what the ONNX file takes and gives."""
    side, channels = preprocessing.resolution, preprocessing.channels
    return (
        f"input {INPUT}: float32 (batch, {channels}, {side}, {side}), pixel values from 0 to 255, not normalised",
        "normalisation is inside the file",
        f"output {OUTPUT}: float32 (batch, {len(preprocessing.classes)}), before the softmax",
        f"batch is dynamic; opset {OPSET}; batch normalisation is folded into the convolutions",
    )


def to_onnx(network: nn.Module, preprocessing: Preprocessing) -> bytes:
    """Return `network` with its normalisation as an ONNX file.

    Args:
        network: In evaluation mode, on the CPU; it is left as it is.
        preprocessing: How its images are prepared.
    """
    side = preprocessing.resolution
    example = torch.zeros(2, preprocessing.channels, side, side)
    with _quietly():
        program = torch.onnx.export(
            _WithNormalisation(network, preprocessing),
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 16)},),
        )
    assert program is not None, "the exporter returns a program when it is given no file"
    return _described(program.model_proto, preprocessing)


def check_onnx(content: bytes, network: nn.Module, preprocess: Preprocessor, pixels: NDArray[np.uint8]) -> OnnxCheck:
    """Return how far an ONNX file is from the eager network.

    Args:
        content: The ONNX file.
        network: In evaluation mode, on the CPU.
        preprocess: What the network's images are prepared by.
        pixels: Real images, (N, C, side, side), of 0 to 255.
    """
    session = _session(content)
    largest = highest = 0.0
    same = 0
    for start in range(0, len(pixels), _BATCH):
        part = pixels[start : start + _BATCH]
        (found,) = session.run([OUTPUT], {INPUT: part.astype(np.float32)})
        with torch.inference_mode():
            eager = network(preprocess.normalised(part)).numpy()
        largest = max(largest, float(np.abs(found - eager).max(initial=0.0)))
        highest = max(highest, float(np.abs(eager).max(initial=0.0)))
        same += int((found.argmax(axis=1) == eager.argmax(axis=1)).sum())
    return OnnxCheck(len(pixels), largest, RELATIVE_TOLERANCE * max(1.0, highest), same)


class _WithNormalisation(nn.Module):
    """A copy of a network that takes pixels of 0 to 255.

    Strided 1x1 convolutions are plain ones in it: on a CPU ours take the pixels first, which would become strided
    slices in the file, and not every chip has those.
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


def _described(model: onnx.ModelProto, preprocessing: Preprocessing) -> bytes:
    """Return the file without the exporter's notes, which name folders of this machine, and with ours."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
        noted.doc_string = ""
    onnx.helper.set_model_props(
        model, {"classes": json.dumps(preprocessing.classes), "use": "; ".join(onnx_words(preprocessing))}
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what PyTorch's exporter says about itself from the user; errors are raised as ever."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
