"""The search itself: take a slot, run a trial, until the number that was asked for is trained."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Final

from budgetnas.errors import InputError, LeaseLost, RunFailedError, SearchFailedError
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import LOST, RunImages, TrainFunction
from budgetnas.samplers.constraint_filter import ConstraintFilter, SpaceUsedUpError
from budgetnas.samplers.named import repeats, search_sampler
from budgetnas.search.listener import SearchListener
from budgetnas.search.study import OpenStudy, recover_stale_trials
from budgetnas.search.trial import FIRST_SEED, TrialRunner
from budgetnas.space.search_space import Candidate
from budgetnas.storage import Role, RunKey
from budgetnas.storage.leases import Heartbeat, Lease, holding, slots_in_use, take_slot, trained
from budgetnas.training import Runtime, train

MAX_FAILURES: Final = 5
"""Failed runs in a row that end a search."""
_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class SearchTask:
    """What a search needs beside its study.

    Attributes:
        trials: Runs that the study shall have in all; nothing: what its last search was asked for, whenever that is.
        images: Training and validation images, on the device.
        runtime: Chooses the runtime config of each trial.
        sampler: Name of the inner sampler.
        seed: Seed of the sampler, for the first process at work; each other one draws its own.
        tune_setup: Whether the runtime is chosen by timing a few steps instead of by the rules.
        trainer: What trains.
    """

    trials: int | None
    images: RunImages
    runtime: Runtime
    sampler: str
    seed: int
    tune_setup: bool = False
    trainer: TrainFunction = train


def search(opened: OpenStudy, task: SearchTask, stopper: Stopper, listener: SearchListener) -> bool:
    """Train until the study has as many runs as were asked for.

    Returns:
        Whether it has them; not so where every candidate of the space is known before.

    Raises:
        SearchFailedError: After five failed runs in a row.
        Interrupted: If a stop was requested; the trial that ran is queued again.
    """
    before, waiting, ready = opened.records.last_run(), False, False
    while True:
        stopper.check()
        trials = goal(opened, task.trials)
        _check_failures(opened, before)
        for text in recover_stale_trials(opened):
            listener.on_message(text)
        slot = take_slot(opened.records, opened.name, trials)
        if slot is None:
            if trained(opened.records, opened.name) >= trials:
                return True
            if not waiting:
                held = slots_in_use(opened.records, opened.name)
                listener.on_message(f"{held} of the last runs are trained by other processes; waiting, should one fail")
            waiting = True
            time.sleep(_POLL_SECONDS)
            continue
        try:
            with holding(opened.records, slot) as heartbeat:
                if not ready:
                    _install_sampler(opened, task)
                ready = True
                _run_trial(opened, task, slot, heartbeat, stopper, listener)
        except SpaceUsedUpError as error:
            listener.on_message(f"the search ends early: {error}")
            return False
        except LeaseLost:
            listener.on_message(LOST.format("its trial"))


def goal(opened: OpenStudy, trials: int | None) -> int:
    """Return how many runs a study shall have: `trials`, else what its last search was asked for.

    Raises:
        InputError: If there is neither.
    """
    if trials is not None:
        return trials
    asked = opened.records.goal(opened.name)
    if asked is None:
        raise InputError("--trials", None, f"is missing: no search of study {opened.name!r} says how many", "add it")
    return asked.trials


def _run_trial(
    opened: OpenStudy, task: SearchTask, slot: Lease, heartbeat: Heartbeat, stopper: Stopper, listener: SearchListener
) -> None:
    runner = TrialRunner(opened, task.images, task.runtime, stopper, listener, slot, heartbeat, task.trainer)
    opened.optuna_study.optimize(runner, n_trials=1, catch=(RunFailedError,))


def _check_failures(opened: OpenStudy, before: int) -> None:
    """Raise if the last runs since this search began failed in a row, whichever process made them."""
    reasons = opened.records.last_reasons(opened.name, after=before, limit=MAX_FAILURES)
    if len(reasons) == MAX_FAILURES and None not in reasons:
        raise SearchFailedError(f"{MAX_FAILURES} runs failed in a row, the last with: {reasons[0]}")


def _install_sampler(opened: OpenStudy, task: SearchTask) -> None:
    """Give the study its sampler.

    This process holds a slot. Of several that start together at most one sees no other's, so that no two of them draw
    the same candidates, whoever started them. One that holds none for a moment, between two trials that were queued and
    made no new one, is known by what it trained.
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
        search_sampler(task.sampler, seed, candidates, budget, goal(opened, task.trials)),
        candidates,
        budget,
        known=lambda candidate: first_trial(candidate) is not None,
        reject=lambda refused: records.reject(opened.name, refused),
        seed=seed,
        repeated=first_trial if again else None,
    )
