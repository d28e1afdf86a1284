"""Records of final evaluations: plan, winner, and evaluation on the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from pydantic import Field
from sqlalchemy import Row, func, insert, select, update

from budgetnas.metrics import ACCURACY, Int8Reading, Measure
from budgetnas.space.recipe import Frozen, Recipe
from budgetnas.space.specification import ChoiceProtocol
from budgetnas.storage import tables
from budgetnas.storage.engine import exclusive
from budgetnas.storage.retry import current_call, retried_methods
from budgetnas.storage.store import Store
from budgetnas.storage.values import Run, counts_from_json, counts_to_json, or_nan, or_null

_INT8: Final = "int8 file "
"""Start of the reason of a reading of an int8 file; the hash of the file follows."""


class Finalist(Frozen):
    """A candidate of a final."""

    added_later: ClassVar[tuple[str, ...]] = ("long_recipe",)

    run: int  # number of its (first) run in the search
    score: float  # its smoothed score, a validation accuracy as a share of 1
    accuracy: float  # mean validation accuracy of its runs in the search
    trainings: int = 1  # number of these runs
    # Recipe of its training on train and validation images, or None for its own; recorded, so that a final resumes with
    # it whatever a later version makes of a long training.
    long_recipe: Recipe | None = None


class FinalPlan(Frozen):
    """The plan of a final, fixed before it starts."""

    protocol: ChoiceProtocol  # number of finalists and seeds
    finalists: tuple[Finalist, ...] = Field(min_length=1)  # the candidates, best smoothed score first
    reference: Finalist | None = None  # the initial network with the best smoothed score, or None if none was trained

    @property
    def entrants(self) -> tuple[Finalist, ...]:
        """The candidates to train: the finalists, and the reference if it is not among them."""
        runs = {finalist.run for finalist in self.finalists}
        return (*self.finalists, *([self.reference] if self.reference and self.reference.run not in runs else []))


@dataclass(frozen=True, slots=True)
class FinalRecord:
    """A recorded final."""

    id: int
    study: str
    plan: FinalPlan
    started_at: float  # seconds since 1970 UTC
    winner: int | None  # number of the winner's run in the search, or None so far
    test_images: int | None  # images of the test split, or None before the evaluation on it
    read_at: float | None  # time of that evaluation, seconds since 1970 UTC, or None so far

    @property
    def is_unfinished(self) -> bool:
        """Whether it was not evaluated on the test split."""
        return self.read_at is None

    @property
    def final_epochs(self) -> int | None:
        """Epochs of its long trainings, or None without any."""
        return self.plan.protocol.final_epochs


@dataclass(frozen=True, slots=True)
class TestResult:
    """The evaluation of a network on the test split."""

    __test__ = False  # pytest takes the name for that of a test

    epochs: int  # epochs of the network
    accuracy: float  # share of 1
    balanced_accuracy: float = math.nan  # mean of the accuracies of all classes
    correct: tuple[int, ...] = ()  # number of correct predictions of each class

    def value(self, measure: Measure) -> float:
        """Return the accuracy or the balanced accuracy."""
        return self.accuracy if measure == ACCURACY else self.balanced_accuracy


@retried_methods
class FinalRecords(Store):
    """Writes and reads finals."""

    def start_final(self, study: str, plan: FinalPlan, asked_at: float) -> FinalRecord:
        """Record the start of a final, or return the same final if it is unfinished, or finished since `asked_at`.

        An unfinished final with another protocol is left as it is. `asked_at` is when the final was requested, in
        seconds since 1970 UTC; another process may have run it since.
        """
        with exclusive(self.engine):
            last = self.last_final(study, plan.protocol)
            if last is not None and (last.read_at is None or last.read_at >= asked_at):
                return last
            row = {"study": study, "plan": plan.canonical_json(), "started_at": current_call().asked_at}
            with self.engine.begin() as connection:
                connection.execute(insert(tables.finals).values(row))
            return self.finals(study)[-1]

    def finals(self, study: str) -> tuple[FinalRecord, ...]:
        """Return the finals of `study`, oldest first."""
        query = select(tables.finals).where(tables.finals.c.study == study).order_by(tables.finals.c.id)
        return tuple(_final(row) for row in self.rows(query))

    def last_final(self, study: str, protocol: ChoiceProtocol) -> FinalRecord | None:
        """Return the last final of `study` with that protocol, or None."""
        return next((final for final in reversed(self.finals(study)) if final.plan.protocol == protocol), None)

    def name_winner(self, final: int, run: int) -> None:
        """Record the winner, by its run in the search, unless another process has named one."""
        finals = tables.finals.c
        unnamed = update(tables.finals).where(finals.id == final, finals.winner.is_(None))
        with self.engine.begin() as connection:
            connection.execute(unnamed.values(winner=run))

    def record_reading(self, final: FinalRecord, results: Mapping[int, TestResult], images: int, reason: str) -> bool:
        """Record the evaluation of all networks of a final on the test split, by run, in a single transaction.

        Returns:
            Whether it was recorded; False if another process has done it.
        """
        now = current_call().asked_at
        rows = [
            {
                "final": final.id,
                "run": run,
                "epoch": result.epochs,
                "accuracy": result.accuracy,
                "balanced_accuracy": or_null(result.balanced_accuracy),
                "correct": counts_to_json(result.correct),
                "reason": reason,
                "at": now,
            }
            for run, result in results.items()
        ]
        finals = tables.finals.c
        with self.engine.begin() as connection:
            unread = update(tables.finals).where(finals.id == final.id, finals.read_at.is_(None))
            if not connection.execute(unread.values(read_at=now, test_images=images)).rowcount:
                earlier = connection.scalar(select(finals.read_at).where(finals.id == final.id))
                return bool(earlier == now)  # an earlier try
            connection.execute(insert(tables.test_readings), rows)
        return True

    def finals_read(self, study: str) -> int:
        """Return how many finals of `study` were evaluated on the test split."""
        finals = tables.finals.c
        return int(self.scalar(select(func.count()).where(finals.study == study, finals.read_at.is_not(None))) or 0)

    def test_results(self, final: int) -> dict[int, TestResult]:
        """Return the evaluation on the test split of each run of a final."""
        columns = tables.test_readings.c
        query = select(tables.test_readings).where(columns.final == final, ~columns.reason.startswith(_INT8))
        return {
            int(row.run): TestResult(
                row.epoch, row.accuracy, or_nan(row.balanced_accuracy), counts_from_json(row.correct)
            )
            for row in self.rows(query)
        }

    def record_int8_reading(self, final: int, run: Run, reading: Int8Reading) -> None:
        """Record the evaluation of the int8 file of a final's run on the test split, unless one is recorded."""
        row = {
            "final": final,
            "run": run.id,
            "epoch": run.epochs_done,
            "accuracy": reading.accuracy,
            "reason": _INT8 + reading.sha256,
            "at": current_call().asked_at,
        }
        with exclusive(self.engine):
            if self.int8_reading(final) is None:
                with self.engine.begin() as connection:
                    connection.execute(insert(tables.test_readings).values(row))

    def int8_reading(self, final: int) -> Int8Reading | None:
        """Return the evaluation of the int8 file of a final on the test split, or None without any."""
        columns = tables.test_readings.c
        query = select(tables.test_readings).where(columns.final == final, columns.reason.startswith(_INT8))
        row = next(iter(self.rows(query)), None)
        if row is None:
            return None
        in_float = self.test_results(final).get(int(row.run))
        return Int8Reading(
            sha256=str(row.reason).removeprefix(_INT8),
            accuracy=float(row.accuracy),
            float_accuracy=None if in_float is None else in_float.accuracy,
        )


def _final(row: Row[tuple[object, ...]]) -> FinalRecord:
    values: dict[str, Any] = dict(row._mapping)
    return FinalRecord(**values | {"plan": FinalPlan.model_validate_json(values["plan"])})
