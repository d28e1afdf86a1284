"""Records of the queue: which studies the workers of a storage train, and which are cancelled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Row, delete, func, inspect, or_, select, update

from budgetnas.storage import tables
from budgetnas.storage.retry import current_call, retried_methods
from budgetnas.storage.store import Store, upsert
from budgetnas.storage.values import QueueEntry, QueueState

WINDOW_SECONDS: Final = 3600.0
"""Work of this time counts as recent."""


@retried_methods
class QueueRecords(Store):
    """Writes and reads the queue."""

    def enqueue(self, study: str, *, data: str | None, data_dir: Path | None, seed: int) -> None:
        """Queue a study, again if it is done, failed or cancelled.

        `data` is ``folder:DIR`` of its images, an absolute path, or None for a named set. Archives are in `data_dir`.
        """
        place = {"data": data, "data_dir": None if data_dir is None else str(data_dir)}
        row = {"study": study, "state": QueueState.QUEUED.value, "reason": "", "seed": seed} | place
        with self.engine.begin() as connection:
            connection.execute(upsert(tables.queue, connection.dialect.name), row | {"at": current_call().asked_at})

    def cancel(self, study: str) -> None:
        """Record that a study is cancelled; its processes notice within seconds."""
        row: dict[str, Any] = {"state": QueueState.CANCELLED.value, "reason": "", "at": current_call().asked_at}
        with self.engine.begin() as connection:
            connection.execute(
                upsert(tables.queue, connection.dialect.name, keep=True), row | {"study": study, "seed": 0}
            )
            connection.execute(update(tables.queue).where(tables.queue.c.study == study).values(row))

    def take_up(self, study: str) -> None:
        """Record that a user's own search or final trains a study: it is neither cancelled nor failed any more."""
        queue = tables.queue.c
        with self.engine.begin() as connection:
            ended = (queue.study == study) & (queue.state != QueueState.QUEUED.value)
            connection.execute(delete(tables.queue).where(ended))

    def end_queued(self, entry: QueueEntry, state: QueueState, reason: str = "") -> None:
        """Record how a queued study ended, unless it was queued again or cancelled meanwhile."""
        queue = tables.queue.c
        same = (queue.study == entry.study) & (queue.at == entry.at) & (queue.state == QueueState.QUEUED.value)
        with self.engine.begin() as connection:
            connection.execute(update(tables.queue).where(same).values(state=state.value, reason=reason))

    def is_cancelled(self, study: str) -> bool:
        """Return whether a study is cancelled."""
        return is_cancelled_now(self, study)

    def queued(self) -> tuple[QueueEntry, ...]:
        """Return the studies to train, in the order in which they were queued."""
        query = select(tables.queue).where(tables.queue.c.state == QueueState.QUEUED.value)
        return tuple(_entry(row) for row in self.rows(query.order_by(tables.queue.c.at)))

    def queue_entries(self) -> dict[str, QueueEntry]:
        """Return the entries of all studies that were queued or cancelled, by name."""
        if not inspect(self.engine).has_table(tables.queue.name):  # an older program made this storage
            return {}
        return {row.study: _entry(row) for row in self.rows(select(tables.queue))}

    def recent_seconds(self) -> dict[str, float]:
        """Return for each queued study the seconds of all epochs of its runs that are running or ended recently."""
        runs, queue = tables.runs.c, tables.queue.c
        recent = or_(runs.ended_at.is_(None), runs.ended_at >= time.time() - WINDOW_SECONDS)
        query = (
            select(runs.study, func.sum(tables.epochs.c.seconds).label("seconds"))
            .join(tables.epochs, tables.epochs.c.run == runs.id)
            .join(tables.queue, queue.study == runs.study)
            .where(queue.state == QueueState.QUEUED.value, recent)
            .group_by(runs.study)
        )
        return {row.study: float(row.seconds) for row in self.rows(query)}


def is_cancelled_now(store: Store, study: str) -> bool:
    """Return whether a study is cancelled, without retries: a training does not wait for a database that is away."""
    queue = tables.queue.c
    query = select(queue.state).where(queue.study == study, queue.state == QueueState.CANCELLED.value)
    return store.scalar(query) is not None


def _entry(row: Row[Any]) -> QueueEntry:
    place = None if row.data_dir is None else Path(row.data_dir)
    return QueueEntry(row.study, QueueState(row.state), row.reason, row.data, place, row.seed, row.at)
