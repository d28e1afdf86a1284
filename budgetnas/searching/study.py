"""Open a study, or create it once even if several processes open it together; recover its stale trials."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL

from budgetnas.errors import InputError
from budgetnas.samplers.attributes import add_stored, compact
from budgetnas.samplers.constraint_filter import FIXED_PARAMS
from budgetnas.searching.rdb import SharedStorage
from budgetnas.space.initial_trials import initial_candidate
from budgetnas.space.specification import StudySpecification, read_specification
from budgetnas.storage import Records, Rejection, Role, Run, State
from budgetnas.storage.engine import engine_arguments, exclusive
from budgetnas.storage.leases import Lease, loss_reasons, note_loss, release_stale
from budgetnas.storage.retry import retried
from budgetnas.storage.store import Fence
from budgetnas.storage.urls import masked

INITIAL_TRIAL = "seed"
"""User attribute with the name of the initial trial that a trial is."""
MAX_TAKEOVERS = 3
"""Processes that may lose a trial; after that it fails, because it probably kills them."""
_ENDED = (State.COMPLETE, State.PRUNED, State.FAILED)


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """An open study."""

    name: str
    specification: StudySpecification
    records: Records
    optuna_study: optuna.Study
    storage: RDBStorage  # Optuna's storage behind `optuna_study`

    def close(self) -> None:
        """Close all connections to the storage."""
        self.close_optuna()
        self.records.close()

    def close_optuna(self) -> None:
        """Close Optuna's connections; the records stay open."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    def trial_id(self, number: int) -> int:
        """Return the storage's identifier of a trial."""
        return self.storage.get_trial_id_from_study_id_trial_number(self.optuna_study._study_id, number)


@retried
def open_study(url: URL, records: Records, name: str, specification: StudySpecification) -> OpenStudy:
    """Return the study of that name; a new one is created with `specification` and its initial trials.

    Raises:
        InputError: If it was created with another specification, or by another program.
    """
    quiet_optuna()
    with exclusive(records.engine):
        stored = records.specification(name)
        if stored is not None:
            specification.require_same(read_specification(stored), name)
        storage = optuna_storage(url, records.fence)
        try:
            metric = specification.measure.on("validation")
            study = _optuna_study(name, storage, None if stored else metric)
            opened = OpenStudy(name, specification, records, study, storage)
            if stored is None:
                records.save_specification(name, specification.canonical_json(), specification.digest)
            _enqueue_initial_trials(opened)
        except Exception:
            storage.remove_session()
            storage.engine.dispose()
            raise
        return opened


def _optuna_study(name: str, storage: RDBStorage, new_metric: str | None) -> optuna.Study:
    """Return Optuna's study if it is this program's: Optuna loads any study of the name.

    `new_metric` is the name of the objective for the dashboard if the study is new.
    """
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    ours = study.directions == [StudyDirection.MAXIMIZE]
    if not ours or (new_metric is not None and study.get_trials(deepcopy=False)):
        rule = "is a study that another program made in this storage"
        raise InputError("--study", name, rule, "use another name")
    if new_metric is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([new_metric])
    return study


@retried
def recover_stale_trials(opened: OpenStudy) -> tuple[str, ...]:
    """Recover the trials of processes that died or stopped renewing their lease; return a sentence for each.

    A trial whose run has ended gets its result from the record. A trial that too many processes lost fails. Any other
    trial is requeued with its parameters, so that the next process trains the same candidate from its checkpoint.
    """
    with exclusive(opened.records.engine):
        alive = release_stale(opened.records, opened.name)
        study = opened.optuna_study._study_id
        running = opened.storage.get_all_trials(study, deepcopy=False, states=(TrialState.RUNNING,))
        if alive is None:
            return ()
        return tuple(_recover(opened, trial) for trial in running if trial.number not in alive)


def requeue(opened: OpenStudy, number: int) -> None:
    """Requeue a running trial with its parameters."""
    opened.storage.set_trial_state_values(opened.trial_id(number), TrialState.WAITING)
    opened.records.interrupt_runs_of(opened.name, number)


def lose_trial(opened: OpenStudy, slot: Lease, number: int, reason: str) -> str:
    """Requeue the trial of a process that can no longer train, for `reason`; fail it if too many have lost it.

    Returns:
        What became of the trial, as a sentence.
    """
    records = opened.records
    run = records.run_of_trial(opened.name, number)
    note_loss(records, slot, number, None if run is None else run.id, reason)
    trial = opened.storage.get_trial(opened.trial_id(number))
    failed = _fail_if_lost_too_often(opened, trial, run)
    if failed is None:
        requeue(opened, number)
    return failed or f"trial {number} is requeued"


def _fail_if_lost_too_often(opened: OpenStudy, trial: FrozenTrial, run: Run | None) -> str | None:
    losses = loss_reasons(opened.records, opened.name, trial.number)
    if len(losses) <= MAX_TAKEOVERS:
        return None
    reason = f"lost by {len(losses)} processes in turn, the last: {losses[-1]}"
    if run is not None:
        opened.records.finish_run(run.id, State.FAILED, reason)
    _fail(opened, trial, reason)
    return f"trial {trial.number} failed: {reason}"


def _recover(opened: OpenStudy, trial: FrozenTrial) -> str:
    number, records = trial.number, opened.records
    run = records.run_of_trial(opened.name, number)
    if run is not None and run.state in _ENDED:
        _end_by_record(opened, trial, run)
        return f"trial {number} lost its process after the training; the record is used"
    failed = _fail_if_lost_too_often(opened, trial, run)
    if failed is not None:
        return failed
    if run is None and _is_half_made(opened, trial):
        _fail(opened, trial, "its process was gone before all parameters were stored", rejected=True)
        return f"trial {number} lost its process before all parameters were stored; it is dropped"
    requeue(opened, number)
    return f"trial {number} lost its process; it is requeued"


def _end_by_record(opened: OpenStudy, trial: FrozenTrial, run: Run) -> None:
    curve, measure = opened.records.curve(run.id), opened.specification.measure
    for epoch in curve:
        opened.storage.set_trial_intermediate_value(trial._trial_id, epoch.epoch, measure.of(epoch))
    if run.state is State.FAILED:
        return _fail(opened, trial, run.reason)
    pruned = run.state is State.PRUNED
    more = ({"reason": run.reason} if pruned else {}) | ({"seed": run.seed} if run.role is Role.REPEAT else {})
    add_stored(opened.storage, trial, curve=compact(curve), **more)
    state = TrialState.PRUNED if pruned else TrialState.COMPLETE
    opened.storage.set_trial_state_values(trial._trial_id, state, [measure.of(curve[-1])])


def _fail(opened: OpenStudy, trial: FrozenTrial, reason: str, *, rejected: bool = False) -> None:
    add_stored(opened.storage, trial, reason=reason, **({"rejected": True} if rejected else {}))
    opened.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def _is_half_made(opened: OpenStudy, trial: FrozenTrial) -> bool:
    """Return whether some parameters of a sampled candidate were never stored."""
    space = opened.specification.candidates
    if not trial.params or FIXED_PARAMS in trial.system_attrs:
        return False
    return any(name not in trial.params for name in space.names(trial.params))


def quiet_optuna() -> None:
    """Silence Optuna's log of trials, which the progress and the records have as well."""
    optuna.logging.set_verbosity(logging.CRITICAL)


def optuna_storage(url: URL, fence: Fence | None = None) -> RDBStorage:
    """Return Optuna's storage in the same database, which several processes may share.

    Args:
        url: The database.
        fence: Guards its commits if trials are run; None to read only.
    """
    text = url.render_as_string(hide_password=False)
    try:
        storage = SharedStorage(text, engine_kwargs=engine_arguments(url))
    except RuntimeError:  # Optuna's message names its own command line, and the URL with its password
        rule = "its tables of Optuna have another version than the Optuna that is installed"
        raise InputError("--storage", masked(url), rule, "budgetnas doctor says which, and what to do") from None
    if fence is not None:
        fence.guard(storage.engine)
    return storage


def _enqueue_initial_trials(opened: OpenStudy) -> None:
    specification, study = opened.specification, opened.optuna_study
    enqueued = {trial.user_attrs.get(INITIAL_TRIAL) for trial in study.get_trials(deepcopy=False)}
    rejected = {rejection.origin for rejection in opened.records.rejections(opened.name)}
    for name in specification.seeds:
        candidate = initial_candidate(name, specification.recipes, specification.inputs)
        fits = specification.budget.fits(candidate.architecture)
        params = specification.candidates.params_of(candidate)
        origin = f"seed {name}"
        if not fits and origin not in rejected:
            opened.records.reject(opened.name, [Rejection.of(candidate.architecture, origin, specification.budget)])
        elif fits and params is not None and name not in enqueued:
            study.enqueue_trial(params, user_attrs={INITIAL_TRIAL: name})
