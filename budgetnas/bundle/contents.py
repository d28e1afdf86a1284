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
MANIFEST: Final = "manifest.json"
HASHED: Final = (ARCHITECTURE, RECIPE, WEIGHTS, CERTIFICATE, METRICS, PROVENANCE, PREPROCESSING, ONNX, CARD)
"""Every file of a bundle except the manifest, which has their hashes."""


class Preprocessing(Frozen):
    """Preprocessing of images, as in training, and the classes of the logits.

    Attributes:
        classes: Class names, in the order of the logits.
        channels: 1 for grey, 3 for RGB.
        resolution: Side of the network's square input, in pixels.
        normalisation: Constants for pixel values in [0, 1].
        steps: The preprocessing in words, in order.
        onnx: Input and output of the ONNX file, in words.
    """

    classes: tuple[str, ...] = Field(min_length=1)
    channels: Literal[1, 3]
    resolution: int = Field(ge=1)
    normalisation: Normalisation
    steps: tuple[str, ...] = ()
    onnx: tuple[str, ...] = ()


class Manifest(Frozen):
    """The files of a bundle.

    Attributes:
        format: Name of the format.
        version: Version of the format.
        files: SHA-256 of each file, by name.
    """

    format: Literal["budgetnas bundle"] = "budgetnas bundle"
    version: Literal[1] = 1
    files: dict[str, str]


class Metrics(Frozen):
    """Accuracy of the network, with its meaning; accuracies are shares of 1.

    Attributes:
        kind: Role of the run: ``search``, ``repeat``, ``final``, ``replay``.
        split: Split of the accuracy, or None if it was not measured.
        accuracy: Accuracy after the last epoch, the mean of `n` networks.
        standard_deviation: Standard deviation between the `n` networks; None for a single network.
        n: Number of networks.
        seeds: Their training seeds.
        sentences: Meaning and caveats.
        details: More figures, as plain JSON.
        trained_again: The retraining of weights that were not kept, as plain JSON.
    """

    kind: str
    split: str | None
    accuracy: float | None
    standard_deviation: float | None
    n: int
    seeds: tuple[int, ...]
    sentences: tuple[str, ...]
    details: dict[str, Any] = Field(default_factory=dict)
    trained_again: dict[str, Any] | None = None

    def describe(self) -> str:
        """Return the accuracy as a short line."""
        if self.accuracy is None:
            return "not measured on images that it was not trained on"
        spread = "" if self.standard_deviation is None else f" ± {self.standard_deviation:.2%} standard deviation"
        seeds = f"seed{'' if len(self.seeds) == 1 else 's'} {', '.join(map(str, self.seeds))}"
        return f"{self.accuracy:.2%}{spread} on {self.split} (n = {self.n}, {seeds})"


@dataclass(frozen=True, slots=True)
class BundleSource:
    """Everything that a bundle is written from.

    Attributes:
        title: Name of the network in the model card.
        architecture: Its architecture.
        recipe: Its recipe.
        seed: Its training seed.
        weights: Its weights, a safetensors file.
        preprocessing: Its preprocessing and classes.
        budget: The limits, or None.
        metrics: Its accuracy.
        provenance: Its origin, as plain JSON.
        data: Its data, in sentences.
        environment: Its training environment, in a sentence.
        images: Real images to check the ONNX file with, (N, C, side, side), 0 to 255.
    """

    title: str
    architecture: Architecture
    recipe: Recipe
    seed: int
    weights: bytes
    preprocessing: Preprocessing
    budget: Budget | None
    metrics: Metrics
    provenance: Mapping[str, Any]
    data: tuple[str, ...]
    environment: str
    images: NDArray[np.uint8]


def sha256(content: bytes) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(content).hexdigest()
