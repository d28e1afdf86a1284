"""Records of checkpoints, and weights kept in the database."""

from __future__ import annotations

import hashlib

from sqlalchemy import delete, select

from budgetnas.errors import BudgetnasError
from budgetnas.storage import tables
from budgetnas.storage.retry import current_call, retried_methods
from budgetnas.storage.store import Store, upsert
from budgetnas.storage.values import Checkpoint


@retried_methods
class CheckpointRecords(Store):
    """Writes and reads checkpoints and weights."""

    def add_checkpoint(self, run: int, checkpoint: Checkpoint, *, keep: int) -> tuple[str, ...]:
        """Record a checkpoint of `run` and forget all but the last `keep`; return the files of the forgotten ones."""
        columns = tables.checkpoints.c
        row = {"run": run, "epoch": checkpoint.epoch, "file": checkpoint.file, "sha256": checkpoint.sha256}
        with self.engine.begin() as connection:
            replaced = delete(tables.checkpoints).where(columns.run == run, columns.epoch >= checkpoint.epoch)
            files = list(connection.scalars(replaced.returning(columns.file)))
            statement = upsert(tables.checkpoints, connection.dialect.name)
            connection.execute(statement, row | {"at": current_call().asked_at})
            epochs = select(columns.epoch).where(columns.run == run).order_by(columns.epoch.desc()).offset(keep)
            old = columns.epoch.in_(list(connection.scalars(epochs)))
            files += connection.scalars(
                delete(tables.checkpoints).where(columns.run == run, old).returning(columns.file)
            )
        return tuple(file for file in files if file != checkpoint.file)

    def checkpoints(self, run: int) -> tuple[Checkpoint, ...]:
        """Return the checkpoints of `run`, newest first."""
        columns = tables.checkpoints.c
        query = select(columns.epoch, columns.file, columns.sha256).where(columns.run == run)
        rows = self.rows(query.order_by(columns.epoch.desc()))
        return tuple(Checkpoint(row.epoch, row.file, row.sha256) for row in rows)

    def forget_checkpoints(self, run: int) -> None:
        """Forget all checkpoints of `run`."""
        with self.engine.begin() as connection:
            connection.execute(delete(tables.checkpoints).where(tables.checkpoints.c.run == run))

    def save_weights(self, run: int, tensors: bytes) -> None:
        """Keep the trained weights of `run`, a safetensors file."""
        row = {"run": run, "sha256": hashlib.sha256(tensors).hexdigest(), "tensors": tensors}
        with self.engine.begin() as connection:
            connection.execute(upsert(tables.weights, connection.dialect.name), row)

    def weights(self, run: int) -> bytes | None:
        """Return the weights of `run`, a safetensors file, or None if none were kept.

        Raises:
            BudgetnasError: If they are damaged.
        """
        query = select(tables.weights.c.sha256, tables.weights.c.tensors).where(tables.weights.c.run == run)
        row = next(iter(self.rows(query)), None)
        if row is None:
            return None
        tensors = bytes(row.tensors)
        if hashlib.sha256(tensors).hexdigest() != row.sha256:
            raise BudgetnasError(
                f"the stored weights of run {run} are damaged: their SHA-256 is not the recorded one; "
                "restore the storage from a copy, or export another run"
            )
        return tensors
