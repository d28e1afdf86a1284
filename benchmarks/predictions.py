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
from benchmarks.untrained import write_untrained
from budgetnas.architecture import Architecture
from budgetnas.bundle.contents import Preprocessing
from budgetnas.cli.predict import predict_command
from budgetnas.experiments.bench.hardware import machine
from budgetnas.space.recipe import Normalisation

ARCHITECTURE = Architecture((1, 1, 1), (16, 32, 64), (1, 2, 2), stem_width=16)
PREPROCESSING = Preprocessing(
    classes=tuple("abcdefghij"),
    channels=3,
    resolution=32,
    normalisation=Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3),
)


def measure(
    images: Annotated[int, typer.Option(help="Images of each measurement.", min=1)] = 10_000,
    repeats: Annotated[int, typer.Option(help="Measurements of each.", min=1)] = 5,
) -> None:
    """Predict random images with an untrained ResNet-8; loading the bundle is part of each time, imports are not."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (images, 8, 8, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_untrained(folder / "bundle", ARCHITECTURE, PREPROCESSING, pixels[:16])
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


if __name__ == "__main__":
    run(measure)
