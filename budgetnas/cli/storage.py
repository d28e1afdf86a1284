"""The storage that a command was given, opened to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgetnas.storage import Records


def records_to_read(storage: str | None) -> Records:
    """Return the records of the storage that a command was given, or of the default one, to read only."""
    from budgetnas.storage.opening import look_at_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    return look_at_records(parse_storage(storage or DEFAULT_STORAGE))
