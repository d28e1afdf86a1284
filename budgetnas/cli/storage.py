"""Open the storage of a command, to read only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgetnas.storage import Records


def records_to_read(storage: str | None) -> Records:
    """Return the records of a command's ``--storage``, or of the default storage, to read only."""
    from budgetnas.storage.opening import open_records_read_only
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    return open_records_read_only(parse_storage(storage or DEFAULT_STORAGE))
