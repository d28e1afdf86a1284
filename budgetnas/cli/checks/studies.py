"""Checks of the studies of a storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import func, select

from budgetnas.cli.checks.check import Check
from budgetnas.errors import InputError, plural
from budgetnas.space.specification import StudySpecification, read_specification
from budgetnas.storage import Records, State, tables

_SHOWN_STUDIES: Final = 10


def studies(records: Records) -> Iterator[Check]:
    """List the studies, and count the runs in training."""
    names = records.study_names()
    shown = ", ".join(names[:_SHOWN_STUDIES]) + (", ..." if len(names) > _SHOWN_STUDIES else "")
    query = select(func.count()).where(tables.runs.c.state == State.RUNNING.value)
    running = records.scalar(query) or 0
    listed = f"{len(names)}: {shown}" if names else "none"
    yield Check("studies", "ok", f"{listed}; {plural(running, 'run')} recorded as running")


def named_study(records: Records | None, study: str, known: list[StudySpecification]) -> Iterator[Check]:
    """Check whether a study exists, and append its specification to `known`.

    The records are None if they cannot be read.
    """
    if records is None:
        detail = f"{study!r} cannot be looked up: this storage has no studies that can be read"
        yield Check("--study", "problem", detail, "name the storage that it was searched in")
        return
    stored = records.specification(study)
    if stored is None:
        names = ", ".join(records.study_names()[:_SHOWN_STUDIES]) or "none yet"
        yield Check(
            "--study", "problem", f"{study!r} is not in this storage; its studies: {names}", "see budgetnas studies"
        )
        return
    try:
        known.append(read_specification(stored))
    except InputError as error:
        yield Check("--study", "problem", f"{study!r}: {error.rule}", "use the version of budgetnas that created it")
