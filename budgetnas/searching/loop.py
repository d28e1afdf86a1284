"""The search loop: take a slot, run a trial, until the study has its trials."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from budgetnas.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Cancelled,
    InputError,
    Interrupted,
    LeaseLost,
    SearchFailedError,
)
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import LOST, RunImages, TrainFunction
from budgetnas.samplers.constraint_filter import ConstraintFilter, SpaceUsedUpError
from budgetnas.samplers.named import DEFAULT_SAMPLER, repeats, search_sampler
from budgetnas.searching.callbacks import SearchCallbacks
from budgetnas.searching.expectation import Expectation
from budgetnas.searching.pace import Pace, expected_trainings
from budgetnas.searching.study import OpenStudy, recover_stale_trials
from budgetnas.searching.trial import FIRST_SEED, TrialRunner
from budgetnas.space.candidates import Candidate
from budgetnas.storage import Role, RunKey
from budgetnas.storage.engine import storage_failed
from budgetnas.storage.leases import holding, require_study, slots_in_use, take_slot, trained
from budgetnas.training import Callbacks, Runtime, train

MAX_FAILURES: Final = 5
"""Failed runs in a row that end a search."""
_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """The part of a search after which its process chooses anew which study of the queue it trains.

    A process with a turn does not wait for the trials of other processes.
    """

    ends_at: float  # by the monotonic clock; a trial that has begun is trained to its end
    after: int = 0  # number of the last run that is too old for `MAX_FAILURES`

    def is_over(self) -> bool:
        """Return whether no further trial is to begin."""
        return time.monotonic() >= self.ends_at


@dataclass(frozen=True, slots=True)
class SearchTask:
    """How a process takes part in a search."""

    # Number of trials in total; None for that of the study's last search, read again before each trial.
    trials: int | None
    images: RunImages  # training and validation images, on the device
    runtime: Runtime  # chooses the runtime config of each trial
    sampler: str  # name of the sampler
    seed: int  # seed of the sampler; processes that join later add a random number to it
    tune_setup: bool = False  # whether timed steps choose the runtime config instead of the rules
    trainer: TrainFunction = train
    turn: Turn | None = None  # when it ends early; None to search until the study has its trials


@dataclass(slots=True)
class Outcome:
    """How a search ended."""

    # 0 when done or out of time, 1 after five failed runs in a row or without its storage, 75 if a new process must
    # resume, 130 after Ctrl-C, 143 after SIGTERM.
    exit_code: int = EXIT_DONE
    finished: bool = False  # whether the study has all of its trials
    reason: str = ""  # why it ended early, or empty


@contextmanager
def reporting_outcome(callbacks: Callbacks) -> Iterator[Outcome]:
    """Yield the outcome of the search inside; errors that end it set the exit code and are reported."""
    outcome = Outcome()
    try:
        yield outcome
    except (SQLAlchemyError, StorageInternalError) as error:
        outcome.exit_code, outcome.reason = EXIT_FAILED, storage_failed(error)
    except SearchFailedError as error:
        outcome.exit_code, outcome.reason = error.exit_code, str(error)
    except Interrupted as stop:
        outcome.exit_code, outcome.reason = stop.exit_code, stop.reason
    except KeyboardInterrupt:
        outcome.exit_code = EXIT_INTERRUPTED
    if outcome.reason:
        callbacks.on_message(outcome.reason)


def search(opened: OpenStudy, task: SearchTask, stopper: Stopper, callbacks: SearchCallbacks) -> bool:
    """Train until the study has as many trials as asked for.

    Returns:
        Whether it has them; False if every candidate of the space is already known, or the turn is over.

    Raises:
        SearchFailedError: After five failed runs in a row, or if the study was deleted or renamed. With a turn also if
            every candidate is already known.
        Interrupted: If a stop was requested, or the study is cancelled; the running trial is requeued.
    """
    turn, waiting, ready = task.turn, False, False
    before = opened.records.last_run() if turn is None else turn.after
    pace = Pace.of(opened, stopper.clock)
    runner = TrialRunner(opened, task.images, task.runtime, stopper, callbacks, Expectation(opened), task.trainer)
    while True:
        stopper.check()
        trials = goal(opened, task.trials)
        _prepare_trial(opened, before, callbacks)
        slot = take_slot(opened.records, opened.name, trials)
        if slot is None:
            if trained(opened.records, opened.name) >= trials:
                return True
            if turn is not None:
                return False
            if not waiting:
                others = slots_in_use(opened.records, opened.name)
                callbacks.on_message(f"other processes train the last {others} trials; waiting in case one fails")
            waiting = True
            time.sleep(_POLL_SECONDS)
            continue
        try:
            with holding(opened.records, slot) as heartbeat:
                require_study(opened.records, opened.name)
                if not ready:
                    _install_sampler(opened, task, lambda: _expected(opened, task, pace, stopper))
                ready = True
                if runner.run(slot, heartbeat):
                    pace.add_training()
            if turn is not None and turn.is_over():
                return trained(opened.records, opened.name) >= trials
        except SpaceUsedUpError as error:
            if turn is not None:
                raise SearchFailedError(f"the search ends early: {error}") from None
            callbacks.on_message(f"the search ends early: {error}")
            return False
        except LeaseLost:
            callbacks.on_message(LOST.format("its trial"))


def goal(opened: OpenStudy, trials: int | None) -> int:
    """Return the number of trials in total: `trials`, else that of the study's last search.

    Raises:
        InputError: If there is neither.
    """
    if trials is not None:
        return trials
    asked = opened.records.goal(opened.name)
    if asked is None:
        raise InputError("--trials", None, f"is missing: no search of study {opened.name!r} has set it", "add it")
    return asked.trials


def _expected(opened: OpenStudy, task: SearchTask, pace: Pace, stopper: Stopper) -> int:
    return expected_trainings(opened, goal(opened, task.trials), pace, stopper.seconds_left())


def sampler_of(opened: OpenStudy, asked: str | None) -> str:
    """Return the name of the sampler to use: `asked`, else that of the study's last search, else the default."""
    if asked is not None:
        return asked
    last = opened.records.goal(opened.name)
    return DEFAULT_SAMPLER if last is None else last.sampler


def _prepare_trial(opened: OpenStudy, before: int, callbacks: SearchCallbacks) -> None:
    """Recover stale trials, unless the search ends.

    Raises:
        Cancelled: If the study is cancelled.
        SearchFailedError: If the last `MAX_FAILURES` runs after run `before` all failed, in whichever process.
    """
    if opened.records.is_cancelled(opened.name):
        raise Cancelled(opened.name)
    reasons = opened.records.last_reasons(opened.name, after=before, limit=MAX_FAILURES)
    if len(reasons) == MAX_FAILURES and None not in reasons:
        raise SearchFailedError(f"{MAX_FAILURES} runs failed in a row, the last with: {reasons[0]}")
    for text in recover_stale_trials(opened):
        callbacks.on_message(text)


def _install_sampler(opened: OpenStudy, task: SearchTask, trainings: Callable[[], int]) -> None:
    """Give the study its sampler, with a seed of its own, so that no two processes draw the same candidates.

    A process that sees other slots adds a random number to the seed. Every process takes a slot first, so of several
    that start together at most the first sees no other slot. The numbers of trials and of runs are added as well: a
    process between two requeued trials has neither a slot nor a new trial, but it has added a run. `trainings` returns
    the number of trainings that the study will have in total.
    """
    specification, records = opened.specification, opened.records
    data = task.images.identity.digest()

    def first_trial(candidate: Candidate) -> int | None:
        architecture, recipe = candidate.key
        key = RunKey(architecture, recipe, data, FIRST_SEED, Role.SEARCH)
        run = records.find_claimed(key, study=opened.name)
        return None if run is None else run.trial

    seed = task.seed + len(opened.optuna_study.get_trials(deepcopy=False)) + records.search_counts(opened.name).trials
    if slots_in_use(records, opened.name) > 1:
        seed += secrets.randbelow(2**30)
    candidates, budget, again = specification.candidates, specification.budget, repeats(task.sampler)
    opened.optuna_study.sampler = ConstraintFilter(
        search_sampler(task.sampler, seed, candidates, budget, trainings),
        candidates,
        budget,
        known=lambda candidate: first_trial(candidate) is not None,
        reject=lambda refused: records.reject(opened.name, refused),
        seed=seed,
        repeated=first_trial if again else None,
    )
