"""Reading and writing the records of trainings: the truth about what was trained."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, Table, delete, func, insert, inspect, select, update
from sqlalchemy.dialects import postgresql, sqlite

from budgetnas.architecture import Architecture, count
from budgetnas.epoch import Epoch
from budgetnas.errors import BudgetnasError, InputError
from budgetnas.recipe import Recipe
from budgetnas.storage import tables
from budgetnas.storage.patience import current_call, patient_methods
from budgetnas.storage.values import Rejection, Role, Run, RunKey, SearchCounts, State

_RUN = (
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
_EPOCH_FIELDS = tuple(Epoch.__dataclass_fields__)


def create_tables(engine: Engine) -> None:
    """Create our tables where they are missing; the caller holds the storage's lock.

    Raises:
        InputError: If they are there in another version.
    """
    tables.schema.create(engine, checkfirst=True)
    version = _version(engine)
    tables.metadata.create_all(engine)
    if version is None:
        with engine.begin() as connection:
            connection.execute(insert(tables.schema).values(version=tables.SCHEMA_VERSION))


def require_tables(engine: Engine) -> None:
    """Check that our tables are there, and create nothing.

    Raises:
        InputError: If they are not, or are there in another version.
    """
    if not inspect(engine).has_table(tables.schema.name) or _version(engine) is None:
        raise InputError(
            "--storage", None, "holds no study of budgetnas", "name the storage that a search was run with"
        )


def _version(engine: Engine) -> int | None:
    with engine.connect() as connection:
        version = connection.scalar(select(tables.schema.c.version))
    if version not in (None, tables.SCHEMA_VERSION):
        raise InputError(
            "--storage",
            None,
            f"its tables have version {version}, this program's have {tables.SCHEMA_VERSION}",
            "use the budgetnas that made it, or another storage",
        )
    return version


@patient_methods(but=("close",))
class Records:
    """The records of one storage.

    Every method is one transaction, and is repeated where the database was away: what a method writes must be written
    once also where an earlier try was committed and only the answer was lost.

    Args:
        engine: An engine of `budgetnas.storage.engine.open_engine`, its tables created.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def close(self) -> None:
        """Close all connections to the storage."""
        self.engine.dispose()

    # Specifications

    def save_specification(self, study: str, specification: str, digest: str) -> None:
        """Keep the specification that a study is created with."""
        row = {"study": study, "specification": specification, "digest": digest, "created_at": current_call().asked_at}
        with self.engine.begin() as connection:
            _forget_earlier_try(connection, tables.specifications, row)
            connection.execute(insert(tables.specifications).values(row))

    def specification(self, study: str) -> str | None:
        """Return the JSON that `study` was created with, or nothing."""
        query = select(tables.specifications.c.specification).where(tables.specifications.c.study == study)
        with self.engine.connect() as connection:
            found: str | None = connection.scalar(query)
            return found

    def study_names(self) -> tuple[str, ...]:
        """Return the names of all studies, oldest first."""
        query = select(tables.specifications.c.study).order_by(tables.specifications.c.created_at)
        with self.engine.connect() as connection:
            return tuple(connection.scalars(query))

    # Runs

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
        """Record the start of a training; return its number."""
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
            _forget_earlier_try(connection, tables.runs, row)
            _save_architectures(connection, [architecture])
            run = connection.execute(insert(tables.runs).values(row).returning(tables.runs.c.id)).scalar_one()
            return int(run)

    def add_epoch(self, run: int, epoch: Epoch, *, test_reason: str | None = None) -> None:
        """Record an epoch of `run`; with `test_reason`, also that its evaluation was a look at a test split."""
        with self.engine.begin() as connection:
            _forget_earlier_try(connection, tables.epochs, {"run": run, "epoch": epoch.epoch})
            row = {"run": run} | {name: _or_null(getattr(epoch, name)) for name in _EPOCH_FIELDS}
            connection.execute(insert(tables.epochs).values(row))
            connection.execute(update(tables.runs).where(tables.runs.c.id == run).values(epochs_done=epoch.epoch))
            if test_reason is not None:
                reading = {"run": run, "epoch": epoch.epoch, "accuracy": epoch.eval_accuracy, "reason": test_reason}
                reading |= {"at": current_call().asked_at}
                _forget_earlier_try(connection, tables.test_readings, reading)
                connection.execute(insert(tables.test_readings).values(reading))

    def restart_run(self, run: int, environment: str) -> None:
        """Forget the epochs of `run`, which begins again in another environment (a smaller micro-batch)."""
        with self.engine.begin() as connection:
            connection.execute(delete(tables.epochs).where(tables.epochs.c.run == run))
            values = {"epochs_done": 0, "environment": environment}
            connection.execute(update(tables.runs).where(tables.runs.c.id == run).values(values))

    def finish_run(self, run: int, state: State, reason: str = "") -> None:
        """Record how a training ended."""
        values = {"state": state.value, "reason": reason, "ended_at": current_call().asked_at}
        with self.engine.begin() as connection:
            connection.execute(update(tables.runs).where(tables.runs.c.id == run).values(values))

    def interrupt_runs_of(self, study: str, trial: int) -> None:
        """Mark the running trainings of a trial as interrupted: their process is gone or was told to stop."""
        now = current_call().asked_at
        values = {"state": State.INTERRUPTED.value, "reason": "interrupted", "ended_at": now}
        running = (
            (tables.runs.c.study == study)
            & (tables.runs.c.trial == trial)
            & (tables.runs.c.state == State.RUNNING.value)
        )
        if current_call().repeated:  # by now another process may train the trial
            running &= tables.runs.c.started_at < now
        with self.engine.begin() as connection:
            connection.execute(update(tables.runs).where(running).values(values))

    def find_complete(self, key: RunKey, *, study: str | None = None) -> Run | None:
        """Return the first complete training of that key in `study` (nothing: replays), or nothing."""
        return self._find(key, study, (State.COMPLETE,))

    def find_claimed(self, key: RunKey, *, study: str) -> Run | None:
        """Return a training of that key in `study` that is complete, pruned or being made, or nothing."""
        return self._find(key, study, (State.COMPLETE, State.PRUNED, State.RUNNING))

    def _find(self, key: RunKey, study: str | None, states: tuple[State, ...]) -> Run | None:
        one = tables.runs.c
        query = _RUN.where(
            one.architecture == key.architecture,
            one.recipe_digest == key.recipe,
            one.data_digest == key.data,
            one.seed == key.seed,
            one.role == key.role.value,
            one.study == study,
            one.state.in_([state.value for state in states]),
        ).limit(1)
        if current_call().repeated:  # an earlier try of this call may have begun the run that is looked for
            query = query.where(one.started_at != current_call().asked_at)
        found = self._runs(query)
        return found[0] if found else None

    def run(self, run: int) -> Run:
        """Return the record of that number."""
        return self._runs(_RUN.where(tables.runs.c.id == run))[0]

    def runs(self, *, study: str | None = None, role: Role | None = None) -> tuple[Run, ...]:
        """Return the trainings of a study, or of a role, or all, oldest first."""
        query = _RUN
        if study is not None:
            query = query.where(tables.runs.c.study == study)
        if role is not None:
            query = query.where(tables.runs.c.role == role.value)
        return self._runs(query)

    def search_counts(self, study: str) -> SearchCounts:
        """Return counts of what `study` trained in its search."""
        one = tables.runs.c
        failed, pruned = (one.state == state.value for state in (State.FAILED, State.PRUNED))
        query = select(
            func.count(one.trial.distinct()),
            func.count().filter(failed),
            func.count().filter(pruned),
            func.coalesce(func.sum(one.epochs_asked - one.epochs_done).filter(pruned), 0),
        ).where(one.study == study, one.role == Role.SEARCH.value)
        with self.engine.connect() as connection:
            return SearchCounts(*map(int, connection.execute(query).one()))

    def curve(self, run: int) -> tuple[Epoch, ...]:
        """Return the epochs of `run`, in order."""
        return self.curves([run]).get(run, ())

    def curves(self, runs: Iterable[int]) -> dict[int, tuple[Epoch, ...]]:
        """Return the epochs of each of `runs` that has any, in order."""
        wanted = list(runs)
        query = select(tables.epochs).where(tables.epochs.c.run.in_(wanted)).order_by(tables.epochs.c.epoch)
        found: dict[int, list[Epoch]] = {}
        with self.engine.connect() as connection:
            for row in connection.execute(query).mappings():
                epoch = Epoch(**{name: _or_nan(row[name]) for name in _EPOCH_FIELDS})
                found.setdefault(row["run"], []).append(epoch)
        return {run: tuple(epochs) for run, epochs in found.items()}

    def test_readings(self, run: int) -> int:
        """Return how often the test split was looked at for `run`."""
        query = select(func.count()).select_from(tables.test_readings).where(tables.test_readings.c.run == run)
        with self.engine.connect() as connection:
            return int(connection.scalar(query) or 0)

    # Weights

    def save_weights(self, run: int, tensors: bytes) -> None:
        """Keep the trained weights of `run`, a safetensors file."""
        row = {"run": run, "sha256": hashlib.sha256(tensors).hexdigest(), "tensors": tensors}
        with self.engine.begin() as connection:
            connection.execute(delete(tables.weights).where(tables.weights.c.run == run))
            connection.execute(insert(tables.weights).values(row))

    def weights(self, run: int) -> bytes | None:
        """Return the weights that were kept of `run`, a safetensors file, or nothing.

        Raises:
            BudgetnasError: If they are damaged.
        """
        query = select(tables.weights.c.sha256, tables.weights.c.tensors).where(tables.weights.c.run == run)
        with self.engine.connect() as connection:
            found = connection.execute(query).one_or_none()
        if found is None:
            return None
        tensors = bytes(found.tensors)
        if hashlib.sha256(tensors).hexdigest() != found.sha256:
            raise BudgetnasError(f"the stored weights of run {run} are damaged: their SHA-256 is not the recorded one")
        return tensors

    # Rejections

    def reject(self, study: str, rejections: Sequence[Rejection]) -> None:
        """Record proposals that were turned away, all in one transaction."""
        if not rejections:
            return
        now = current_call().asked_at
        rows = [
            {
                "study": study,
                "trial": one.trial,
                "origin": one.origin,
                "duplicate": one.duplicate,
                "architecture": one.architecture.digest,
                "max_params": one.max_params,
                "overshoot": one.overshoot,
                "at": now,
            }
            for one in rejections
        ]
        with self.engine.begin() as connection:
            for row in rows:
                _forget_earlier_try(connection, tables.rejections, row)
            _save_architectures(connection, [one.architecture for one in rejections])
            connection.execute(insert(tables.rejections), rows)

    def rejections(self, study: str) -> tuple[Rejection, ...]:
        """Return what was turned away in `study`, oldest first."""
        one = tables.rejections.c
        query = (
            select(tables.rejections, tables.architectures.c.architecture.label("architecture_json"))
            .join(tables.architectures, one.architecture == tables.architectures.c.digest)
            .where(one.study == study)
            .order_by(one.id)
        )
        with self.engine.connect() as connection:
            return tuple(_rejection(row) for row in connection.execute(query))

    def rejection_counts(self, study: str) -> tuple[int, int]:
        """Return how many proposals were turned away in `study`: over the budget, and as duplicates."""
        one = tables.rejections.c
        query = select(one.duplicate, func.count()).where(one.study == study).group_by(one.duplicate)
        with self.engine.connect() as connection:
            counts = {bool(row[0]): int(row[1]) for row in connection.execute(query)}
        return counts.get(False, 0), counts.get(True, 0)

    def _runs(self, query: Select[Any]) -> tuple[Run, ...]:
        with self.engine.connect() as connection:
            return tuple(_run(row) for row in connection.execute(query))


def _or_null(value: float) -> float | None:
    """Return `value`, or nothing for not a number, which SQLite cannot hold."""
    return None if math.isnan(value) else value


def _or_nan(value: Any) -> Any:
    return math.nan if value is None else value


def _forget_earlier_try(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Delete the row that an earlier try of this call may have left; its times are those of the call."""
    if current_call().repeated:
        same = (table.c[name] == value for name, value in row.items())
        connection.execute(delete(table).where(*same))


def _save_architectures(connection: Connection, architectures: Iterable[Architecture]) -> None:
    rows = []
    for digest, architecture in {one.digest: one for one in architectures}.items():
        row: dict[str, Any] = {"digest": digest, "architecture": architecture.to_json()}
        rows.append(row | count(architecture)._asdict())
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(tables.architectures).on_conflict_do_nothing(index_elements=["digest"])
    connection.execute(statement, rows)


def _run(row: Row[Any]) -> Run:
    values = row._mapping
    return Run(
        id=values["id"],
        study=values["study"],
        trial=values["trial"],
        role=Role(values["role"]),
        label=values["label"],
        architecture=Architecture.from_json(values["architecture_json"]),
        params=values["params"],
        macs=values["macs"],
        activations=values["activations"],
        recipe=Recipe.model_validate_json(values["recipe"]),
        data=values["data"],
        seed=values["seed"],
        environment=values["environment"],
        state=State(values["state"]),
        reason=values["reason"],
        epochs_asked=values["epochs_asked"],
        epochs_done=values["epochs_done"],
        started_at=values["started_at"],
        ended_at=values["ended_at"],
    )


def _rejection(row: Row[Any]) -> Rejection:
    values = row._mapping
    return Rejection(
        architecture=Architecture.from_json(values["architecture_json"]),
        origin=values["origin"],
        max_params=values["max_params"],
        overshoot=values["overshoot"],
        duplicate=bool(values["duplicate"]),
        trial=values["trial"],
    )
