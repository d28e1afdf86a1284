"""Looks at everything, one thing after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from budgetnas.cli.checks.check import Check
from budgetnas.cli.checks.data import data
from budgetnas.cli.checks.devices import devices
from budgetnas.cli.checks.disks import disks
from budgetnas.cli.checks.request import DoctorRequest
from budgetnas.cli.checks.storage import storage
from budgetnas.cli.checks.studies import named_study, studies
from budgetnas.cli.checks.versions import versions
from budgetnas.errors import InputError, hide_passwords
from budgetnas.space.specification import StudySpecification
from budgetnas.storage import Records
from budgetnas.storage.engine import storage_failed
from budgetnas.storage.urls import read_storage_url


def examine(request: DoctorRequest) -> Iterator[Check]:
    """Look at everything, one thing after the other, whatever is found.

    Raises:
        InputError: At once, if the request names no storage, data or device that could be.
    """
    url = read_storage_url(request.storage)
    request.check()
    return _examined(request, url)


def _examined(request: DoctorRequest, url: URL) -> Iterator[Check]:
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


def _guarded(name: str, look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Yield what `look` finds; what keeps it from looking is a problem, and no reason not to look at the rest."""
    try:
        for check in look():
            yield Check(check.check, check.state, hide_passwords(check.detail), hide_passwords(check.way_out))
    except InputError as error:
        told = error.rule if error.value is None else f"{error.value} {error.rule}"
        yield Check(name, "problem", hide_passwords(told), hide_passwords(error.hint))
    except DatabaseError as error:
        yield Check(name, "problem", hide_passwords(storage_failed(error)), "check the path, its rights or the server")
    except Exception as error:  # one check that breaks must not hide the others
        told = hide_passwords(" ".join(f"{type(error).__name__}: {error}".split()))
        yield Check(name, "problem", f"could not be looked at ({told})", "see the message")
