"""Replayed runs compared with the source report's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from budgetnas.data.identity import DataIdentity
from budgetnas.experiments.plain import plain_fields
from budgetnas.experiments.published import RecordedRun, recorded_runs
from budgetnas.metrics import Epoch
from budgetnas.space.recipe import Recipe
from budgetnas.storage import Records, Run

TABLES: Final[dict[int, str]] = {
    1: "Deeper ResNets",
    2: "V1 with SGD",
    3: "V1 with Adam",
    4: "V2 with SGD",
    5: "V2 with Adam",
    6: "V1 and V2 with both optimisers",
}
"""The report's tables, with titles of ours."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A replay of a recorded run.

    Attributes:
        run: The recorded run.
        record: The record of our run.
        curve: Its epochs; the evaluation split is the test split.
        comparable: Whether it is comparable with the printed figures.
        why_not: Reasons why not, e.g. ``2 of 60 epochs``.
    """

    run: RecordedRun
    record: Run
    curve: tuple[Epoch, ...]
    comparable: bool
    why_not: tuple[str, ...]

    @property
    def warning(self) -> str:
        """``NOT COMPARABLE: ...``, or empty."""
        return "" if self.comparable else f"NOT COMPARABLE: {', '.join(self.why_not) or 'no reason given'}"


def incomparable(run: RecordedRun, recipe: Recipe, data: DataIdentity) -> tuple[str, ...]:
    """Return why figures of this recipe on these data are not comparable with the printed ones."""
    reasons = []
    if data.name != "cifar10" or data.resolution != 32:
        reasons.append(f"data {data.name} at {data.resolution} px, not the original CIFAR-10")
    for kind, subset in (("", data.subset), ("test ", data.subset_eval)):
        if subset is not None:
            reasons.append(f"{kind}subset {subset:,}")
    if recipe.epochs != run.recipe.epochs:
        reasons.append(f"{recipe.epochs} of {run.recipe.epochs} epochs")
    return tuple(reasons)


def replay_result(run: RecordedRun, record: Run, records: Records) -> ReplayResult:
    """Return the result of a recorded replay."""
    why_not = incomparable(run, record.recipe, DataIdentity.model_validate_json(record.data))
    return ReplayResult(run, record, records.curve(record.id), not why_not, why_not)


@dataclass(frozen=True, slots=True)
class ReplayComparison:
    """A replay and the printed figures: accuracies in percent, differences in points (ours minus printed).

    Attributes:
        name: Name of the recorded run.
        printed_train: Printed training accuracy, the best epoch's, or None.
        printed_test: Printed test accuracy, the best epoch's.
        best_train: Our best epoch's training accuracy, or None before the first epoch.
        best_train_epoch: Number of that epoch.
        best_test: Our best epoch's test accuracy, chosen on the test set as the printed one was.
        best_test_epoch: Number of that epoch.
        last_train: Our last epoch's training accuracy.
        last_test: Our last epoch's test accuracy: the unbiased figure.
        last_epoch: Number of our last epoch.
        best_train_difference: `best_train` minus `printed_train`.
        best_test_difference: `best_test` minus `printed_test`: like with like.
        last_test_difference: `last_test` minus `printed_test`.
        comparable: Whether the differences are meaningful.
        why_not: Reasons why not.
    """

    name: str
    printed_train: float | None
    printed_test: float | None
    best_train: float | None
    best_train_epoch: int | None
    best_test: float | None
    best_test_epoch: int | None
    last_train: float | None
    last_test: float | None
    last_epoch: int | None
    best_train_difference: float | None
    best_test_difference: float | None
    last_test_difference: float | None
    comparable: bool
    why_not: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return plain_fields(self)


def comparison(result: ReplayResult) -> ReplayComparison:
    """Return a replay's figures with the printed ones."""
    run, curve = result.run, result.curve
    train = max(curve, key=lambda epoch: epoch.train_accuracy, default=None)
    test = max(curve, key=lambda epoch: epoch.eval_accuracy, default=None)
    last = curve[-1] if curve else None
    best_train = 100 * train.train_accuracy if train else None
    best_test = 100 * test.eval_accuracy if test else None
    last_test = 100 * last.eval_accuracy if last else None
    return ReplayComparison(
        name=run.name,
        printed_train=run.printed_train,
        printed_test=run.printed_test,
        best_train=best_train,
        best_train_epoch=train.epoch if train else None,
        best_test=best_test,
        best_test_epoch=test.epoch if test else None,
        last_train=100 * last.train_accuracy if last else None,
        last_test=last_test,
        last_epoch=last.epoch if last else None,
        best_train_difference=_difference(best_train, run.printed_train),
        best_test_difference=_difference(best_test, run.printed_test),
        last_test_difference=_difference(last_test, run.printed_test),
        comparable=result.comparable,
        why_not=result.why_not,
    )


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A run in a table of the report, with a replay of it, or None if it was not replayed."""

    run: RecordedRun
    replay: ReplayComparison | None
    warning: str


@dataclass(frozen=True, slots=True)
class ReportTable:
    """One of the report's tables."""

    title: str
    rows: tuple[ReportRow, ...]


def report_tables(results: Sequence[ReplayResult]) -> tuple[ReportTable, ...]:
    """Return the report's tables with the replays, and last the runs that are in no table."""
    runs = recorded_runs().values()
    tables = [
        ReportTable(f"Table {number}: {title}", _rows([run for run in runs if number in run.tables], results))
        for number, title in TABLES.items()
    ]
    return (*tables, ReportTable("In no table", _rows([run for run in runs if not run.tables], results)))


def _rows(runs: Sequence[RecordedRun], results: Sequence[ReplayResult]) -> tuple[ReportRow, ...]:
    rows = []
    for run in runs:
        replays = [result for result in results if result.run.name == run.name]
        rows += [ReportRow(run, comparison(result), result.warning) for result in replays]
        rows += [] if replays else [ReportRow(run, None, "")]
    return tuple(rows)


def _difference(ours: float | None, printed: float | None) -> float | None:
    return None if ours is None or printed is None else ours - printed
