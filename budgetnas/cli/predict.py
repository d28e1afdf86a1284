"""``budgetnas predict``: predictions of an exported network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.cli.console import print_json, stdout, table
from budgetnas.cli.options import JsonFlag, option
from budgetnas.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgetnas.bundle.predicting import NamedPrediction


def predict_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder written by budgetnas export.")],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Image files.")],
    top: Annotated[int, option("Number of classes to show.")] = 3,
    as_json: JsonFlag = False,
) -> None:
    """Print the most probable classes of images.

    Example: budgetnas predict cifar10-5M-bundle cat.png dog.jpg
    """
    if top < 1:
        raise InputError("--top", top, "must be a whole number of at least 1")
    from budgetnas.bundle.loading import load
    from budgetnas.bundle.predicting import predict_files

    bundle = load(folder)
    predictions = list(predict_files(bundle.network, bundle.preprocess, images))
    if as_json:
        print_json([prediction.to_dict(top) for prediction in predictions])
    elif any(named.prediction for named in predictions):
        _print(predictions, top)
    _fail_for_unreadable(predictions)


def _print(predictions: Sequence[NamedPrediction], top: int) -> None:
    rows = []
    for named in predictions:
        if named.prediction is not None:
            (name, share), *others = named.prediction.top(top)
            rest = ", ".join(f"{other} {probability:.1%}" for other, probability in others)
            rows.append((named.image, name, rest, f"{share:.1%}"))
    stdout().print(table("", ("image", "class", "then", "probability"), rows, left=3))


def _fail_for_unreadable(predictions: Sequence[NamedPrediction]) -> None:
    """Exit with code 2 if a file could not be read; the predictions of the others are printed before."""
    errors = [named.error for named in predictions if named.error is not None]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        reasons = "; ".join(f"{error.value}: {error.rule}" for error in errors)
        rule = f"{len(errors)} of {len(predictions)} cannot be used ({reasons})"
        raise InputError("IMAGE", None, rule, errors[0].hint)
