"""Optuna's storage with retries: an operation is repeated while the database cannot be reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar, cast

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialIntermediateValueModel, TrialModel
from optuna.trial import TrialState
from sqlalchemy import Table, bindparam, select

from budgetnas.storage.engine import share
from budgetnas.storage.retry import current_call, database_error, retried
from budgetnas.storage.store import upsert

_BEHIND_THE_CACHE: Final = (
    "_create_new_trial",
    "_set_trial_param",
    "_get_trials",
    "_get_best_trial_id",
    "_get_stale_trial_ids",
)
"""Private operations that Optuna's cache calls, which every study puts before its storage."""
_NOT_REPEATED: Final = ("remove_session", "upgrade")
_STATE: Final = select(TrialModel.state).where(TrialModel.trial_id == bindparam("trial"))
_VALUES: Final = cast(Table, TrialIntermediateValueModel.__table__)

P = ParamSpec("P")
R = TypeVar("R")


def _with_retries(operation: Callable[P, R]) -> Callable[P, R]:
    """Return an operation with retries that raises the database's own errors."""
    repeated = retried(operation)

    @wraps(operation)
    def operate(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return repeated(*arguments, **named)
        except StorageInternalError as error:
            raise database_error(error) or error from None

    return operate


class SharedStorage(RDBStorage):
    """Optuna's storage in a database that several processes share and that may be unreachable for a while.

    Each operation is repeated by `budgetnas.storage.retry.retried`. Most operations are idempotent: they overwrite a
    value, or find the row of the earlier try. The others matter if a COMMIT succeeded but its confirmation was lost:

    - Ending a trial: if it already has the new state and values, the earlier try set them.
    - Requeueing a trial: if its start time has changed, the earlier try requeued it and another process then started
      it. It is left alone.
    - Starting a waiting trial: the earlier try or another process may have started it. It is left to that process; if
      no process has a lease on it, it is recovered with the stale trials.
    - Creating a trial: it may exist twice. The copy is either running without a lease and is recovered with the stale
      trials, or it is waiting and gets its result from the record of the first.
    - Creating a study: it already exists, and `optuna.create_study` loads it.

    Errors of the database are raised as SQLAlchemy's, not as Optuna's "typically happens due to invalid data".
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(url, engine_kwargs)
        share(self.engine)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        share(self.engine)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set the state of a trial, and its values if given; return whether it was set."""
        if state is TrialState.WAITING:
            return self._queue(trial_id, self.get_trial(trial_id).datetime_start)
        return self._change(trial_id, state, values)

    @_with_retries
    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Store the value of an epoch, or replace it, in two statements: half the time of Optuna's own method."""
        value, kind = TrialIntermediateValueModel.intermediate_value_to_stored_repr(intermediate_value)
        row = {"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind}
        with self.engine.begin() as connection:
            state = connection.scalar(_STATE, {"trial": trial_id})
            if state is not None and not state.is_finished():
                connection.execute(upsert(_VALUES, connection.dialect.name, keys=("trial_id", "step")), row)
                return
        if state is None:
            raise KeyError(f"no trial has the id {trial_id}")
        self.check_trial_is_updatable(trial_id, state)  # raises; it reads the trial, so not inside the transaction

    @_with_retries
    def _queue(self, trial_id: int, started: datetime | None) -> bool:
        if current_call().repeated:
            trial = self.get_trial(trial_id)
            if trial.state is TrialState.RUNNING and trial.datetime_start != started:
                return False
        return super().set_trial_state_values(trial_id, TrialState.WAITING)

    @_with_retries
    def _change(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> bool:
        try:
            return super().set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            trial = self.get_trial(trial_id)
            same = trial.state is state and trial.values == (None if values is None else list(values))
            if not current_call().repeated or not same:
                raise
            return True

    @_with_retries
    def delete_study(self, study_id: int) -> None:
        """Delete a study."""
        try:
            super().delete_study(study_id)
        except KeyError:
            if not current_call().repeated:
                raise


def _inherited() -> set[str]:
    public = {name for name in dir(RDBStorage) if not name.startswith("_") and callable(getattr(RDBStorage, name))}
    return (public | set(_BEHIND_THE_CACHE)) - set(_NOT_REPEATED) - set(vars(SharedStorage))


for _name in _inherited():
    setattr(SharedStorage, _name, _with_retries(getattr(RDBStorage, _name)))
