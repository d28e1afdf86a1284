"""Replayed runs compared with the source report's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from budgetnas.data.identity import DataIdentity
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


def marked(name: str, why_not: Sequence[str]) -> str:
    """Return the name of a run, with an asterisk if its figures are not comparable with the printed ones."""
    return f"{name}*" if why_not else name


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A replay of a recorded run."""

    run: RecordedRun
    record: Run  # the record of our run
    curve: tuple[Epoch, ...]  # its epochs; the evaluation split is the test split
    # Reasons why it is not comparable with the printed figures, e.g. ``2 of 60 epochs``; empty if it is.
    why_not: tuple[str, ...]

    @property
    def warning(self) -> str:
        """``NOT COMPARABLE: ...``, or empty."""
        return f"NOT COMPARABLE: {', '.join(self.why_not)}" if self.why_not else ""

    def comparison(self) -> dict[str, Any]:
        """Return the replay's figures with the printed ones, as plain JSON types.

        Accuracies are in percent, differences in percentage points (ours minus printed). ``best_*`` are from our best
        epoch, which is chosen on the test set itself, as in the report; ``last_test`` is the unbiased figure. A value
        is None if there is no epoch or no printed figure for it.
        """
        run, last = self.run, self.curve[-1] if self.curve else None
        train = max(self.curve, key=lambda epoch: epoch.train_accuracy, default=None)
        test = max(self.curve, key=lambda epoch: epoch.eval_accuracy, default=None)
        best_train = 100 * train.train_accuracy if train else None
        best_test = 100 * test.eval_accuracy if test else None
        last_test = 100 * last.eval_accuracy if last else None
        return {
            "name": run.name,
            "printed_train": run.printed_train,
            "printed_test": run.printed_test,
            "best_train": best_train,
            "best_train_epoch": train.epoch if train else None,
            "best_test": best_test,
            "best_test_epoch": test.epoch if test else None,
            "last_train": 100 * last.train_accuracy if last else None,
            "last_test": last_test,
            "last_epoch": last.epoch if last else None,
            "best_train_difference": _difference(best_train, run.printed_train),
            "best_test_difference": _difference(best_test, run.printed_test),
            "last_test_difference": _difference(last_test, run.printed_test),
            "comparable": not self.why_not,
            "why_not": list(self.why_not),
        }


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
    return ReplayResult(run, record, records.curve(record.id), why_not)


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table of the report: each run with a replay of it, or None if it was not replayed."""

    title: str
    rows: tuple[tuple[RecordedRun, ReplayResult | None], ...]


def report_tables(results: Sequence[ReplayResult]) -> tuple[ReportTable, ...]:
    """Return the report's tables with the replays, and last the runs that are in no table."""
    runs = recorded_runs().values()
    tables = [
        ReportTable(f"Table {number}: {title}", _rows([run for run in runs if number in run.tables], results))
        for number, title in TABLES.items()
    ]
    return (*tables, ReportTable("In no table", _rows([run for run in runs if not run.tables], results)))


def _rows(
    runs: Sequence[RecordedRun], results: Sequence[ReplayResult]
) -> tuple[tuple[RecordedRun, ReplayResult | None], ...]:
    rows: list[tuple[RecordedRun, ReplayResult | None]] = []
    for run in runs:
        replays = [result for result in results if result.run.name == run.name]
        rows += [(run, result) for result in replays] or [(run, None)]
    return tuple(rows)


def _difference(ours: float | None, printed: float | None) -> float | None:
    return None if ours is None or printed is None else ours - printed
