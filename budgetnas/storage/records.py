"""Reading and writing the records of trainings: the truth about what was trained."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, Table, delete, func, insert, inspect, select, update
from sqlalchemy.dialects import postgresql, sqlite

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import Budget
from budgetnas.errors import BudgetnasError, InputError
from budgetnas.metrics import Epoch
from budgetnas.space.recipe import Recipe
from budgetnas.storage import tables
from budgetnas.storage.fence import Fence
from budgetnas.storage.holders import Holder, this_process
from budgetnas.storage.retry import current_call, patient_methods
from budgetnas.storage.settings import Settings
from budgetnas.storage.values import (
    SEARCHED,
    Attempt,
    Broken,
    Checkpoint,
    Goal,
    Rejection,
    Role,
    Run,
    RunKey,
    SearchCounts,
    State,
)

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
_SEARCHED = tuple(role.value for role in SEARCHED)
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
        row = {"version": tables.SCHEMA_VERSION, "storage": uuid.uuid4().hex}
        with engine.begin() as connection:
            connection.execute(insert(tables.schema).values(row))


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
        settings: The operator's settings; nothing: those of the environment.

    Attributes:
        engine: The engine.
        settings: The operator's settings.
        fence: Guards the engine while this process holds a lease.
    """

    def __init__(self, engine: Engine, settings: Settings | None = None) -> None:
        self.engine = engine
        self.settings = Settings.of_environment() if settings is None else settings
        self.fence = Fence()
        self.fence.guard(engine)

    def close(self) -> None:
        """Close all connections to the storage."""
        self.engine.dispose()

    def storage_id(self) -> str:
        """Return the storage's random name, under which is kept what lies outside of it."""
        with self.engine.connect() as connection:
            return str(connection.scalar(select(tables.schema.c.storage)))

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

    def set_goal(self, study: str, trials: int, sampler: str) -> None:
        """Record what a search of `study` was asked for: workers that join it later go by the last one."""
        row = {"study": study, "trials": trials, "sampler": sampler, "at": current_call().asked_at}
        with self.engine.begin() as connection:
            connection.execute(delete(tables.goals).where(tables.goals.c.study == study))
            connection.execute(insert(tables.goals).values(row))

    def goal(self, study: str) -> Goal | None:
        """Return what the last search of `study` was asked for, or nothing."""
        query = select(tables.goals.c.trials, tables.goals.c.sampler).where(tables.goals.c.study == study)
        with self.engine.connect() as connection:
            found = connection.execute(query).one_or_none()
        return None if found is None else Goal(found.trials, found.sampler)

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
            run = int(connection.execute(insert(tables.runs).values(row).returning(tables.runs.c.id)).scalar_one())
            _add_attempt(connection, run, 0, environment)
            return run

    def take_up_run(self, run: int, trial: int | None) -> None:
        """Record that an interrupted training goes on, for `trial`; from where, `resume_run` tells."""
        values = {"state": State.RUNNING.value, "reason": "", "trial": trial, "ended_at": None}
        with self.engine.begin() as connection:
            connection.execute(update(tables.runs).where(tables.runs.c.id == run).values(values))

    def resume_run(self, run: int, epochs: int, environment: str) -> None:
        """Record that `run` goes on in this process after so many epochs, and forget those beyond.

        Begun anew, it has the environment of this process; else it keeps that of its first epochs, and the attempts
        hold each.
        """
        later = (tables.epochs.c.run == run) & (tables.epochs.c.epoch > epochs)
        looks = (tables.test_readings.c.run == run) & (tables.test_readings.c.epoch > epochs)
        values: dict[str, Any] = {"epochs_done": epochs} | ({} if epochs else {"environment": environment})
        with self.engine.begin() as connection:
            connection.execute(delete(tables.epochs).where(later))
            connection.execute(delete(tables.test_readings).where(looks))
            connection.execute(update(tables.runs).where(tables.runs.c.id == run).values(values))
            _add_attempt(connection, run, epochs, environment)

    def attempts(self, run: int) -> tuple[Attempt, ...]:
        """Return the processes that trained `run` in turn."""
        one = tables.attempts.c
        query = select(tables.attempts).where(one.run == run).order_by(one.id)
        with self.engine.connect() as connection:
            return tuple(
                Attempt(row.epochs_before, row.environment, Holder(row.host, row.pid, 0.0).describe(), row.started_at)
                for row in connection.execute(query)
            )

    def add_epoch(self, run: int, epoch: Epoch, *, test_reason: str | None = None) -> None:
        """Record an epoch of `run`; with `test_reason`, also that its evaluation was a look at a test split."""
        with self.engine.begin() as connection:
            self.fence.check(connection)
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
            _add_attempt(connection, run, 0, environment)

    def finish_run(self, run: int, state: State, reason: str = "", *, weights_sha256: str | None = None) -> None:
        """Record how a training ended, and the SHA-256 of its weights: by it, equal bits can be told later.

        The checkpoints of one that will not go on are forgotten with it.
        """
        values: dict[str, Any] = {"state": state.value, "reason": reason, "weights_sha256": weights_sha256}
        values |= {"ended_at": current_call().asked_at}
        with self.engine.begin() as connection:
            if state is not State.INTERRUPTED:
                connection.execute(delete(tables.checkpoints).where(tables.checkpoints.c.run == run))
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

    def find_claimed(self, key: RunKey, *, study: str | None) -> Run | None:
        """Return a training of that key in `study` that is complete or pruned, else one being made, or nothing."""
        return self._find(key, study, (State.COMPLETE, State.PRUNED)) or self._find(key, study, (State.RUNNING,))

    def find_failed(self, key: RunKey, *, study: str | None) -> Run | None:
        """Return a training of that key in `study` that failed, or nothing."""
        return self._find(key, study, (State.FAILED,))

    def find_interrupted(self, key: RunKey, *, study: str | None) -> Run | None:
        """Return a training of that key in `study` that can go on, or nothing."""
        return self._find(key, study, (State.INTERRUPTED,))

    def repeat_seed(self, key: RunKey, *, study: str | None, trial: int | None) -> int:
        """Return the training seed of the repeat that `trial` is: its own if it was begun, else its candidate's next.

        The caller holds the storage's lock until the repeat is recorded, so that no two have the same.
        """
        one = tables.runs.c
        query = select(one.seed, one.trial, one.role).where(
            one.architecture == key.architecture,
            one.recipe_digest == key.recipe,
            one.data_digest == key.data,
            one.role.in_(_SEARCHED),
            one.study == study,
        )
        if current_call().repeated:  # an earlier try of this call may have begun it
            query = query.where(one.started_at != current_call().asked_at)
        with self.engine.connect() as connection:
            runs = list(connection.execute(query))
        own = [run.seed for run in runs if run.role == Role.REPEAT.value and run.trial == trial]
        return int(max(own) if own else max((run.seed for run in runs), default=0) + 1)

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

    def run_of_trial(self, study: str, trial: int) -> Run | None:
        """Return the last training made for a trial of a search, or nothing."""
        one = tables.runs.c
        query = _RUN.where(one.study == study, one.trial == trial).order_by(None).order_by(one.id.desc()).limit(1)
        found = self._runs(query)
        return found[0] if found else None

    def last_run(self) -> int:
        """Return the number of the newest record, or 0."""
        with self.engine.connect() as connection:
            return int(connection.scalar(select(func.max(tables.runs.c.id))) or 0)

    def last_reasons(self, study: str, *, after: int, limit: int) -> tuple[str | None, ...]:
        """Return of the last trainings of a search that ended why they failed, newest first; nothing for good ones.

        Args:
            study: Name of the study.
            after: Only trainings with a greater number than this.
            limit: How many at most.
        """
        one = tables.runs.c
        ended = [state.value for state in (State.COMPLETE, State.PRUNED, State.FAILED)]
        search = one.role.in_(_SEARCHED)
        query = (
            select(one.state, one.reason)
            .where(one.study == study, one.id > after, search, one.state.in_(ended))
            .order_by(one.ended_at.desc(), one.id.desc())
            .limit(limit)
        )
        with self.engine.connect() as connection:
            rows = list(connection.execute(query))
        return tuple(row.reason if row.state == State.FAILED.value else None for row in rows)

    def goes_on(self, run: int) -> bool:
        """Return whether there is a record of that number that is trained, or can be taken up again."""
        unfinished = [State.RUNNING.value, State.INTERRUPTED.value]
        query = select(func.count()).where(tables.runs.c.id == run, tables.runs.c.state.in_(unfinished))
        with self.engine.connect() as connection:
            return bool(connection.scalar(query))

    def runs(self, *, study: str | None = None, role: Role | None = None) -> tuple[Run, ...]:
        """Return the trainings of a study, or of a role, or all, oldest first."""
        query = _RUN
        if study is not None:
            query = query.where(tables.runs.c.study == study)
        if role is not None:
            query = query.where(tables.runs.c.role == role.value)
        return self._runs(query)

    def search_runs_beyond(self, study: str, newest: int, also: Iterable[int]) -> tuple[Run, ...]:
        """Return the trainings of a study's search with a number beyond `newest`, and those of the numbers `also`."""
        one = tables.runs.c
        search = one.role.in_(_SEARCHED)
        return self._runs(_RUN.where(one.study == study, search, (one.id > newest) | one.id.in_(list(also))))

    def search_counts(self, study: str) -> SearchCounts:
        """Return counts of what `study` trained in its search."""
        one = tables.runs.c
        failed, pruned, complete = (one.state == state.value for state in (State.FAILED, State.PRUNED, State.COMPLETE))
        query = select(
            func.count(one.trial.distinct()),
            func.count().filter(failed),
            func.count().filter(pruned),
            func.coalesce(func.sum(one.epochs_asked - one.epochs_done).filter(pruned), 0),
            func.count().filter(complete & (one.role == Role.REPEAT.value)),
        ).where(one.study == study, one.role.in_(_SEARCHED))
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

    # Checkpoints

    def add_checkpoint(self, run: int, checkpoint: Checkpoint, *, keep: int) -> tuple[str, ...]:
        """Record a checkpoint of `run` and forget all but the last `keep`; return the files of those forgotten."""
        one = tables.checkpoints.c
        row = {"run": run, "epoch": checkpoint.epoch, "file": checkpoint.file, "sha256": checkpoint.sha256}
        with self.engine.begin() as connection:
            forgotten = delete(tables.checkpoints).where(one.run == run, one.epoch >= checkpoint.epoch)
            dropped = list(connection.scalars(forgotten.returning(one.file)))
            connection.execute(insert(tables.checkpoints).values(**row, at=current_call().asked_at))
            old = select(one.epoch).where(one.run == run).order_by(one.epoch.desc()).offset(keep)
            beyond = list(connection.scalars(old))
            late = delete(tables.checkpoints).where(one.run == run, one.epoch.in_(beyond))
            dropped += connection.scalars(late.returning(one.file))
        return tuple(file for file in dropped if file != checkpoint.file)

    def checkpoints(self, run: int) -> tuple[Checkpoint, ...]:
        """Return the checkpoints of `run`, newest first."""
        one = tables.checkpoints.c
        query = select(one.epoch, one.file, one.sha256).where(one.run == run).order_by(one.epoch.desc())
        with self.engine.connect() as connection:
            return tuple(Checkpoint(row.epoch, row.file, row.sha256) for row in connection.execute(query))

    def forget_checkpoints(self, run: int) -> None:
        """Forget all checkpoints of `run`."""
        with self.engine.begin() as connection:
            connection.execute(delete(tables.checkpoints).where(tables.checkpoints.c.run == run))

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

    def broken_limits(self, study: str, budget: Budget) -> tuple[Broken, ...]:
        """Return how many proposals over the budget broke each of its limits in `study`."""
        one, counts = tables.rejections.c, tables.architectures.c
        limits = budget.limits
        query = (
            select(*(func.count().filter(counts[limit.quantity] > limit.value) for limit in limits))
            .select_from(tables.rejections.join(tables.architectures))
            .where(one.study == study, ~one.duplicate)
        )
        with self.engine.connect() as connection:
            found = connection.execute(query).one()
        return tuple(Broken(limit.quantity, limit.value, int(much)) for limit, much in zip(limits, found, strict=True))

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


def _add_attempt(connection: Connection, run: int, epochs: int, environment: str) -> None:
    holder = this_process()
    row = {
        "run": run,
        "epochs_before": epochs,
        "environment": environment,
        "host": holder.host,
        "pid": holder.pid,
        "started_at": current_call().asked_at,
    }
    _forget_earlier_try(connection, tables.attempts, row)
    connection.execute(insert(tables.attempts).values(row))


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
        weights_sha256=values["weights_sha256"],
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
