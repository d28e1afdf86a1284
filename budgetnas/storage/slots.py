"""Slots: the right to train one more run of a study, so that N asked for are exactly N trained.

A slot is taken under the storage's lock. Its holder is a process; the slot of a process that is gone is free again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psutil
from sqlalchemy import Row, ScalarSelect, delete, func, insert, select, update

from budgetnas.storage import tables
from budgetnas.storage.engine import exclusive
from budgetnas.storage.patience import current_call, patient
from budgetnas.storage.records import Records
from budgetnas.storage.values import Role, State

STALE_SECONDS: Final = 15 * 60.0
"""A holder on another machine that was not seen for so long is taken for gone."""
_COUNTED: Final = (State.COMPLETE.value, State.PRUNED.value)
_ROLES: Final = (Role.SEARCH.value, Role.REPEAT.value)


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to train one run.

    Attributes:
        owner: Random name of the slot.
        study: The study it is for.
    """

    owner: str
    study: str


@patient
def trained(records: Records, study: str) -> int:
    """Return how many runs of `study` count towards ``--trials``: search and repeat, complete or pruned."""
    with records.engine.connect() as connection:
        return int(connection.scalar(select(_trained(study))) or 0)


@patient
def take_slot(records: Records, study: str, trials: int) -> Slot | None:
    """Return a slot if fewer than `trials` are trained or being trained, else nothing."""
    held = select(func.count()).where(tables.slots.c.study == study).scalar_subquery()
    with exclusive(records.engine):
        if current_call().repeated:
            _give_back(records, current_call().token)  # an earlier try may have taken it
        # One statement, so one snapshot: a run that ends between two would be counted in neither.
        with records.engine.connect() as connection:
            used = int(connection.scalar(select(_trained(study) + held)) or 0)
        if used >= trials:
            return None
        slot = Slot(current_call().token, study)
        row = {
            "owner": slot.owner,
            "study": study,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started_at": psutil.Process().create_time(),
            "seen_at": time.time(),
        }
        with records.engine.begin() as connection:
            connection.execute(insert(tables.slots).values(row))
        return slot


@contextmanager
def holding(records: Records, slot: Slot) -> Iterator[Slot]:
    """Give the slot back at the end, however it ends."""
    try:
        yield slot
    finally:
        _give_back(records, slot.owner)


@patient
def _give_back(records: Records, owner: str) -> None:
    with records.engine.begin() as connection:
        connection.execute(delete(tables.slots).where(tables.slots.c.owner == owner))


@patient
def touch(records: Records, slot: Slot, trial: int) -> None:
    """Record that the holder is alive, and which trial it works on."""
    values = {"seen_at": time.time(), "trial": trial}
    with records.engine.begin() as connection:
        connection.execute(update(tables.slots).where(tables.slots.c.owner == slot.owner).values(values))


@patient
def slots_held(records: Records, study: str) -> int:
    """Return how many slots of `study` are held."""
    return len(_held(records, study))


def release_dead(records: Records, study: str) -> frozenset[int] | None:
    """Free the slots of processes that are gone; return the trials that live ones hold.

    The caller holds the storage's lock.

    Returns:
        Numbers of trials, or nothing while a live holder has not yet said which trial it works on.
    """
    held = _held(records, study)
    alive = [row for row in held if _alive(row)]
    dead = [row.owner for row in held if row not in alive]
    if dead:
        with records.engine.begin() as connection:
            connection.execute(delete(tables.slots).where(tables.slots.c.owner.in_(dead)))
    if any(row.trial is None for row in alive):
        return None
    return frozenset(row.trial for row in alive)


def _trained(study: str) -> ScalarSelect[int]:
    one = tables.runs.c
    counts = (one.study == study, one.role.in_(_ROLES), one.state.in_(_COUNTED))
    return select(func.count()).select_from(tables.runs).where(*counts).scalar_subquery()


def _held(records: Records, study: str) -> list[Row[tuple[str, ...]]]:
    with records.engine.connect() as connection:
        return list(connection.execute(select(tables.slots).where(tables.slots.c.study == study)))


def _alive(row: Row[tuple[str, ...]]) -> bool:
    if row.host != socket.gethostname():
        return time.time() - float(row.seen_at) < STALE_SECONDS
    try:
        holder = psutil.Process(row.pid)
        same = abs(holder.create_time() - float(row.process_started_at)) < 1.0
        return same and holder.status() != psutil.STATUS_ZOMBIE  # dead, but its parent has not asked
    except psutil.NoSuchProcess:
        return False
