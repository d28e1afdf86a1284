"""``budgetnas predict``: predictions of an exported network."""

from __future__ import annotations

import os
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from budgetnas.api.progress.lines import Lines, TerminalLines
from budgetnas.api.progress.terminal import duration, stderr
from budgetnas.cli.console import print_json, printed, stdout, table
from budgetnas.cli.options import JsonFlag, option, out_option
from budgetnas.errors import InputError, Interrupted, check_out, listed, plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from budgetnas.bundle.image_sources import ImageSources
    from budgetnas.bundle.loading import Bundle
    from budgetnas.bundle.predicting import NamedPrediction
    from budgetnas.bundle.prediction_csv import CsvForm
    from budgetnas.bundle.scores import Scores

_QUIET_SECONDS = 1.0
_MAX_ROWS = 100
_MAX_UNREADABLE = 100
_MAX_CONFUSION = 20


def predict_command(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder written by budgetnas export.")],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Image files, folders, .npy arrays, pickles of the CIFAR layout."),
    ],
    top: Annotated[int, option("Number of classes to show.")] = 3,
    csv: Annotated[
        Path | None, out_option("CSV file for the predictions.", "FILE", argument="--csv", default=False)
    ] = None,
    id_column: Annotated[str | None, option("Name of the CSV's first column.", default="id")] = None,
    label_column: Annotated[str | None, option("Name of the CSV's second column.", default="label")] = None,
    values: Annotated[str | None, option("In the CSV: class, index or probabilities.", default="class")] = None,
    ids: Annotated[str | None, option("In the CSV: path, name, stem or number.", default="path")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the most probable classes of images, or write them to a CSV file; print the accuracy if labels are known.

    Example: budgetnas predict cifar10-5M-bundle cat.png photos/ --csv predictions.csv
    """
    if top < 1:
        raise InputError("--top", top, "must be a whole number of at least 1")
    form = {"id_column": id_column, "label_column": label_column, "values": values, "ids": ids}
    given = {name: value for name, value in form.items() if value is not None}
    _check_csv(csv, given)
    from budgetnas.bundle.image_sources import read_sources
    from budgetnas.bundle.loading import load
    from budgetnas.bundle.prediction_csv import CsvForm
    from budgetnas.runs.interrupts import stopping_at_once

    bundle = load(folder)
    csv_form = CsvForm(bundle.classes, **given)  # type: ignore[arg-type]
    sources = read_sources(images, bundle.preprocessing)
    if csv is not None:
        files = (item.image for item in sources.items if isinstance(item.image, str))
        _check_not_read(csv, [*images, *files], "is one of the images to predict")
        _check_not_read(csv, folder.iterdir(), "is a file of the bundle")
    try:
        with stopping_at_once():
            predictions = _predict(bundle, sources, csv, csv_form)
    except KeyboardInterrupt as stop:
        stderr().print("Stopped. No predictions were written.")
        raise Interrupted(*stop.args) from None
    scores = _scores(bundle.classes, predictions)
    if as_json:
        print_json(_to_json(sources, predictions, top, csv, scores))
    else:
        _print(sources, predictions, top, csv, scores)
    _fail_for_unreadable(predictions)


def _check_csv(csv: Path | None, given: dict[str, str]) -> None:
    if csv is not None:
        check_out(csv, "--csv")
    elif given:
        name, value = next(iter(given.items()))
        raise InputError(f"--{name.replace('_', '-')}", value, "requires --csv", "name the file to write")
    if given.get("values") == "probabilities" and "label_column" in given:
        rule = "has no use with --values probabilities"
        raise InputError("--label-column", given["label_column"], rule, "the columns are named by the classes")


def _check_not_read(csv: Path, files: Iterable[str | Path], rule: str) -> None:
    """Check that the CSV file is none of `files`: without a name, the shell gives the first image as its name."""
    if csv.exists() and any(os.path.exists(file) and csv.samefile(file) for file in files):
        raise InputError("--csv", str(csv), rule, "name another file after --csv")


def _predict(bundle: Bundle, sources: ImageSources, csv: Path | None, form: CsvForm) -> list[NamedPrediction]:
    """Return all predictions, after writing the CSV file if there is one, with progress on stderr."""
    from budgetnas.bundle.image_sources import repeated
    from budgetnas.bundle.predicting import predict_items
    from budgetnas.bundle.prediction_csv import csv_file
    from budgetnas.training.memory import keep_freed_memory

    keep_freed_memory()
    ids = sources.ids(form.ids)
    predictions: list[NamedPrediction] = []
    with TerminalLines() as lines:
        for notice in sources.notices:
            lines.say(f"note: {notice}")
        if csv is not None and (twice := repeated(ids)):
            lines.say(f"note: {plural(len(twice), 'id')} more than once ({listed(twice)}); --ids number has each once")
        started = time.monotonic()
        named = predict_items(bundle.network, bundle.preprocess, sources.items)
        with closing(named), csv_file(csv, form.header()) if csv else nullcontext() as write:
            for image_id, prediction in zip(ids, named, strict=True):
                if write is not None and prediction.prediction is not None:
                    write(form.row(image_id, prediction.prediction))
                predictions.append(prediction)
                _show_progress(lines, started, len(predictions), len(ids))
    return predictions


def _show_progress(lines: Lines, started: float, done: int, total: int) -> None:
    seconds = time.monotonic() - started
    if seconds > _QUIET_SECONDS and done % 64 == 0:
        left = seconds / done * (total - done)
        lines.status(f"{done:,} of {total:,} images, {done / seconds:,.0f} images/s, about {duration(left)} left")


def _scores(classes: tuple[str, ...], predictions: Sequence[NamedPrediction]) -> Scores | None:
    """Return the comparison with the labels, or None if no readable image has one."""
    from budgetnas.bundle.scores import Scores

    pairs = [
        (named.item.label, named.prediction.index)
        for named in predictions
        if named.item.label is not None and named.prediction is not None
    ]
    return Scores.of(classes, [label for label, _ in pairs], [index for _, index in pairs]) if pairs else None


def _to_json(
    sources: ImageSources, predictions: Sequence[NamedPrediction], top: int, csv: Path | None, scores: Scores | None
) -> list[dict[str, Any]] | dict[str, Any]:
    if sources.only_files and csv is None:
        return [named.to_dict(top) for named in predictions]
    unreadable = [{"image": named.item.name, "error": str(named.error)} for named in predictions if named.error]
    return {
        "images": len(predictions),
        "unreadable": unreadable,
        "csv": None if csv is None else str(csv),
        "predictions": [named.to_dict(top) for named in predictions] if csv is None else None,
        "scores": None if scores is None else scores.to_dict(),
    }


def _print(
    sources: ImageSources, predictions: Sequence[NamedPrediction], top: int, csv: Path | None, scores: Scores | None
) -> None:
    readable = [named for named in predictions if named.prediction is not None]
    if csv is not None:
        stdout().print(f"{plural(len(readable), 'prediction')} in {csv}", soft_wrap=True)
    elif readable:
        shown = readable if sources.only_files else readable[:_MAX_ROWS]
        _print_classes(shown, top)
        if len(shown) < len(readable):
            stdout().print(f"and {len(readable) - len(shown):,} more; --csv FILE writes all")
    if scores is not None:
        _print_scores(scores)


def _print_classes(predictions: Sequence[NamedPrediction], top: int) -> None:
    rows = []
    for named in predictions:
        if named.prediction is not None:
            (name, share), *others = named.prediction.top(top)
            rest = ", ".join(f"{other} {probability:.1%}" for other, probability in others)
            rows.append((named.item.name, name, rest, f"{share:.1%}"))
    stdout().print(table("", ("image", "class", "then", "probability"), rows, left=3))


def _print_scores(scores: Scores) -> None:
    accuracy = scores.accuracy
    name, share = scores.commonest
    stdout().print(
        f"\naccuracy {accuracy.estimate:.2%}, 95 % interval {accuracy.low:.2%} to {accuracy.high:.2%} "
        f"({scores.correct:,} of {plural(scores.images, 'image')}), balanced {scores.balanced_accuracy:.2%}; "
        f"commonest class {printed(name)}: {share:.2%} of the images\n",
        soft_wrap=True,
    )
    rows = [
        (name, f"{images:,}", f"{correct:,}", f"{correct / images:.2%}" if images else "-")
        for name, images, correct in scores.by_class()
    ]
    stdout().print(table("", ("class", "images", "correct", "accuracy"), rows))
    if len(scores.classes) <= _MAX_CONFUSION:
        counts = [(name, *map(str, row)) for name, row in zip(scores.classes, scores.confusion.tolist(), strict=True)]
        stdout().print("\nimages by label (rows) and prediction (columns)")
        stdout().print(table("", ("", *scores.classes), counts))


def _fail_for_unreadable(predictions: Sequence[NamedPrediction]) -> None:
    """Exit with code 2 if an image could not be read; the predictions of the others are printed before."""
    errors = [named.error for named in predictions if named.error is not None]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        reasons = listed((f"{error.value}: {error.rule}" for error in errors), _MAX_UNREADABLE)
        rule = f"{len(errors):,} of {len(predictions):,} cannot be used ({reasons})"
        raise InputError("IMAGE", None, rule, errors[0].hint)
