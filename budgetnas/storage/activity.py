"""Whether anything happened in a study since somebody looked."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from budgetnas.storage import tables
from budgetnas.storage.records import Records
from budgetnas.storage.retry import patient


@patient
def activity(records: Records, study: str) -> tuple[Any, ...]:
    """Return a value that changes when a run of `study` starts or ends, a proposal is turned away, or a final goes on.

    Costs three counts, whatever the study holds.
    """
    runs, rejections, finals = tables.runs.c, tables.rejections.c, tables.finals.c
    queries = (
        select(func.count(), func.count(runs.ended_at), func.max(runs.ended_at)).where(runs.study == study),
        select(func.count()).where(rejections.study == study),
        select(func.count(), func.count(finals.winner), func.count(finals.read_at)).where(finals.study == study),
    )
    with records.engine.connect() as connection:
        return tuple(value for query in queries for value in connection.execute(query).one())
