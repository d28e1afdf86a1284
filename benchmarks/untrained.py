"""The bundle of an untrained network, for everything about predictions but their accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import Architecture
from budgetnas.bundle.contents import BundleSource, Metrics, Preprocessing
from budgetnas.bundle.write import write_bundle
from budgetnas.space.recipe import Recipe
from budgetnas.training.network import build
from budgetnas.training.weights import to_safetensors


def write_untrained(
    place: Path, architecture: Architecture, preprocessing: Preprocessing, pixels: NDArray[np.uint8]
) -> None:
    """Write the bundle.

    Args:
        place: Its folder.
        architecture: The network.
        preprocessing: Its classes and images.
        pixels: Images to check the ONNX file with, (N, H, W, C).
    """
    source = BundleSource(
        title="untrained",
        architecture=architecture,
        recipe=Recipe(optimizer="sgd", learning_rate=0.1, epochs=1, t_max=1),
        seed=0,
        weights=to_safetensors(build(architecture, seed=1)),
        preprocessing=preprocessing,
        budget=None,
        metrics=Metrics(
            kind="search", split=None, accuracy=None, standard_deviation=None, n=1, seeds=(0,), sentences=()
        ),
        provenance={},
        data=("random images",),
        environment="untrained",
        images=np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)),
    )
    write_bundle(source, place, replace=False)
