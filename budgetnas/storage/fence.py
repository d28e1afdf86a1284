"""The fence: a process that lost its lease cannot commit anything more of the work it held.

Whether the lease still stands is asked in the very transaction that writes, the last thing before it is committed,
so that no moment is left in between in which it could be lost: SQLite has one writer at a time, and in PostgreSQL the
lease's row is locked against removal until the commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, event, select

from budgetnas.errors import LeaseLost
from budgetnas.storage import tables


class Fence:
    """Guards engines: while a lease is required, a transaction is committed only if the lease stands."""

    def __init__(self) -> None:
        self._owner: str | None = None

    def guard(self, engine: Engine) -> None:
        """Guard all transactions of `engine` from now on."""
        event.listen(engine, "commit", self.check)

    @contextmanager
    def requiring(self, owner: str) -> Iterator[None]:
        """Require the lease of that owner while inside."""
        before, self._owner = self._owner, owner
        try:
            yield
        finally:
            self._owner = before

    def check(self, connection: Connection) -> None:
        """Check that the lease that is required stands, and keep it from being taken until the transaction ends.

        Every transaction is checked before it is committed. One that would run into what a successor has written must
        be checked before it writes, or it would end with the database's words for that.

        Raises:
            LeaseLost: If it does not.
        """
        owner = self._owner
        if owner is None:
            return
        lease = select(tables.leases.c.owner).where(tables.leases.c.owner == owner)
        if connection.scalar(lease.with_for_update(read=True, key_share=True)) is None:
            raise LeaseLost
