"""Records of runs and their epochs: the authoritative account of what was trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, case, delete, func, insert, select, update

from budgetnas.architecture import Architecture
from budgetnas.metrics import Epoch, Measure
from budgetnas.space.recipe import Recipe
from budgetnas.storage import tables
from budgetnas.storage.leases import Holder, this_process
from budgetnas.storage.rejection_records import save_architectures
from budgetnas.storage.retry import current_call, retried_methods
from budgetnas.storage.store import Store, forget_earlier_try, upsert
from budgetnas.storage.values import (
    SEARCHED,
    Attempt,
    Role,
    Run,
    RunKey,
    SearchCounts,
    State,
    counts_from_json,
    counts_to_json,
    or_nan,
    or_null,
)

_RUN: Final = (
    select(
        tables.runs,
        tables.architectures.c.architecture.label("architecture_json"),
        tables.architectures.c.params,
        tables.architectures.c.macs,
        tables.architectures.c.activations,
    )
    .join(tables.architectures, tables.runs.c.architecture == tables.architectures.c.digest)
    .order_by(tables.runs.c.id)
)
_SEARCHED: Final = tuple(role.value for role in SEARCHED)
_EPOCH_FIGURES: Final = tuple(name for name in Epoch.__dataclass_fields__ if name != "eval_correct")
_RUN_FIELDS: Final = tuple(Run.__dataclass_fields__)
_SET_EPOCHS_DONE: Final = (
    update(tables.runs).where(tables.runs.c.id == bindparam("of_run")).values(epochs_done=bindparam("done"))
)


@retried_methods
class RunRecords(Store):
    """Writes and reads runs."""

    # Writing

    def start_run(
        self,
        *,
        key: RunKey,
        architecture: Architecture,
        recipe: Recipe,
        data: str,
        environment: str,
        study: str | None = None,
        trial: int | None = None,
        label: str = "",
    ) -> int:
        """Record the start of a run; return its number."""
        row = {
            "study": study,
            "trial": trial,
            "role": key.role.value,
            "label": label,
            "architecture": key.architecture,
            "recipe_digest": key.recipe,
            "data_digest": key.data,
            "seed": key.seed,
            "recipe": recipe.canonical_json(),
            "data": data,
            "environment": environment,
            "state": State.RUNNING.value,
            "reason": "",
            "epochs_asked": recipe.epochs,
            "epochs_done": 0,
            "started_at": current_call().asked_at,
        }
        with self.engine.begin() as connection:
            forget_earlier_try(connection, tables.runs, row)
            save_architectures(connection, [architecture])
            run = int(connection.execute(insert(tables.runs).values(row).returning(tables.runs.c.id)).scalar_one())
            _add_attempt(connection, run, 0, environment)
            return run

    def reopen_run(self, run: int, trial: int | None) -> None:
        """Record that an interrupted run continues, for `trial`; `resume_run` then records from which epoch."""
        values = {"state": State.RUNNING.value, "reason": "", "trial": trial, "ended_at": None}
        with self.engine.begin() as connection:
            connection.execute(update(tables.runs).where(tables.runs.c.id == run).values(values))

    def resume_run(self, run: int, epochs: int, environment: str) -> None:
        """Record that this process resumes `run` after `epochs` epochs, and delete all later epochs.

        A run that restarts from epoch 0 gets the environment of this process. Otherwise the run keeps the environment
        of its first epochs, and the environment of this process is recorded with its attempt.
        """
        later = (tables.epochs.c.run == run) & (tables.epochs.c.epoch > epochs)
        readings = (tables.test_readings.c.run == run) & (tables.test_readings.c.epoch > epochs)
        values: dict[str, Any] = {"epochs_done": epochs} | ({} if epochs else {"environment": environment})
        with self.engine.begin() as connection:
            connection.execute(delete(tables.epochs).where(later))
            connection.execute(delete(tables.test_readings).where(readings))
            connection.execute(update(tables.runs).where(tables.runs.c.id == run).values(values))
            _add_attempt(connection, run, epochs, environment)

    def restart_run(self, run: int, environment: str) -> None:
        """Delete the epochs of `run`, which starts again in another environment (a smaller micro-batch)."""
        with self.engine.begin() as connection:
            connection.execute(delete(tables.epochs).where(tables.epochs.c.run == run))
            values = {"epochs_done": 0, "environment": environment}
            connection.execute(update(tables.runs).where(tables.runs.c.id == run).values(values))
            _add_attempt(connection, run, 0, environment)

    def add_epoch(self, run: int, epoch: Epoch, *, test_reason: str | None = None) -> None:
        """Record an epoch of `run`; with `test_reason`, also that it was evaluated on a test split."""
        row: dict[str, Any] = {name: or_null(getattr(epoch, name)) for name in _EPOCH_FIGURES}
        row |= {"run": run, "eval_correct": counts_to_json(epoch.eval_correct)}
        with self.engine.begin() as connection:
            connection.execute(upsert(tables.epochs, connection.dialect.name), row)
            connection.execute(_SET_EPOCHS_DONE, {"of_run": run, "done": epoch.epoch})
            if test_reason is not None:
                reading = {"run": run, "epoch": epoch.epoch, "accuracy": epoch.eval_accuracy, "reason": test_reason}
                reading |= {"balanced_accuracy": row["eval_balanced_accuracy"], "correct": row["eval_correct"]}
                reading |= {"at": current_call().asked_at}
                forget_earlier_try(connection, tables.test_readings, reading)
                connection.execute(insert(tables.test_readings).values(reading))

    def finish_run(self, run: int, state: State, reason: str = "", *, weights_sha256: str | None = None) -> None:
        """Record how a run ended and the SHA-256 of its weights, to compare weights bit for bit later.

        Unless the run was interrupted, the records of its checkpoints are deleted.
        """
        values: dict[str, Any] = {"state": state.value, "reason": reason, "weights_sha256": weights_sha256}
        values |= {"ended_at": current_call().asked_at}
        with self.engine.begin() as connection:
            if state is not State.INTERRUPTED:
                connection.execute(delete(tables.checkpoints).where(tables.checkpoints.c.run == run))
            connection.execute(update(tables.runs).where(tables.runs.c.id == run).values(values))

    def interrupt_runs_of(self, study: str, trial: int) -> None:
        """Mark the running runs of a trial as interrupted, because their process is gone or was asked to stop."""
        runs, now = tables.runs.c, current_call().asked_at
        values = {"state": State.INTERRUPTED.value, "reason": "interrupted", "ended_at": now}
        running = (runs.study == study) & (runs.trial == trial) & (runs.state == State.RUNNING.value)
        if current_call().repeated:  # another process may train the trial by now
            running &= runs.started_at < now
        with self.engine.begin() as connection:
            connection.execute(update(tables.runs).where(running).values(values))

    # Looking up by key

    def find_complete(self, key: RunKey, *, study: str | None = None) -> Run | None:
        """Return the first complete run of that key in `study` (None: replays), or None."""
        return self._find(key, study, State.COMPLETE)

    def find_claimed(self, key: RunKey, *, study: str | None) -> Run | None:
        """Return a run of that key in `study`: complete or pruned, else in training, else failed, else None."""
        return self._find(key, study, State.COMPLETE, State.PRUNED, State.RUNNING, State.FAILED)

    def find_usable(self, key: RunKey, *, study: str | None) -> Run | None:
        """Return a run of that key in `study`: complete or pruned, else in training, else to resume, else None."""
        return self._find(key, study, State.COMPLETE, State.PRUNED, State.RUNNING, State.INTERRUPTED)

    def failed_since(self, key: RunKey, *, study: str | None, at: float) -> Run | None:
        """Return a run of that key in `study` that failed at `at` (seconds since 1970 UTC) or later, or None."""
        runs = tables.runs.c
        failed = [*self._key(key, study), runs.state == State.FAILED.value, runs.ended_at >= at]
        return next(iter(self._runs(_RUN.where(*failed))), None)

    def repeat_seed(self, key: RunKey, *, study: str | None, trial: int | None) -> int:
        """Return the seed of a repeat: that of `trial`'s earlier run if there is one, else the candidate's next seed.

        Call it under the storage's lock, kept until the run is recorded, so that no two repeats get the same seed.
        """
        runs = tables.runs.c
        query = select(runs.seed, runs.trial, runs.role).where(
            runs.architecture == key.architecture,
            runs.recipe_digest == key.recipe,
            runs.data_digest == key.data,
            runs.role.in_(_SEARCHED),
            runs.study == study,
            runs.started_at != current_call().asked_at,  # not the run that an earlier try of this call started
        )
        rows = self.rows(query)
        own = [row.seed for row in rows if row.role == Role.REPEAT.value and row.trial == trial]
        return int(max(own) if own else max((row.seed for row in rows), default=0) + 1)

    # Reading

    def run(self, run: int) -> Run:
        """Return the run of that number."""
        return self._runs(_RUN.where(tables.runs.c.id == run))[0]

    def run_of_trial(self, study: str, trial: int) -> Run | None:
        """Return the last run of a search trial, or None."""
        runs = tables.runs.c
        query = _RUN.where(runs.study == study, runs.trial == trial).order_by(None).order_by(runs.id.desc()).limit(1)
        return next(iter(self._runs(query)), None)

    def runs(self, *, study: str | None = None, role: Role | None = None) -> tuple[Run, ...]:
        """Return the runs of a study, or of a role, or all, oldest first."""
        query = _RUN
        if study is not None:
            query = query.where(tables.runs.c.study == study)
        if role is not None:
            query = query.where(tables.runs.c.role == role.value)
        return self._runs(query)

    def search_runs_beyond(self, study: str, newest: int, also: Iterable[int]) -> tuple[Run, ...]:
        """Return a study's search runs with a number above `newest` or in `also`."""
        runs = tables.runs.c
        search = runs.role.in_(_SEARCHED)
        return self._runs(_RUN.where(runs.study == study, search, (runs.id > newest) | runs.id.in_(list(also))))

    def last_run(self) -> int:
        """Return the number of the newest run, or 0."""
        return int(self.scalar(select(func.max(tables.runs.c.id))) or 0)

    def last_run_before(self, at: float) -> int:
        """Return the number of the newest run that had started at a time (seconds since 1970 UTC), or 0."""
        return int(self.scalar(select(func.max(tables.runs.c.id)).where(tables.runs.c.started_at < at)) or 0)

    def runs_ended(self) -> int:
        """Return how many runs of the storage have ended."""
        return int(self.scalar(select(func.count(tables.runs.c.ended_at))) or 0)

    def last_reasons(self, study: str, *, after: int, limit: int) -> tuple[str | None, ...]:
        """Return the failure reasons of the last search runs that ended, newest first; None for a success.

        At most `limit` runs with a number above `after` are considered.
        """
        runs = tables.runs.c
        ended = [state.value for state in (State.COMPLETE, State.PRUNED, State.FAILED)]
        query = (
            select(runs.state, runs.reason)
            .where(runs.study == study, runs.id > after, runs.role.in_(_SEARCHED), runs.state.in_(ended))
            .order_by(runs.ended_at.desc(), runs.id.desc())
            .limit(limit)
        )
        rows = self.rows(query)
        return tuple(row.reason if row.state == State.FAILED.value else None for row in rows)

    def is_unfinished(self, run: int) -> bool:
        """Return whether that run exists and is in training or can be resumed."""
        unfinished = [State.RUNNING.value, State.INTERRUPTED.value]
        query = select(func.count()).where(tables.runs.c.id == run, tables.runs.c.state.in_(unfinished))
        return bool(self.scalar(query))

    def attempts(self, run: int) -> tuple[Attempt, ...]:
        """Return the processes that trained `run`, in order."""
        attempts = tables.attempts.c
        query = select(tables.attempts).where(attempts.run == run).order_by(attempts.id)
        return tuple(
            Attempt(row.epochs_before, row.environment, Holder(row.host, row.pid, 0.0).describe(), row.started_at)
            for row in self.rows(query)
        )

    def search_counts(self, study: str) -> SearchCounts:
        """Return counts of the search runs of `study`."""
        runs = tables.runs.c
        failed, pruned, complete = (runs.state == state.value for state in (State.FAILED, State.PRUNED, State.COMPLETE))
        query = select(
            func.count(runs.trial.distinct()),
            func.count().filter(failed),
            func.count().filter(pruned),
            func.count().filter(complete & (runs.role == Role.REPEAT.value)),
        ).where(runs.study == study, runs.role.in_(_SEARCHED))
        (row,) = self.rows(query)
        return SearchCounts(*map(int, row))

    def curve(self, run: int) -> tuple[Epoch, ...]:
        """Return the epochs of `run`, in order."""
        return self.curves([run]).get(run, ())

    def curves(self, runs: Iterable[int]) -> dict[int, tuple[Epoch, ...]]:
        """Return the epochs, in order, of each of `runs` that has any."""
        query = select(tables.epochs).where(tables.epochs.c.run.in_(list(runs))).order_by(tables.epochs.c.epoch)
        curves: dict[int, list[Epoch]] = {}
        for row in self.rows(query):
            figures = {name: or_nan(getattr(row, name)) for name in _EPOCH_FIGURES}
            curves.setdefault(row.run, []).append(Epoch(**figures, eval_correct=counts_from_json(row.eval_correct)))
        return {run: tuple(epochs) for run, epochs in curves.items()}

    def values_at(
        self, study: str, epoch: int, measure: Measure, *, states: Sequence[State], except_run: int
    ) -> tuple[float, ...]:
        """Return what the search's runs had after `epoch` on validation, oldest first, for pruning.

        Initial trials and repeats are left out. Each candidate counts once if `states` excludes interrupted runs,
        because only interrupted runs are trained again.

        The run `except_run`, which is compared with them, is left out.
        """
        runs, epochs = tables.runs.c, tables.epochs.c
        value = epochs[measure.column]
        query = (
            select(value)
            .join(tables.runs, epochs.run == runs.id)
            .where(
                runs.study == study,
                runs.role == Role.SEARCH.value,
                runs.label == "",
                runs.state.in_([state.value for state in states]),
                runs.id != except_run,
                epochs.epoch == epoch,
                value.is_not(None),
            )
            .order_by(runs.id)
        )
        return tuple(row[0] for row in self.rows(query))

    def test_readings(self, run: int) -> int:
        """Return how often `run` was evaluated on the test split."""
        query = select(func.count()).select_from(tables.test_readings).where(tables.test_readings.c.run == run)
        return int(self.scalar(query) or 0)

    def _find(self, key: RunKey, study: str | None, *states: State) -> Run | None:
        """Return a run in the first of `states` that there is; one query, since a run may end between two."""
        runs, places = tables.runs.c, {state.value: place for place, state in enumerate(states)}
        query = _RUN.where(
            *self._key(key, study),
            runs.state.in_(places),
            runs.started_at != current_call().asked_at,  # not the run that an earlier try of this call started
        )
        first = query.order_by(None).order_by(case(places, value=runs.state), runs.id).limit(1)
        return next(iter(self._runs(first)), None)

    @staticmethod
    def _key(key: RunKey, study: str | None) -> list[Any]:
        runs = tables.runs.c
        return [
            runs.architecture == key.architecture,
            runs.recipe_digest == key.recipe,
            runs.data_digest == key.data,
            runs.seed == key.seed,
            runs.role == key.role.value,
            runs.study == study,
        ]

    def _runs(self, query: Select[Any]) -> tuple[Run, ...]:
        return tuple(_run(row) for row in self.rows(query))


def _add_attempt(connection: Connection, run: int, epochs: int, environment: str) -> None:
    process = this_process()
    row = {"run": run, "epochs_before": epochs, "environment": environment, "host": process.host, "pid": process.pid}
    row |= {"started_at": current_call().asked_at}
    forget_earlier_try(connection, tables.attempts, row)
    connection.execute(insert(tables.attempts).values(row))


def _run(row: Row[Any]) -> Run:
    values: dict[str, Any] = {name: row._mapping[name] for name in _RUN_FIELDS}
    return Run(
        **values
        | {
            "architecture": Architecture.from_json(row.architecture_json),
            "recipe": Recipe.model_validate_json(row.recipe),
            "role": Role(row.role),
            "state": State(row.state),
        }
    )
