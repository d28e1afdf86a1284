"""``budgetnas predict``: what an exported network says about images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.cli.console import print_json, stdout, table
from budgetnas.cli.options import JsonFlag
from budgetnas.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgetnas.bundle.predicting import NamedPrediction


def predict_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that budgetnas export wrote.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, typer.Option(help="So many of the likeliest classes.")] = 3,
    as_json: JsonFlag = False,
) -> None:
    """Print the likeliest classes of images, with their probabilities.

    Example: budgetnas predict cifar10-5M-bundle cat.png dog.jpg
    """
    if top < 1:
        raise InputError("--top", top, "must be a whole number of at least 1")
    from budgetnas.bundle.loading import load
    from budgetnas.bundle.predicting import predict_files

    bundle = load(folder)
    found = list(predict_files(bundle.network, bundle.preprocess, images))
    if as_json:
        print_json([one.to_dict(top) for one in found])
    elif any(one.prediction for one in found):
        _print(found, top)
    _fail_for_unreadable(found)


def _print(found: Sequence[NamedPrediction], top: int) -> None:
    rows = []
    for one in found:
        if one.prediction is not None:
            others = ", ".join(f"{name} {share:.1%}" for name, share in one.prediction.top(top)[1:])
            (name, share), *_ = one.prediction.top(1)
            rows.append((one.image, name, others, f"{share:.1%}"))
    stdout().print(table("", ("image", "class", "then", "probability"), rows, left=3))


def _fail_for_unreadable(found: Sequence[NamedPrediction]) -> None:
    """End with exit code 2 if a file could not be read; what was said about the others is printed by then."""
    errors = [one.error for one in found if one.error is not None]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        told = "; ".join(f"{one.value}: {one.rule}" for one in errors)
        raise InputError("IMAGE", None, f"{len(errors)} of {len(found)} cannot be used ({told})", errors[0].hint)
