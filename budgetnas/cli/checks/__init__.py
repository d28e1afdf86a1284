"""The checks of `budgetnas doctor`: versions, devices, storage, studies, data and disks. They change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from budgetnas.cli.checks.check import Check, DoctorRequest
from budgetnas.cli.checks.data import data
from budgetnas.cli.checks.machine import devices, disks, versions
from budgetnas.cli.checks.storage import storage
from budgetnas.cli.checks.studies import named_study, studies
from budgetnas.errors import InputError, hide_passwords
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import Records
from budgetnas.storage.engine import storage_failed
from budgetnas.storage.urls import read_storage_url

__all__ = ["Check", "DoctorRequest", "examine"]


def examine(request: DoctorRequest) -> Iterator[Check]:
    """Run all checks; a failed check does not stop the next.

    Raises:
        InputError: At once, if the storage, data or device of the request is invalid.
    """
    url = read_storage_url(request.storage)
    request.check()
    return _examine(request, url)


def _examine(request: DoctorRequest, url: URL) -> Iterator[Check]:
    yield from _guarded("versions", versions)
    yield from _guarded("device", lambda: devices(request.device))
    opened: list[Records] = []
    yield from _guarded("storage", lambda: storage(url, opened))
    records = opened[0] if opened else None
    known: list[StudySpecification] = []
    try:
        if records is not None:
            yield from _guarded("studies", lambda: studies(records))
        if (study := request.study) is not None:
            yield from _guarded("--study", lambda: named_study(records, study, known))
        yield from _guarded("data", lambda: data(request, known[0] if known else None))
    finally:
        if records is not None:
            records.close()
    yield from _guarded("disk", lambda: disks(url))


def _guarded(name: str, checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Yield the checks with passwords hidden; an exception is reported as a problem of the check `name`."""
    try:
        for check in checks():
            yield Check(check.check, check.state, hide_passwords(check.detail), hide_passwords(check.hint))
    except InputError as error:
        detail = error.rule if error.value is None else f"{error.value} {error.rule}"
        yield Check(name, "problem", hide_passwords(detail), hide_passwords(error.hint))
    except DatabaseError as error:
        yield Check(name, "problem", hide_passwords(storage_failed(error)), "check the path, its rights or the server")
    except Exception as error:  # a check that crashes must not hide the others
        detail = hide_passwords(" ".join(f"{type(error).__name__}: {error}".split()))
        yield Check(name, "problem", f"could not be checked ({detail})", "see the message")
