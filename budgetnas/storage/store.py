"""An open storage, and its fence, which stops a process that lost its lease from committing.

The lease is checked inside the transaction that writes, just before the commit, so it cannot be lost in between:
SQLite has a single writer at a time, and PostgreSQL locks the lease's row against removal until the commit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Executable, Insert, Row, Table, delete, event, select
from sqlalchemy.dialects import postgresql, sqlite

from budgetnas.errors import LeaseLost
from budgetnas.storage import tables
from budgetnas.storage.retry import current_call
from budgetnas.storage.settings import Settings


class Fence:
    """Guards engines: while a lease is required, a transaction commits only if the lease exists."""

    def __init__(self) -> None:
        self._owner: str | None = None

    def guard(self, engine: Engine) -> None:
        """Guard every transaction of `engine` from now on."""
        event.listen(engine, "commit", self._check)

    @contextmanager
    def requiring(self, owner: str) -> Iterator[None]:
        """Require the lease of that owner inside the block."""
        before, self._owner = self._owner, owner
        try:
            yield
        finally:
            self._owner = before

    def _check(self, connection: Connection) -> None:
        """Raise `LeaseLost` if the required lease is gone; else lock it until the transaction ends."""
        owner = self._owner
        if owner is None:
            return
        lease = select(tables.leases.c.owner).where(tables.leases.c.owner == owner)
        if connection.scalar(lease.with_for_update(read=True, key_share=True)) is None:
            raise LeaseLost


class Store:
    """A storage that is open in this process.

    `engine` is from `budgetnas.storage.engine.open_engine`, with its tables created. Without `settings` those of the
    environment apply. The fence guards the engine while this process has a lease.
    """

    def __init__(self, engine: Engine, settings: Settings | None = None) -> None:
        self.engine = engine
        self.settings = Settings.of_environment() if settings is None else settings
        self.fence = Fence()
        self.fence.guard(engine)

    def close(self) -> None:
        """Close all connections to the storage."""
        self.engine.dispose()

    def rows(self, query: Executable) -> Sequence[Row[Any]]:
        """Return all rows of a query."""
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    def scalar(self, query: Executable) -> Any:
        """Return the first column of a query's first row, or None."""
        with self.engine.connect() as connection:
            return connection.scalar(query)


@functools.cache
def upsert(table: Table, dialect: str, *, keys: tuple[str, ...] = (), keep: bool = False) -> Insert:
    """Return an INSERT that can be repeated: a row with the same key is replaced, or kept with `keep`.

    Cached: building a statement takes longer than SQLite takes to run it.

    The key is the primary key unless other columns are named.
    """
    statement: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    unique = keys or tuple(column.name for column in table.primary_key)
    others = [column.name for column in table.c if not column.primary_key and column.name not in unique]
    repeatable: Insert = (
        statement.on_conflict_do_nothing(index_elements=unique)
        if keep
        else statement.on_conflict_do_update(
            index_elements=unique, set_={name: statement.excluded[name] for name in others}
        )
    )
    return repeatable


def forget_earlier_try(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Delete the row that an earlier try of this call may have committed, in a table with generated keys.

    The row is found by its values. These include the time of the call, which all tries share.
    """
    if current_call().repeated:
        same = (table.c[name] == value for name, value in row.items())
        connection.execute(delete(table).where(*same))
