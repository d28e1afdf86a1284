"""The records of a storage: studies here; runs, rejections, checkpoints and finals in the modules of their names."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import func, insert, select

from budgetnas.metrics import ClassCounts
from budgetnas.storage import tables
from budgetnas.storage.checkpoint_records import CheckpointRecords
from budgetnas.storage.finals import FinalRecords
from budgetnas.storage.queue_records import QueueRecords
from budgetnas.storage.rejection_records import RejectionRecords
from budgetnas.storage.retry import current_call, retried_methods
from budgetnas.storage.run_records import RunRecords
from budgetnas.storage.store import forget_earlier_try, upsert
from budgetnas.storage.values import Goal


@retried_methods
class Records(RunRecords, RejectionRecords, CheckpointRecords, FinalRecords, QueueRecords):
    """The records of one storage.

    Every method is a single transaction and is repeated while the database cannot be reached. So every method must be
    idempotent: an earlier try may have been committed although only its confirmation was lost.
    """

    def storage_id(self) -> str:
        """Return the storage's random name, under which files outside the database are kept."""
        return str(self.scalar(select(tables.schema.c.storage)))

    def save_specification(self, study: str, specification: str, digest: str) -> None:
        """Record the specification that a study is created with."""
        row = {"study": study, "specification": specification, "digest": digest, "created_at": current_call().asked_at}
        with self.engine.begin() as connection:
            forget_earlier_try(connection, tables.specifications, row)
            connection.execute(insert(tables.specifications).values(row))

    def specification(self, study: str) -> str | None:
        """Return the JSON that `study` was created with, or None if there is no such study."""
        query = select(tables.specifications.c.specification).where(tables.specifications.c.study == study)
        specification: str | None = self.scalar(query)
        return specification

    def study_names(self) -> tuple[str, ...]:
        """Return the names of all studies, oldest first."""
        query = select(tables.specifications.c.study).order_by(tables.specifications.c.created_at)
        return tuple(row[0] for row in self.rows(query))

    def set_goal(self, study: str, trials: int, sampler: str) -> None:
        """Record the trials and sampler of the last search of `study`, for workers that join it later."""
        row = {"study": study, "trials": trials, "sampler": sampler, "at": current_call().asked_at}
        with self.engine.begin() as connection:
            connection.execute(upsert(tables.goals, connection.dialect.name), row)

    def goal(self, study: str) -> Goal | None:
        """Return the goal of the last search of `study`, or None."""
        query = select(tables.goals.c.trials, tables.goals.c.sampler).where(tables.goals.c.study == study)
        row = next(iter(self.rows(query)), None)
        return None if row is None else Goal(row.trials, row.sampler)

    def save_class_counts(self, data: str, split: str, counts: ClassCounts) -> None:
        """Record the images of each class in a split, ``validation`` or ``test``, of the data with this digest.

        The data's identity fixes the counts, so the first record is kept.
        """
        row = {"data": data, "split": split, "classes": json.dumps(counts.names), "images": json.dumps(counts.images)}
        with self.engine.begin() as connection:
            connection.execute(upsert(tables.class_counts, connection.dialect.name, keep=True), row)

    def class_counts(self, data: str, split: str) -> ClassCounts | None:
        """Return the images of each class in a split, or None if they were not recorded."""
        counts = tables.class_counts.c
        query = select(tables.class_counts).where(counts.data == data, counts.split == split)
        row = next(iter(self.rows(query)), None)
        return None if row is None else ClassCounts(tuple(json.loads(row.classes)), tuple(json.loads(row.images)))

    def activity(self, study: str) -> tuple[Any, ...]:
        """Return a value that changes when a run starts or ends, a proposal is rejected, or a final advances.

        It takes three counts, however large the study is.
        """
        runs, rejections, finals = tables.runs.c, tables.rejections.c, tables.finals.c
        queries = (
            select(func.count(), func.count(runs.ended_at), func.max(runs.ended_at)).where(runs.study == study),
            select(func.count()).where(rejections.study == study),
            select(func.count(), func.count(finals.winner), func.count(finals.read_at)).where(finals.study == study),
        )
        return tuple(value for query in queries for row in self.rows(query) for value in row)
