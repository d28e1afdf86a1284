"""Whether the ONNX file of a bundle gives the same classes as the eager network, on image files of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import budgetnas
from benchmarks.running import run
from budgetnas.bundle.contents import ONNX
from budgetnas.bundle.onnx_file import check_onnx
from budgetnas.errors import InputError
from budgetnas.experiments.bench.hardware import machine


def measure(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="What budgetnas export wrote.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images, one folder to a class.")],
    count: Annotated[int, typer.Option(help="Images to take, evenly from all.", min=1)] = 1000,
) -> None:
    """Give the same images to ONNX Runtime and to the eager network, and compare classes and logits."""
    loaded = budgetnas.load(bundle)
    files = _evenly(sorted(one for one in images.glob("*/*") if one.is_file()), count)
    if not files:
        raise InputError("IMAGES", str(images), "holds no files in folders of classes")
    pixels = np.stack([loaded.preprocess.pixels(one) for one in files])
    checked = check_onnx((bundle / ONNX).read_bytes(), loaded.network, loaded.preprocess, pixels)
    right = sum(said.best == file.parent.name for said, file in zip(loaded.predict([*files]), files, strict=True))
    typer.echo(
        f"{len(files):,} images: same class for {checked.same_class:,}, largest absolute difference of a logit "
        f"{checked.largest_difference:.1e}; the class is the folder's for {right:,}"
    )
    typer.echo(machine())
    raise typer.Exit(0 if checked.same_class == len(files) else 1)


def _evenly(files: list[Path], count: int) -> list[Path]:
    wanted = min(count, len(files))
    return [files[place * len(files) // wanted] for place in range(wanted)]


if __name__ == "__main__":
    run(measure)
