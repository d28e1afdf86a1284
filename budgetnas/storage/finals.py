"""Records of finals: what was planned, who won, and when the test split was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field
from sqlalchemy import Row, func, insert, select, update

from budgetnas.space.recipe import Frozen
from budgetnas.space.specification import ChoiceProtocol
from budgetnas.storage import tables
from budgetnas.storage.engine import exclusive
from budgetnas.storage.records import Records
from budgetnas.storage.retry import current_call, patient


class Finalist(Frozen):
    """A candidate of a final.

    Attributes:
        run: Its record of the search, the first if it has several.
        score: Its smoothed score, a validation accuracy as a share of 1.
        accuracy: Its validation accuracy, the mean of all its records of the search.
        trainings: How many these are.
    """

    run: int
    score: float
    accuracy: float
    trainings: int = 1


class FinalPlan(Frozen):
    """What a final trains, decided before it begins.

    Attributes:
        protocol: How many finalists and seeds.
        finalists: The candidates, best smoothed score first.
        reference: The best seed network within the budget, by smoothed score; nothing where none was trained.
    """

    protocol: ChoiceProtocol
    finalists: tuple[Finalist, ...] = Field(min_length=1)
    reference: Finalist | None = None

    @property
    def entrants(self) -> tuple[Finalist, ...]:
        """Everything that is trained again: the finalists, and the reference where it is not one of them."""
        others = {one.run for one in self.finalists}
        return (*self.finalists, *([self.reference] if self.reference and self.reference.run not in others else []))


@dataclass(frozen=True, slots=True)
class FinalRecord:
    """A final as it is recorded.

    Attributes:
        id: Number of the record.
        study: Study it belongs to.
        plan: What it trains.
        started_at: Seconds since 1970 UTC.
        winner: The search record of the entrant that won; nothing until then.
        test_images: Images of the test split; nothing until it is read.
        read_at: When it was read, seconds since 1970 UTC.
    """

    id: int
    study: str
    plan: FinalPlan
    started_at: float
    winner: int | None
    test_images: int | None
    read_at: float | None


@patient
def start_final(records: Records, study: str, plan: FinalPlan) -> FinalRecord:
    """Record that a final begins, unless one is under way that has not read the test split: then return that."""
    with exclusive(records.engine):
        open_one = next((one for one in finals_of(records, study) if one.read_at is None), None)
        if open_one is not None:
            return open_one
        row = {"study": study, "plan": plan.canonical_json(), "started_at": current_call().asked_at}
        with records.engine.begin() as connection:
            connection.execute(insert(tables.finals).values(row))
        return finals_of(records, study)[-1]


@patient
def finals_of(records: Records, study: str) -> tuple[FinalRecord, ...]:
    """Return the finals of `study`, oldest first."""
    query = select(tables.finals).where(tables.finals.c.study == study).order_by(tables.finals.c.id)
    with records.engine.connect() as connection:
        return tuple(_final(row) for row in connection.execute(query))


@patient
def name_winner(records: Records, final: int, run: int) -> None:
    """Record which entrant, by its search record, won."""
    with records.engine.begin() as connection:
        connection.execute(update(tables.finals).where(tables.finals.c.id == final).values(winner=run))


@patient
def record_reading(
    records: Records, final: FinalRecord, accuracies: Mapping[int, tuple[int, float]], images: int, reason: str
) -> bool:
    """Record that the test split was read for a final, all of its networks in one event.

    Args:
        records: The records.
        final: The final.
        accuracies: For each run its number of epochs and its network's accuracy, a share of 1.
        images: Images of the test split.
        reason: Why it was read.

    Returns:
        Whether it was recorded; not so where another process has done it.
    """
    now = current_call().asked_at
    rows = [
        {"final": final.id, "run": run, "epoch": epochs, "accuracy": accuracy, "reason": reason, "at": now}
        for run, (epochs, accuracy) in accuracies.items()
    ]
    one = tables.finals.c
    with records.engine.begin() as connection:
        unread = update(tables.finals).where(one.id == final.id, one.read_at.is_(None))
        if not connection.execute(unread.values(read_at=now, test_images=images)).rowcount:
            return bool(connection.scalar(select(one.read_at).where(one.id == final.id)) == now)  # an earlier try
        connection.execute(insert(tables.test_readings), rows)
    return True


@patient
def readings(records: Records, study: str) -> int:
    """Return how many times the test split was read for finals of `study`."""
    one = tables.finals.c
    query = select(func.count()).where(one.study == study, one.read_at.is_not(None))
    with records.engine.connect() as connection:
        return int(connection.scalar(query) or 0)


@patient
def test_accuracies(records: Records, final: int) -> dict[int, float]:
    """Return the test accuracy of each run that a final read the test split for."""
    one = tables.test_readings.c
    query = select(one.run, one.accuracy).where(one.final == final)
    with records.engine.connect() as connection:
        return {int(row.run): float(row.accuracy) for row in connection.execute(query)}


def _final(row: Row[tuple[object, ...]]) -> FinalRecord:
    values = row._mapping
    return FinalRecord(
        id=values["id"],
        study=values["study"],
        plan=FinalPlan.model_validate_json(values["plan"]),
        started_at=values["started_at"],
        winner=values["winner"],
        test_images=values["test_images"],
        read_at=values["read_at"],
    )
