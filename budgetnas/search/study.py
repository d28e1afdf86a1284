"""Opening a study: its tables, its specification and its seeds, created once however many processes open it."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from budgetnas.architecture import count
from budgetnas.errors import InputError
from budgetnas.seeds import seed_candidate
from budgetnas.specification import StudySpecification, read_specification
from budgetnas.storage import Records, Rejection
from budgetnas.storage.engine import cannot_open, engine_arguments, exclusive, open_engine, share
from budgetnas.storage.reading import open_to_read, require_writable
from budgetnas.storage.records import create_tables, require_tables
from budgetnas.storage.slots import release_dead
from budgetnas.storage.urls import masked, sqlite_file

SEED_ATTRIBUTE = "seed"


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study, open.

    Attributes:
        name: Its name.
        specification: What it is.
        records: Our records of it.
        optuna_study: Optuna's view of it.
        storage: Optuna's storage behind that.
    """

    name: str
    specification: StudySpecification
    records: Records
    optuna_study: optuna.Study
    storage: RDBStorage

    def close(self) -> None:
        """Close all connections to the storage."""
        self.storage.remove_session()
        self.storage.engine.dispose()
        self.records.close()

    def trial_id(self, number: int) -> int:
        """Return the storage's identifier of a trial."""
        return self.storage.get_trial_id_from_study_id_trial_number(self.optuna_study._study_id, number)


def look_at_records(url: URL) -> Records:
    """Return the records of a storage to read only: nothing is created in it, and it need not be writable.

    Raises:
        InputError: If it cannot be opened, no search was run with it, or it has other tables than this version's.
    """
    engine = open_to_read(url)
    try:
        require_tables(engine)
    except DatabaseError as error:
        raise cannot_open(url, error) from None
    return Records(engine)


def open_records(url: URL, *, must_exist: bool = False) -> Records:
    """Return the records of a storage, its tables created if need be.

    Args:
        url: The storage.
        must_exist: Refuse a storage that no search was run with, and create nothing in it.

    Raises:
        InputError: If it cannot be opened or written, or has other tables than this version's.
    """
    if must_exist and url.get_backend_name() == "sqlite" and not (file := sqlite_file(url)).exists():
        rule = "there is no such database"
        raise InputError("--storage", str(file), rule, "run a search first, or name the storage it was run with")
    require_writable(url)
    engine = open_engine(url)
    try:
        if must_exist:
            require_tables(engine)
        else:
            with exclusive(engine):
                create_tables(engine)
    except DatabaseError as error:
        raise cannot_open(url, error) from None
    return Records(engine)


def open_study(url: URL, records: Records, name: str, specification: StudySpecification) -> OpenStudy:
    """Return the study of that name, created with `specification` and seeded if it is new.

    Raises:
        InputError: If it was created with another specification.
    """
    quiet_optuna()
    with exclusive(records.engine):
        stored = records.specification(name)
        if stored is not None:
            specification.require_same(read_specification(stored), name)
        storage = optuna_storage(url)
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
        if stored is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names(["validation accuracy"])
            records.save_specification(name, specification.canonical_json(), specification.digest)
        opened = OpenStudy(name, specification, records, study, storage)
        _enqueue_seeds(opened)
        return opened


def put_back_orphans(opened: OpenStudy) -> tuple[int, ...]:
    """Queue the trials again whose processes are gone; return their numbers.

    They keep their parameters, so that a rerun trains the same candidate.
    """
    with exclusive(opened.records.engine):
        held = release_dead(opened.records, opened.name)
        study = opened.optuna_study._study_id
        running = opened.storage.get_all_trials(study, deepcopy=False, states=(TrialState.RUNNING,))
        if held is None:
            return ()
        orphans = tuple(trial.number for trial in running if trial.number not in held)
        for number in orphans:
            put_back(opened, number)
        return orphans


def put_back(opened: OpenStudy, number: int) -> None:
    """Queue a running trial again, with the parameters it has."""
    opened.storage.set_trial_state_values(opened.trial_id(number), TrialState.WAITING)
    opened.records.interrupt_runs_of(opened.name, number)


def quiet_optuna() -> None:
    """Leave telling to this program: what Optuna logs of trials is in the progress and the records already."""
    optuna.logging.set_verbosity(logging.CRITICAL)


def optuna_storage(url: URL) -> RDBStorage:
    """Return Optuna's storage in the same database, safe for several processes as ours is."""
    text = url.render_as_string(hide_password=False)
    try:
        storage = RDBStorage(text, engine_kwargs=engine_arguments(url))
    except RuntimeError:  # what Optuna says names its own command line, and a storage by its whole URL
        rule = "its tables of Optuna have another version than the Optuna that is installed"
        raise InputError("--storage", masked(url), rule, "budgetnas doctor says which, and what to do") from None
    share(storage.engine)
    return storage


def _enqueue_seeds(opened: OpenStudy) -> None:
    specification, study = opened.specification, opened.optuna_study
    there = {trial.user_attrs.get(SEED_ATTRIBUTE) for trial in study.get_trials(deepcopy=False)}
    turned_down = {one.origin for one in opened.records.rejections(opened.name)}
    for seed in specification.seeds:
        candidate = seed_candidate(seed, specification.recipes, specification.inputs)
        overshoot = count(candidate.architecture).params - specification.max_params
        params = specification.candidates.params_of(candidate)
        origin = f"seed {seed}"
        if overshoot > 0 and origin not in turned_down:
            rejection = Rejection(candidate.architecture, origin, specification.max_params, overshoot)
            opened.records.reject(opened.name, [rejection])
        elif overshoot <= 0 and params is not None and seed not in there:
            study.enqueue_trial(params, user_attrs={SEED_ATTRIBUTE: seed})
