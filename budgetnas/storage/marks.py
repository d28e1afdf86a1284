"""What the trials of a study had after an epoch: what a trial is compared with that may end early."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from budgetnas.storage import tables
from budgetnas.storage.records import Records
from budgetnas.storage.retry import patient
from budgetnas.storage.values import Role, State


@patient
def accuracies_at(records: Records, study: str, epoch: int, *, states: Sequence[State], but: int) -> tuple[float, ...]:
    """Return the validation accuracies that the searched candidates of `study` had after `epoch`, oldest run first.

    One statement, whatever process trained them. Seed trials are left out.

    Args:
        records: Where they are recorded.
        study: Name of the study.
        epoch: The epoch.
        states: How a training must stand to count. Without interrupted ones each candidate counts once: it is trained
            again after an interruption, and never otherwise.
        but: Number of the run that is compared with them.
    """
    run, epochs = tables.runs.c, tables.epochs.c
    query = (
        select(epochs.eval_accuracy)
        .join(tables.runs, epochs.run == run.id)
        .where(
            run.study == study,
            run.role == Role.SEARCH.value,
            run.label == "",
            run.state.in_([state.value for state in states]),
            run.id != but,
            epochs.epoch == epoch,
            epochs.eval_accuracy.is_not(None),
        )
        .order_by(run.id)
    )
    with records.engine.connect() as connection:
        return tuple(connection.scalars(query))
