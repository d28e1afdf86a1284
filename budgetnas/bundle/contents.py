"""The contents of a bundle: file names, the values that are read back, and the source that it is written from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from budgetnas.architecture import Architecture
from budgetnas.architecture.budget import Budget
from budgetnas.metrics import Int8Reading
from budgetnas.space.recipe import Frozen, Normalisation, Recipe

ARCHITECTURE: Final = "architecture.json"
RECIPE: Final = "recipe.json"
WEIGHTS: Final = "weights.safetensors"
CERTIFICATE: Final = "certificate.json"
METRICS: Final = "metrics.json"
PROVENANCE: Final = "provenance.json"
PREPROCESSING: Final = "preprocessing.json"
ONNX: Final = "network.onnx"
CARD: Final = "README.md"
MODULE: Final = "model.py"
PT: Final = "model.pt"
INT8: Final = "network-int8.onnx"
ATTRIBUTES: Final = ".gitattributes"
MANIFEST: Final = "manifest.json"
HASHED: Final = (ARCHITECTURE, RECIPE, WEIGHTS, CERTIFICATE, METRICS, PROVENANCE, PREPROCESSING, ONNX, CARD)
"""Every file of a bundle of every version except the manifest, which has their hashes."""
OPTIONAL: Final = (MODULE, ATTRIBUTES, PT, INT8)
"""Files that bundles of older versions, or without ``--pt`` or ``--int8``, do not have; hashed like the others."""
DROPPINGS: Final = frozenset(
    {".DS_Store", "Thumbs.db", "desktop.ini", ".directory", "__pycache__", ".ipynb_checkpoints"}
)
"""What file managers, Python and Jupyter leave in folders; ignored and replaceable."""


class Preprocessing(Frozen):
    """Preprocessing of images, as in training, and the classes of the logits."""

    added_later = ("bit_depth",)

    classes: tuple[str, ...] = Field(min_length=1)  # class names, in the order of the logits
    channels: Literal[1, 3]  # 1 for grey, 3 for RGB
    resolution: int = Field(ge=1)  # side of the network's square input, in pixels
    normalisation: Normalisation  # constants for pixel values in [0, 1]
    bit_depth: int | None = Field(default=None, ge=8, le=16)  # bits of the levels in 16-bit images, or None for 16
    steps: tuple[str, ...] = ()  # the preprocessing in words, in order
    onnx: tuple[str, ...] = ()  # input and output of the ONNX file, in words


class Manifest(Frozen):
    """The files of a bundle."""

    format: Literal["budgetnas bundle"] = "budgetnas bundle"
    version: Literal[1] = 1
    files: dict[str, str]  # SHA-256 of each file, by name


class Metrics(Frozen):
    """Accuracy of the network, with its meaning; accuracies are shares of 1."""

    added_later = ("measure", "int8")

    kind: str  # role of the run: ``search``, ``repeat``, ``final``, ``replay``
    split: str | None  # split of the accuracy, or None if it was not measured
    accuracy: float | None  # accuracy after the last epoch, the mean of `n` networks
    standard_deviation: float | None  # standard deviation between the `n` networks; None for a single network
    n: int  # number of networks
    seeds: tuple[int, ...]
    sentences: tuple[str, ...]  # meaning and caveats
    details: dict[str, Any] = Field(default_factory=dict)  # more figures, as plain JSON
    measure: Literal["accuracy", "balanced accuracy"] = "accuracy"  # what the accuracy is: the study's objective
    images: int | None = None  # number of evaluated images, or None if unknown
    trained_again: dict[str, Any] | None = None  # the retraining of weights that were not stored, as plain JSON
    int8: dict[str, Any] | None = None  # accuracy and sizes of the int8 file, as plain JSON

    def describe(self) -> str:
        """Return the accuracy as a short line."""
        if self.accuracy is None:
            return "not measured on images that it was not trained on"
        spread = self.standard_deviation
        deviation = "" if spread is None else f", standard deviation {100 * spread:.2f} points,"
        seeds = f"seed{'' if len(self.seeds) == 1 else 's'} {', '.join(map(str, self.seeds))}"
        if self.images is not None:
            seeds += f"; {self.images:,} images"
        kind = "" if self.measure == "accuracy" else f"{self.measure} "
        return f"{kind}{100 * self.accuracy:.2f} %{deviation} on {self.split} (n = {self.n}, {seeds})"


@dataclass(frozen=True, slots=True)
class Int8Images:
    """The images that an int8 file is calibrated on and compared with."""

    calibration: NDArray[np.uint8]  # training images that set the ranges of activations, (N, C, side, side), 0 to 255
    seed: int  # seed of their choice
    pixels: NDArray[np.uint8]  # all validation images, likewise
    labels: NDArray[np.int64]
    trained_on: bool  # whether the network was trained on the validation images
    test: Int8Reading | None = None  # the recorded evaluation of an int8 file of the network on the test split, or None
    balanced: bool = False  # whether the objective is the balanced accuracy; an int8 file's is over all images


@dataclass(frozen=True, slots=True)
class BundleSource:
    """Everything that a bundle is written from."""

    title: str  # name of the network in the model card
    architecture: Architecture
    recipe: Recipe
    seed: int
    weights: bytes  # its weights, a safetensors file
    preprocessing: Preprocessing
    budget: Budget | None
    metrics: Metrics
    provenance: Mapping[str, Any]  # its origin, as plain JSON
    data: tuple[str, ...]  # its data, in sentences
    environment: str  # its training environment, in a sentence
    images: NDArray[np.uint8]  # real images to check the ONNX file with, (N, C, side, side), 0 to 255
    int8: Int8Images | None = None  # images for an int8 file, or None for no such file


def sha256(content: bytes) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def is_dropping(name: str) -> bool:
    """Return whether other programs leave files or folders of this name by themselves."""
    return name in DROPPINGS or name.startswith("._")
