"""Leases: which process trains which run, so that exactly N runs are trained, and no run by two processes at once.

A lease is a process's right to train one more run of a study (a slot), or a run outside a search. It is taken under the
storage's lock and renewed by heartbeats. Other processes may remove it once its process has ended, or after a grace
period without a heartbeat. The database's clock decides when it expires, so the machines' clocks need not agree.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from sqlalchemy import ColumnElement, Connection, Row, ScalarSelect, delete, func, insert, literal, select, true, update
from sqlalchemy.exc import SQLAlchemyError

from budgetnas.errors import LeaseLost, SearchFailedError
from budgetnas.storage import tables
from budgetnas.storage.engine import exclusive
from budgetnas.storage.retry import current_call, retried
from budgetnas.storage.store import Store, upsert
from budgetnas.storage.values import SEARCHED, State

_COUNTED: Final = (State.COMPLETE.value, State.PRUNED.value)
_ROLES: Final = tuple(role.value for role in SEARCHED)
_FINAL_PREFIX_LENGTH: Final = 23
_JULIAN_1970: Final = 2_440_587.5


@dataclass(frozen=True, slots=True)
class Holder:
    """A process on a machine."""

    host: str  # name of the machine with its boot ID and PID namespace: a PID is only unique within them
    pid: int
    process_started_at: float  # its start by the machine's clock, because PIDs are reused

    def is_gone(self) -> bool:
        """Return whether the process is known to have ended; never True for a process on another machine."""
        if self.host != _host():
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.process_started_at) < 1.0
            return not same or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def describe(self) -> str:
        """Return its PID and the name of its machine."""
        return f"process {self.pid} on {self.host.partition(' ')[0]}"


def this_process() -> Holder:
    """Return the calling process."""
    return Holder(_host(), os.getpid(), psutil.Process().create_time())


@functools.cache
def _host() -> str:
    name = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{name} {boot[:8]} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return name


@dataclass(frozen=True, slots=True)
class Lease:
    """A process's right to train."""

    owner: str  # random name of the lease
    study: str | None  # the study whose slot it is, or None for a run outside a search
    grace: float  # seconds without a heartbeat after which another process may remove it


@dataclass(frozen=True, slots=True)
class Work:
    """What a live process works on."""

    study: str | None  # its study, or None for a replay
    trial: int | None  # number of its trial, or None for a final, or before the trial is known
    run: int | None  # number of the run in training, or None between two runs
    holder: Holder


class Heartbeat:
    """Renews a lease from a thread of its own, so that a long epoch does not delay the renewals."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store, self._lease = store, lease
        self._stopped, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing, without waiting for a renewal that waits for the database."""
        self._stopped.set()
        self._thread.join(1.0)

    def check(self) -> None:
        """Raise `LeaseLost` if the lease is known to be lost, to stop early; the fence blocks commits in any case."""
        if self._lost.is_set():
            raise LeaseLost

    def _beat(self) -> None:
        while not self._stopped.wait(self._store.settings.heartbeat_seconds):
            try:
                renewed = renew(self._store, self._lease)
            except LeaseLost:
                renewed = False
            except SQLAlchemyError:
                continue  # the database cannot be reached; the next renewal tries again
            if not renewed:
                self._lost.set()
                return


@retried
def trained(store: Store, study: str) -> int:
    """Return how many runs of `study` count towards ``--trials``: search and repeat, complete or pruned."""
    return int(store.scalar(select(_trained(study))) or 0)


@retried
def require_study(store: Store, study: str) -> None:
    """Raise `SearchFailedError` if a study does not exist; call it with one of its slots, or under the storage's lock.

    A study with a slot in use is neither deleted nor renamed, and both are done under that lock.
    """
    names = tables.specifications.c.study
    if store.scalar(select(names).where(names == study)) is None:
        raise SearchFailedError(f"study {study!r} was deleted or renamed")


@retried
def take_slot(store: Store, study: str, trials: int) -> Lease | None:
    """Return a slot if fewer than `trials` runs are trained or in training, else None."""
    leases = tables.leases.c
    # An earlier try of this call may have taken the slot already.
    taken = select(func.count()).where(leases.study == study, leases.owner != current_call().token).scalar_subquery()
    with exclusive(store.engine):
        # One statement reads one snapshot. With two statements, neither would count a run that ends between them.
        if int(store.scalar(select(_trained(study) + taken)) or 0) < trials:
            return take_lease(store, study)
        release(store, current_call().token)
        return None


@retried
def take_lease(store: Store, study: str | None = None, run: int | None = None) -> Lease:
    """Return a new lease; call it under the storage's lock."""
    lease = Lease(current_call().token, study, store.settings.grace_seconds)
    _save(store, lease, run)
    return lease


@retried
def take_final(store: Store, study: str) -> Lease | None:
    """Return the lease on a study's final, or None while another live process has it."""
    owner = f"{_final_prefix(study)}{current_call().token[:16]}"
    with exclusive(store.engine):
        others = tables.leases.c.owner != owner  # an earlier try of this call may have taken it already
        if _release_stale(store, _rows(store, _of_final(study) & others)):
            return None
        lease = Lease(owner, None, store.settings.grace_seconds)
        _save(store, lease)
        return lease


@contextmanager
def holding(store: Store, lease: Lease) -> Iterator[Heartbeat]:
    """Renew a lease and make every commit depend on it inside the block; release it at the end."""
    heartbeat = Heartbeat(store, lease)
    heartbeat.start()
    try:
        with store.fence.requiring(lease.owner):
            yield heartbeat
    finally:
        heartbeat.stop()
        with contextlib.suppress(SQLAlchemyError):  # without a database the lease expires later
            release(store, lease.owner)


@retried
def release(store: Store, owner: str) -> None:
    """Remove the lease of that owner, if it exists."""
    with store.engine.begin() as connection:
        connection.execute(delete(tables.leases).where(tables.leases.c.owner == owner))


@retried
def release_all_of_this_process(store: Store) -> None:
    """Remove what this process could not release while the database was away; it must hold no lease now."""
    leases, process = tables.leases.c, this_process()
    own = (leases.host == process.host) & (leases.pid == process.pid)
    with store.engine.begin() as connection:
        connection.execute(delete(tables.leases).where(own))


@retried
def renew(store: Store, lease: Lease) -> bool:
    """Renew a lease for its grace period; return whether it still exists."""
    with store.engine.begin() as connection:
        values = {"expires_at": _clock(connection) + lease.grace}
        renewed = connection.execute(update(tables.leases).where(tables.leases.c.owner == lease.owner).values(values))
        return renewed.rowcount > 0


@retried
def note_work(store: Store, lease: Lease, *, trial: int | None = None, run: int | None = None) -> None:
    """Record which trial, or which run, the lease is used for.

    Raises:
        LeaseLost: If the lease is gone.
    """
    values = {name: value for name, value in (("trial", trial), ("run", run)) if value is not None}
    with store.engine.begin() as connection:
        noted = connection.execute(update(tables.leases).where(tables.leases.c.owner == lease.owner).values(values))
        if not noted.rowcount:
            raise LeaseLost


@retried
def slots_in_use(store: Store, study: str) -> int:
    """Return how many slots of `study` are taken."""
    return len(_rows(store, tables.leases.c.study == study))


@retried
def release_stale(store: Store, study: str) -> frozenset[int] | None:
    """Remove a study's stale leases and record which trials were lost; call it under the storage's lock.

    Returns:
        Numbers of the trials that live processes work on, or None while a live process has not yet recorded its trial.
        No lease is removed then: its trial cannot be requeued yet, so a free slot would become a trial too many.
    """
    rows = _rows(store, tables.leases.c.study == study)
    if any(row.trial is None and not _is_stale(row) for row in rows):
        return None
    alive = _release_stale(store, rows)
    if any(row.trial is None for row in alive):  # it was renewed meanwhile
        return None
    return frozenset(row.trial for row in alive)


@retried
def work_in_progress(store: Store) -> tuple[Work, ...]:
    """Return what all live processes work on, once for each study and process."""
    leases, runs = tables.leases.c, tables.runs.c
    finals = {_final_prefix(study): study for (study,) in store.rows(select(tables.specifications.c.study))}
    with store.engine.connect() as connection:
        live = leases.expires_at >= _clock(connection)
        query = select(tables.leases, runs.study.label("of_run")).join(tables.runs, leases.run == runs.id, isouter=True)
        rows = connection.execute(query.where(live)).all()
    found: dict[tuple[str | None, Holder], Work] = {}
    for row in sorted(rows, key=lambda row: row.run is not None):  # a run says more than the final that it is part of
        holder = Holder(row.host, row.pid, row.process_started_at)
        study = row.study or row.of_run or finals.get(row.owner[:_FINAL_PREFIX_LENGTH])
        if not holder.is_gone():
            found[study, holder] = Work(study, row.trial, row.run, holder)
    return tuple(found.values())


@retried
def working_on(store: Store, study: str) -> int:
    """Remove the stale leases of a study, its runs and its final; return how many live processes work on it.

    Call it under the storage's lock.
    """
    leases = tables.leases.c
    runs = select(tables.runs.c.id).where(tables.runs.c.study == study)
    of_study = (leases.study == study) | leases.run.in_(runs) | _of_final(study)
    alive = _release_stale(store, _rows(store, of_study))
    return len({(row.host, row.pid) for row in alive})


@retried
def in_training(store: Store, run: int, *, ignored: Lease | None) -> bool:
    """Return whether a live process trains `run` under a lease other than `ignored`.

    Call it under the storage's lock.
    """
    leases = tables.leases.c
    others = leases.owner != ignored.owner if ignored is not None else true()
    return bool(_release_stale(store, _rows(store, (leases.run == run) & others)))


@retried
def loss_reasons(store: Store, study: str, trial: int) -> tuple[str, ...]:
    """Return why each process that worked on `trial` lost it, oldest first."""
    losses = tables.losses.c
    query = select(losses.reason).where(losses.study == study, losses.trial == trial).order_by(losses.id)
    return tuple(row.reason for row in store.rows(query))


@retried
def note_loss(store: Store, lease: Lease, trial: int, run: int | None, reason: str) -> None:
    """Record that this process loses its trial although it is alive, as `release_stale` does for dead processes."""
    process = this_process()
    loss = {
        "study": lease.study,
        "trial": trial,
        "run": run,
        "host": process.host,
        "pid": process.pid,
        "reason": f"{process.describe()}: {reason}",
    }
    with store.engine.begin() as connection:
        connection.execute(insert(tables.losses).values(**loss, at=_clock(connection)))


def _save(store: Store, lease: Lease, run: int | None = None) -> None:
    row = asdict(lease) | asdict(this_process()) | {"run": run}
    with store.engine.begin() as connection:
        statement = upsert(tables.leases, connection.dialect.name)
        connection.execute(statement.values(**row, expires_at=_clock(connection) + lease.grace))


def _final_prefix(study: str) -> str:
    """Return how the owners of leases on a study's final begin: every process knows it, so at most one has a lease."""
    return f"final-{hashlib.sha256(study.encode()).hexdigest()[:16]}-"


def _of_final(study: str) -> ColumnElement[bool]:
    return tables.leases.c.owner.startswith(_final_prefix(study))


def _trained(study: str) -> ScalarSelect[int]:
    runs = tables.runs.c
    counts = (runs.study == study, runs.role.in_(_ROLES), runs.state.in_(_COUNTED))
    return select(func.count()).select_from(tables.runs).where(*counts).scalar_subquery()


def _rows(store: Store, which: ColumnElement[bool]) -> list[Row[Any]]:
    with store.engine.connect() as connection:
        expired = (tables.leases.c.expires_at < _clock(connection)).label("expired")
        return list(connection.execute(select(tables.leases, expired).where(which)))


def _release_stale(store: Store, rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Remove the stale leases among `rows`; return the others."""
    alive = []
    for row in rows:
        if not _is_stale(row) or not _remove_stale(store, row):
            alive.append(row)
    return alive


def _is_stale(row: Row[Any]) -> bool:
    return row.expired or Holder(row.host, row.pid, row.process_started_at).is_gone()


def _remove_stale(store: Store, row: Row[Any]) -> bool:
    """Delete a lease and record the loss, unless its process renewed it meanwhile; return whether it was deleted."""
    leases, process = tables.leases.c, Holder(row.host, row.pid, row.process_started_at)
    gone = process.is_gone()
    why = "is gone" if gone else f"sent no heartbeat for {row.grace:.0f} s"
    loss = {name: row._mapping[name] for name in ("study", "trial", "run", "host", "pid")}
    loss |= {"reason": f"{process.describe()} {why}"}
    with store.engine.begin() as connection:
        stale = (leases.owner == row.owner) & (literal(gone) | (leases.expires_at < _clock(connection)))
        taken = connection.execute(delete(tables.leases).where(stale)).rowcount > 0
        if taken:
            connection.execute(insert(tables.losses).values(**loss, at=_clock(connection)))
        return taken


def _clock(connection: Connection) -> ColumnElement[float]:
    """Return seconds since 1970-01-01 UTC by the database's clock."""
    if connection.dialect.name == "sqlite":
        return (func.julianday("now") - _JULIAN_1970) * 86_400.0
    return func.date_part("epoch", func.clock_timestamp())
