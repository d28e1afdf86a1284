"""The studies of a storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import func, select

from budgetnas.cli.checks.check import Check, many
from budgetnas.errors import InputError
from budgetnas.space.specification import StudySpecification, read_specification
from budgetnas.storage import Records, State, tables

_SHOWN_STUDIES: Final = 10


def studies(records: Records) -> Iterator[Check]:
    """Look at which studies there are, and what is being trained."""
    names = records.study_names()
    shown = ", ".join(names[:_SHOWN_STUDIES]) + (", ..." if len(names) > _SHOWN_STUDIES else "")
    one = tables.runs.c
    with records.engine.connect() as connection:
        running = connection.scalar(select(func.count()).where(one.state == State.RUNNING.value)) or 0
    told = f"{len(names)}: {shown}" if names else "none"
    yield Check("studies", "ok", f"{told}; {many(running, 'run')} recorded as being trained")


def named_study(records: Records | None, study: str, known: list[StudySpecification]) -> Iterator[Check]:
    """Look whether a study is there; add its specification to `known` if it is.

    Args:
        records: The records of the storage; nothing if they cannot be read.
        study: Name of the study.
        known: Empty.
    """
    if records is None:
        told = f"{study!r} cannot be looked up: there are no studies to be read in this storage"
        yield Check("--study", "problem", told, "name the storage that it was searched in")
        return
    stored = records.specification(study)
    if stored is None:
        there = ", ".join(records.study_names()[:_SHOWN_STUDIES]) or "none yet"
        yield Check("--study", "problem", f"{study!r} is not in this storage; there: {there}", "see budgetnas studies")
        return
    try:
        known.append(read_specification(stored))
    except InputError as error:
        yield Check("--study", "problem", f"{study!r}: {error.rule}", "use the budgetnas that made it")
