"""Cancel, delete and rename studies: our records and Optuna's together."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import Final, cast

from optuna.storages._rdb.models import StudyModel, TrialModel
from sqlalchemy import Connection, Table, delete, or_, select, update

from budgetnas.errors import InputError
from budgetnas.runs.checkpoints import delete_old_checkpoints
from budgetnas.runs.reopen import study_specification
from budgetnas.searching.options import check_study_name
from budgetnas.storage import Records, tables
from budgetnas.storage.engine import exclusive
from budgetnas.storage.leases import work_in_progress, working_on
from budgetnas.storage.retry import retried

_WAIT_SECONDS: Final = 0.5
_OF_STUDY: Final = (
    tables.specifications,
    tables.runs,
    tables.rejections,
    tables.finals,
    tables.losses,
    tables.goals,
    tables.queue,
)
"""Our tables with the name of a study; stale leases are removed before it changes."""


def cancel_study(records: Records, study: str) -> int:
    """Cancel a study: no worker trains it further until it is searched or queued again; nothing recorded is lost.

    Returns:
        Number of processes at work, which requeue their training within seconds.

    Raises:
        InputError: If there is no such study.
    """
    study_specification(records, study)
    records.cancel(study)
    return sum(work.study == study for work in work_in_progress(records))


def delete_study(records: Records, study: str, wait: Callable[[str], None]) -> None:
    """Delete a study with its records, weights and checkpoints, and Optuna's study of the name.

    Args:
        records: The storage.
        study: Name of the study.
        wait: Called with a sentence if the study was cancelled and its processes have not stopped yet; they are waited
            for.

    Raises:
        InputError: If there is no such study, or it is being trained and was not cancelled.
    """
    study_specification(records, study)
    waited = False
    while working := _delete(records, study):
        if not records.is_cancelled(study):
            raise _busy("STUDY", study, working)
        if not waited:
            wait(f"waiting until {_processes(working)} of study {study!r} stopped")
        waited = True
        time.sleep(_WAIT_SECONDS)
    delete_old_checkpoints(records)


def rename_study(records: Records, old: str, new: str) -> None:
    """Rename a study, in our records and in Optuna's.

    Raises:
        InputError: If there is no study of the old name, there is one of the new name, or it is being trained.
    """
    study_specification(records, old, "OLD")
    try:
        check_study_name(new)
    except InputError as error:
        raise InputError("NEW", new, error.rule) from None
    _rename(records, old, new)


@retried
def _delete(records: Records, study: str) -> int:
    """Delete a study unless processes work on it; return how many do."""
    with exclusive(records.engine):
        working = working_on(records, study)
        if working:
            return working
        with records.engine.begin() as connection:
            _delete_rows(connection, study)
            _delete_from_optuna(connection, study)
    return 0


def _delete_rows(connection: Connection, study: str) -> None:
    runs = select(tables.runs.c.id).where(tables.runs.c.study == study)
    finals = select(tables.finals.c.id).where(tables.finals.c.study == study)
    readings = tables.test_readings.c
    connection.execute(delete(tables.test_readings).where(or_(readings.run.in_(runs), readings.final.in_(finals))))
    of_runs = (tables.epochs, tables.weights, tables.attempts, tables.checkpoints, tables.losses, tables.leases)
    for table in of_runs:
        connection.execute(delete(table).where(table.c.run.in_(runs)))
    connection.execute(delete(tables.finals).where(tables.finals.c.study == study))
    for table in _OF_STUDY:
        connection.execute(delete(table).where(table.c.study == study))


def _delete_from_optuna(connection: Connection, study: str) -> None:
    """Delete Optuna's study in the same transaction; its own method has a transaction for itself."""
    studies = select(StudyModel.study_id).where(StudyModel.study_name == study)
    trials = select(TrialModel.trial_id).where(TrialModel.study_id.in_(studies))
    for table in reversed(StudyModel.metadata.sorted_tables):  # rows before those that they refer to
        if "study_id" in table.c:
            connection.execute(delete(table).where(table.c.study_id.in_(studies)))
        elif "trial_id" in table.c:
            connection.execute(delete(table).where(table.c.trial_id.in_(trials)))


@retried
def _rename(records: Records, old: str, new: str) -> None:
    with exclusive(records.engine):
        names = cast(Table, StudyModel.__table__)
        taken = select(names.c.study_name).where(names.c.study_name == new)
        if records.specification(old) is None and records.specification(new) is not None:
            return  # an earlier try of this call
        if records.scalar(taken) is not None or new in records.study_names():
            raise InputError("NEW", new, "is a study of this storage", "choose another name, or delete that study")
        working = working_on(records, old)
        if working:
            raise _busy("OLD", old, working)
        with records.engine.begin() as connection:
            for table in _OF_STUDY:
                connection.execute(update(table).where(table.c.study == old).values(study=new))
            connection.execute(update(names).where(names.c.study_name == old).values(study_name=new))


def _busy(argument: str, study: str, working: int) -> InputError:
    rule = f"is being trained by {_processes(working)}"
    return InputError(argument, study, rule, f"budgetnas cancel {shlex.quote(study)} stops them first")


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"
