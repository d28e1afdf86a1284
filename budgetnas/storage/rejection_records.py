"""Records of proposals that were rejected before anything was built, and of architectures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, func, insert, select

from budgetnas.architecture import Architecture, Counts, count
from budgetnas.architecture.budget import Budget, Limit, Quantity
from budgetnas.storage import tables
from budgetnas.storage.retry import current_call, retried_methods
from budgetnas.storage.store import Store, forget_earlier_try, upsert
from budgetnas.storage.values import OverLimit, Rejection

_STORED: Final[tuple[Quantity, ...]] = ("params", "macs", "activations")
"""Quantities with a column; those in bytes follow from the architecture."""


@retried_methods
class RejectionRecords(Store):
    """Writes and reads rejections."""

    def reject(self, study: str, rejections: Sequence[Rejection]) -> None:
        """Record rejected proposals, all in one transaction."""
        if not rejections:
            return
        now = current_call().asked_at
        rows = [
            {
                "study": study,
                "trial": rejection.trial,
                "origin": rejection.origin,
                "duplicate": rejection.duplicate,
                "architecture": rejection.architecture.digest,
                "max_params": rejection.max_params,
                "overshoot": rejection.overshoot,
                "at": now,
            }
            for rejection in rejections
        ]
        with self.engine.begin() as connection:
            for row in rows:
                forget_earlier_try(connection, tables.rejections, row)
            save_architectures(connection, [rejection.architecture for rejection in rejections])
            connection.execute(insert(tables.rejections), rows)

    def rejections(self, study: str) -> tuple[Rejection, ...]:
        """Return the rejected proposals of `study`, oldest first."""
        rejections = tables.rejections.c
        query = (
            select(tables.rejections, tables.architectures.c.architecture.label("architecture_json"))
            .join(tables.architectures, rejections.architecture == tables.architectures.c.digest)
            .where(rejections.study == study)
            .order_by(rejections.id)
        )
        return tuple(_rejection(row) for row in self.rows(query))

    def rejection_counts(self, study: str) -> tuple[int, int]:
        """Return how many proposals of `study` were rejected: over the budget, and as duplicates."""
        rejections = tables.rejections.c
        query = select(func.count(), func.count().filter(rejections.duplicate)).where(rejections.study == study)
        ((total, duplicates),) = (tuple(row) for row in self.rows(query))
        return int(total) - int(duplicates), int(duplicates)

    def over_limits(self, study: str, budget: Budget) -> tuple[OverLimit, ...]:
        """Return for each limit of the budget how many proposals of `study` were over it."""
        numbers = dict(self._over_stored(study, [limit for limit in budget.limits if limit.quantity in _STORED]))
        others = [limit for limit in budget.limits if limit.quantity not in _STORED]
        if others:
            numbers |= self._over_derived(study, others)
        return tuple(OverLimit(limit.quantity, limit.value, numbers[limit.quantity]) for limit in budget.limits)

    def _over_stored(self, study: str, limits: Sequence[Limit]) -> dict[Quantity, int]:
        counts = tables.architectures.c
        columns = (func.count().filter(counts[limit.quantity] > limit.value) for limit in limits)
        (row,) = self.rows(_over_budget(study).add_columns(*columns))
        return {limit.quantity: int(number) for limit, number in zip(limits, row, strict=True)}

    def _over_derived(self, study: str, limits: Sequence[Limit]) -> dict[Quantity, int]:
        network = tables.architectures.c.architecture
        rows = self.rows(_over_budget(study).add_columns(network, func.count()).group_by(network))
        proposals = [(_counts_of(text), int(number)) for text, number in map(tuple[Any, ...], rows)]
        return {
            limit.quantity: sum(number for counts, number in proposals if limit.count(counts) > limit.value)
            for limit in limits
        }


def _over_budget(study: str) -> Select[Any]:
    """Return a query of the proposals of `study` that were over the budget, without columns."""
    rejections = tables.rejections.c
    joined = tables.rejections.join(tables.architectures)
    return select().select_from(joined).where(rejections.study == study, ~rejections.duplicate)


@lru_cache(maxsize=1 << 17)
def _counts_of(architecture: str) -> Counts:
    """Return the counts of an architecture's JSON, cached: a search counts its rejections after every trial."""
    return count(Architecture.from_json(architecture))


def save_architectures(connection: Connection, architectures: Iterable[Architecture]) -> None:
    """Record architectures and their counts, where they are not recorded yet."""
    rows = []
    for digest, architecture in {architecture.digest: architecture for architecture in architectures}.items():
        row: dict[str, Any] = {"digest": digest, "architecture": architecture.to_json()}
        counts = count(architecture)
        rows.append(row | {quantity: getattr(counts, quantity) for quantity in _STORED})
    connection.execute(upsert(tables.architectures, connection.dialect.name, keep=True), rows)


def _rejection(row: Row[Any]) -> Rejection:
    architecture = Architecture.from_json(row.architecture_json)
    return Rejection(architecture, row.origin, row.max_params, row.overshoot, row.duplicate, row.trial)
