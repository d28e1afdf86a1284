"""The source report's runs: networks, recipes and printed results."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, cast

from budgetnas.errors import InputError, closest
from budgetnas.space.presets import REPORT, shipped
from budgetnas.space.recipe import Augmentation, Frozen, Normalisation, OptimizerName, Recipe

Split = Literal["train", "test"]
Metric = Literal["accuracy", "loss"]
_METRICS: Final[dict[str, Metric]] = {"acc": "accuracy", "loss": "loss"}


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run of the source report."""

    name: str  # name of the run, e.g. ``v1-sgd``
    network: str  # name of its network in `budgetnas.architecture.named`
    params: int  # parameters that the network must have
    recipe: Recipe  # its recipe, from the report's text, or from its notebooks if the text omits a value
    printed_train: float | None  # printed training accuracy in percent, the best epoch's, or None
    # Printed test accuracy in percent, the best epoch's, chosen on the test set itself; or None.
    printed_test: float | None
    tables: tuple[int, ...]  # numbers of the report's tables that list it
    contradictions: tuple[str, ...]  # contradictions in the report about this run, in full sentences


@dataclass(frozen=True, slots=True)
class PrintedPoint:
    """A point of a printed learning curve."""

    epoch: int  # number, from 1
    split: Split
    metric: Metric
    value: float  # accuracy in percent, or cross-entropy in nats


class _Run(Frozen):
    network: str
    params: int
    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    momentum: float = 0.9
    epochs: int
    t_max: int
    batch: int = 128
    printed_train: float | None = None
    printed_test: float | None = None
    tables: tuple[int, ...]
    contradictions: tuple[str, ...]


class _Curves(Frozen):
    file: str
    accuracy: str


class _File(Frozen):
    curves: _Curves
    normalisation: Normalisation
    augmentation: Augmentation
    contradictions: dict[str, str]
    runs: dict[str, _Run]


def recorded_runs() -> dict[str, RecordedRun]:
    """Return all runs of the source report by name, in its order."""
    file = _file()
    return {name: _recorded(name, run, file) for name, run in file.runs.items()}


def recorded_run(name: str) -> RecordedRun:
    """Return the run of that name.

    Raises:
        InputError: If the report has no run of that name.
    """
    runs = recorded_runs()
    key = str(name).strip().lower()
    if key not in runs:
        hint = closest(key, runs, "list them with budgetnas replay --list")
        raise InputError("NAME", name, f"no recorded run has that name; known are {', '.join(runs)}", hint)
    return runs[key]


def for_channels(constants: Normalisation, channels: int) -> Normalisation:
    """Return the report's constants, averaged over the channels for grey images."""
    if channels == len(constants.mean):
        return constants
    mean, std = (sum(values) / len(values) for values in (constants.mean, constants.std))
    return Normalisation(mean=(mean,) * channels, std=(std,) * channels)


def contradictions() -> dict[str, str]:
    """Return all contradictions in the report, by a short key."""
    return dict(_file().contradictions)


def curves_accuracy() -> str:
    """Return the accuracy of the printed curves, in words."""
    return _file().curves.accuracy


def printed_curve(name: str) -> tuple[PrintedPoint, ...]:
    """Return the printed learning curves of a run, digitised from the report's plots; empty if there are none.

    Epochs at which a curve is illegible are missing.

    Raises:
        InputError: If the report has no run of that name.
    """
    return _points().get(recorded_run(name).name, ())


def _recorded(name: str, run: _Run, file: _File) -> RecordedRun:
    values = run.model_dump()
    own = {field: values.pop(field) for field in Recipe.model_fields if field in values}
    recipe = Recipe(**own, augmentation=file.augmentation, normalisation=file.normalisation)
    values["contradictions"] = tuple(file.contradictions[key] for key in run.contradictions)
    return RecordedRun(name=name, recipe=recipe, **values)


@lru_cache(maxsize=1)
def _file() -> _File:
    with shipped(f"{REPORT}.toml").open("rb") as stream:
        return _File.model_validate(tomllib.load(stream))


@lru_cache(maxsize=1)
def _points() -> dict[str, tuple[PrintedPoint, ...]]:
    points: dict[str, list[PrintedPoint]] = {}
    with shipped(_file().curves.file).open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if not row["value"]:
                continue
            point = PrintedPoint(
                int(row["epoch"]), cast(Split, row["split"]), _METRICS[row["metric"]], float(row["value"])
            )
            points.setdefault(row["run"], []).append(point)
    return {name: tuple(curve) for name, curve in points.items()}
