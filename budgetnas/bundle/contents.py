"""What a bundle holds: its files by name, and the values in those that are read back."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal

from pydantic import Field

from budgetnas.space.recipe import Frozen, Normalisation

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
"""Every file of a bundle but the manifest, which has their hashes."""


class Preprocessing(Frozen):
    """From an image to what the network takes, as in its training, and from its logits to classes.

    Attributes:
        classes: Class names; their positions are those of the logits.
        channels: 1 for grey, 3 for RGB.
        resolution: Side of the square that the network takes, in pixels.
        normalisation: Constants for pixel values in [0, 1].
        steps: The same in words, in order.
        onnx: What the ONNX file takes and gives, in words.
    """

    classes: tuple[str, ...] = Field(min_length=1)
    channels: Literal[1, 3]
    resolution: int = Field(ge=1)
    normalisation: Normalisation
    steps: tuple[str, ...] = ()
    onnx: tuple[str, ...] = ()


class Manifest(Frozen):
    """Which files a bundle has.

    Attributes:
        format: What this is.
        version: Version of the format.
        files: SHA-256 of each file, by name.
    """

    format: Literal["budgetnas bundle"] = "budgetnas bundle"
    version: Literal[1] = 1
    files: dict[str, str]


class Metrics(Frozen):
    """How good the network is, and what that number is of; accuracies are shares of 1.

    Attributes:
        kind: Role of the run: ``search``, ``repeat``, ``final``, ``replay``.
        split: What it was measured on; nothing if it was not measured.
        accuracy: Accuracy after the last epoch: of one network, or the mean of `n`.
        standard_deviation: Spread between the `n` networks; nothing for one.
        n: Networks that were measured.
        seeds: Their training seeds.
        sentences: What the number is of, and what it is not.
        details: More figures, as plain JSON.
        trained_again: Whether and how the weights were made again from the record, as plain JSON.
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
        """Return the figure in one short line."""
        if self.accuracy is None:
            return "not measured on images that it was not trained on"
        spread = "" if self.standard_deviation is None else f" ± {self.standard_deviation:.2%} standard deviation"
        seeds = f"seed{'' if len(self.seeds) == 1 else 's'} {', '.join(map(str, self.seeds))}"
        return f"{self.accuracy:.2%}{spread} on {self.split} (n = {self.n}, {seeds})"


def sha256(content: bytes) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(content).hexdigest()
