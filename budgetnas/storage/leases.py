"""Leases: who works on what, so that N runs asked for are exactly N trained, and none by two at once.

A lease is a process's right to one more run of a study, a slot, or to one run that belongs to no search. It is taken
under the storage's lock and prolonged by heartbeats. That of a process that is gone, or was not heard of for its
grace period, may be taken from it: by the database's clock, so that those of the machines need not agree.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, ScalarSelect, delete, func, insert, literal, select, true, update
from sqlalchemy.exc import SQLAlchemyError

from budgetnas.errors import LeaseLost
from budgetnas.storage import tables
from budgetnas.storage.engine import exclusive
from budgetnas.storage.holders import Holder, this_process
from budgetnas.storage.records import Records
from budgetnas.storage.retry import current_call, patient
from budgetnas.storage.values import SEARCHED, State

_COUNTED: Final = (State.COMPLETE.value, State.PRUNED.value)
_ROLES: Final = tuple(role.value for role in SEARCHED)
_JULIAN_1970: Final = 2_440_587.5


@dataclass(frozen=True, slots=True)
class Lease:
    """A right that a process holds.

    Attributes:
        owner: Random name of the lease.
        study: The study whose slot it is; nothing for a run outside a search.
        grace: Seconds without a heartbeat after which it may be taken away.
    """

    owner: str
    study: str | None
    grace: float


class Heartbeat:
    """Prolongs a lease from a thread of its own, however long an epoch takes.

    Args:
        records: The storage.
        lease: What is prolonged.
    """

    def __init__(self, records: Records, lease: Lease) -> None:
        self._records, self._lease = records, lease
        self._stopped, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; a beat that waits for the database is not waited for."""
        self._stopped.set()
        self._thread.join(1.0)

    def check(self) -> None:
        """Raise if the lease was seen to be lost; the fence does not rely on it.

        Raises:
            LeaseLost: If it was.
        """
        if self._lost.is_set():
            raise LeaseLost

    def _beat(self) -> None:
        while not self._stopped.wait(self._records.settings.heartbeat_seconds):
            try:
                renewed = renew(self._records, self._lease)
            except LeaseLost:
                renewed = False
            except SQLAlchemyError:
                continue  # the database is away; the next beat asks again
            if not renewed:
                self._lost.set()
                return


@patient
def trained(records: Records, study: str) -> int:
    """Return how many runs of `study` count towards ``--trials``: search and repeat, complete or pruned."""
    with records.engine.connect() as connection:
        return int(connection.scalar(select(_trained(study))) or 0)


@patient
def take_slot(records: Records, study: str, trials: int) -> Lease | None:
    """Return a slot if fewer than `trials` are trained or being trained, else nothing."""
    held = select(func.count()).where(tables.leases.c.study == study).scalar_subquery()
    with exclusive(records.engine):
        if current_call().repeated:
            _delete(records, current_call().token)  # an earlier try may have taken it
        # One statement, so one snapshot: a run that ends between two would be counted in neither.
        with records.engine.connect() as connection:
            used = int(connection.scalar(select(_trained(study) + held)) or 0)
        return None if used >= trials else take_lease(records, study)


@patient
def take_lease(records: Records, study: str | None = None, run: int | None = None) -> Lease:
    """Return a new lease; the caller holds the storage's lock."""
    lease, holder = Lease(current_call().token, study, records.settings.grace_seconds), this_process()
    row = {
        "owner": lease.owner,
        "study": study,
        "run": run,
        "host": holder.host,
        "pid": holder.pid,
        "process_started_at": holder.process_started_at,
        "grace": lease.grace,
    }
    if current_call().repeated:
        _delete(records, lease.owner)  # an earlier try may have taken it
    with records.engine.begin() as connection:
        connection.execute(insert(tables.leases).values(**row, expires_at=_clock(connection) + lease.grace))
    return lease


@contextmanager
def holding(records: Records, lease: Lease) -> Iterator[Heartbeat]:
    """Keep a lease alive, have all writing depend on it, and give it back at the end, however it ends."""
    heartbeat = Heartbeat(records, lease)
    heartbeat.start()
    try:
        with records.fence.requiring(lease.owner):
            yield heartbeat
    finally:
        heartbeat.stop()
        give_back(records, lease)


def give_back(records: Records, lease: Lease) -> None:
    """Give a lease back; where the database is away, it is taken from this process later."""
    with contextlib.suppress(SQLAlchemyError):
        _delete(records, lease.owner)


@patient
def renew(records: Records, lease: Lease) -> bool:
    """Prolong a lease by its grace period; return whether it still stands."""
    one = tables.leases.c
    with records.engine.begin() as connection:
        values = {"expires_at": _clock(connection) + lease.grace}
        done = connection.execute(update(tables.leases).where(one.owner == lease.owner).values(values))
        return done.rowcount > 0


@patient
def note_work(records: Records, lease: Lease, *, trial: int | None = None, run: int | None = None) -> None:
    """Record which trial, or which run, the holder works on.

    Raises:
        LeaseLost: If it holds the lease no more.
    """
    values = {name: value for name, value in (("trial", trial), ("run", run)) if value is not None}
    with records.engine.begin() as connection:
        done = connection.execute(update(tables.leases).where(tables.leases.c.owner == lease.owner).values(values))
        if not done.rowcount:
            raise LeaseLost


@patient
def slots_held(records: Records, study: str) -> int:
    """Return how many slots of `study` are held."""
    return len(_rows(records, tables.leases.c.study == study))


@patient
def release_dead(records: Records, study: str) -> frozenset[int] | None:
    """Take their slots from processes that are gone or were not heard of; return the trials that live ones hold.

    What each lost is recorded. The caller holds the storage's lock.

    Returns:
        Numbers of trials, or nothing while a live holder has not yet said which trial it works on.
    """
    alive = _release(records, _rows(records, tables.leases.c.study == study))
    if any(row.trial is None for row in alive):
        return None
    return frozenset(row.trial for row in alive)


@patient
def is_held(records: Records, run: int, *, but: Lease | None) -> bool:
    """Return whether another process that lives works on `run`; the caller holds the storage's lock."""
    one = tables.leases.c
    others = one.owner != but.owner if but is not None else true()
    return bool(_release(records, _rows(records, (one.run == run) & others)))


@patient
def times_lost(records: Records, study: str, trial: int) -> tuple[str, ...]:
    """Return why `trial` was taken from each process that lost it."""
    one = tables.losses.c
    query = select(one.reason).where(one.study == study, one.trial == trial).order_by(one.id)
    with records.engine.connect() as connection:
        return tuple(connection.scalars(query))


@patient
def _delete(records: Records, owner: str) -> None:
    with records.engine.begin() as connection:
        connection.execute(delete(tables.leases).where(tables.leases.c.owner == owner))


def _trained(study: str) -> ScalarSelect[int]:
    one = tables.runs.c
    counts = (one.study == study, one.role.in_(_ROLES), one.state.in_(_COUNTED))
    return select(func.count()).select_from(tables.runs).where(*counts).scalar_subquery()


def _rows(records: Records, which: ColumnElement[bool]) -> list[Row[Any]]:
    with records.engine.connect() as connection:
        late = (tables.leases.c.expires_at < _clock(connection)).label("late")
        return list(connection.execute(select(tables.leases, late).where(which)))


def _release(records: Records, rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Delete the dead among `rows` and record what they lose; return the others."""
    alive = []
    for row in rows:
        gone = Holder(row.host, row.pid, row.process_started_at).is_gone()
        if not (gone or row.late) or not _take_away(records, row, gone=gone):
            alive.append(row)
    return alive


def _take_away(records: Records, row: Row[Any], *, gone: bool) -> bool:
    """Delete a lease, unless its holder prolonged it meanwhile; record the loss."""
    one, holder = tables.leases.c, Holder(row.host, row.pid, row.process_started_at)
    why = "is gone" if gone else f"was not heard of for {row.grace:.0f} s"
    loss = {
        "study": row.study,
        "trial": row.trial,
        "run": row.run,
        "host": row.host,
        "pid": row.pid,
        "reason": f"{holder.describe()} {why}",
    }
    with records.engine.begin() as connection:
        mine = (one.owner == row.owner) & (literal(gone) | (one.expires_at < _clock(connection)))
        taken = connection.execute(delete(tables.leases).where(mine)).rowcount > 0
        if taken:
            connection.execute(insert(tables.losses).values(**loss, at=_clock(connection)))
        return taken


def _clock(connection: Connection) -> ColumnElement[float]:
    """Return seconds since 1970-01-01 UTC by the database's clock."""
    if connection.dialect.name == "sqlite":
        return (func.julianday("now") - _JULIAN_1970) * 86_400.0
    return func.date_part("epoch", func.clock_timestamp())
