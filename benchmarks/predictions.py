"""Images a second of `budgetnas predict`, from an array and from a folder of JPEG files to a CSV file."""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from benchmarks.running import run
from budgetnas.architecture import Architecture
from budgetnas.bundle.contents import BundleSource, Metrics, Preprocessing
from budgetnas.bundle.write import write_bundle
from budgetnas.cli.predict import predict_command
from budgetnas.experiments.bench.hardware import machine
from budgetnas.space.recipe import Normalisation, Recipe
from budgetnas.training.network import build
from budgetnas.training.weights import to_safetensors

ARCHITECTURE = Architecture((1, 1, 1), (16, 32, 64), (1, 2, 2), stem_width=16)
SIDE = 32


def measure(
    images: Annotated[int, typer.Option(help="Images of each measurement.", min=1)] = 10_000,
    repeats: Annotated[int, typer.Option(help="Measurements of each.", min=1)] = 5,
) -> None:
    """Predict random images with an untrained ResNet-8; loading the bundle is part of each time, imports are not."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (images, 8, 8, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_bundle(folder / "bundle", pixels[:16])
        np.save(folder / "array.npy", pixels)
        (folder / "jpeg").mkdir()
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(folder / "jpeg" / f"{index:06}.jpg")
        _predict(folder, "array.npy")  # imports what a prediction needs
        for source in ("array.npy", "jpeg"):
            seconds = [_predict(folder, source) for _ in range(repeats)]
            for kind, values in zip(("wall", "processor"), zip(*seconds, strict=True), strict=True):
                rates = [images / value for value in values]
                typer.echo(
                    f"{source}: images for each second of {kind} time: median {statistics.median(rates):,.0f}, "
                    f"lowest {min(rates):,.0f}, highest {max(rates):,.0f} (n = {repeats}, {images:,} images each)"
                )
    typer.echo(machine())


def _predict(folder: Path, source: str) -> tuple[float, float]:
    """Return the wall and processor seconds of a prediction to a CSV file."""
    started, used = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        predict_command(folder / "bundle", [str(folder / source)], csv=folder / "out.csv")
    return time.perf_counter() - started, time.process_time() - used


def _write_bundle(place: Path, pixels: np.ndarray) -> None:
    source = BundleSource(
        title="untrained",
        architecture=ARCHITECTURE,
        recipe=Recipe(optimizer="sgd", learning_rate=0.1, epochs=1, t_max=1),
        seed=0,
        weights=to_safetensors(build(ARCHITECTURE, seed=0)),
        preprocessing=Preprocessing(
            classes=tuple("abcdefghij"),
            channels=3,
            resolution=SIDE,
            normalisation=Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3),
        ),
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


if __name__ == "__main__":
    run(measure)
