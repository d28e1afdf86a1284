"""A worker: joins an existing study and trains until it has its trials. `queue` has the worker of all studies."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from budgetnas.errors import InputError, check_seed
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import DataPlace, load_study_data, study_specification, validation_images
from budgetnas.samplers.named import check_sampler
from budgetnas.searching.callbacks import SearchCallbacks
from budgetnas.searching.loop import Outcome, SearchTask, goal, reporting_outcome, sampler_of, search
from budgetnas.searching.options import check_trials
from budgetnas.searching.plan import make_plan
from budgetnas.searching.study import open_study
from budgetnas.space.recipe import Frozen
from budgetnas.storage import Records
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage
from budgetnas.training import Runtime, RuntimeConfig, runtime_rules


class WorkerRequest(Frozen):
    """What a worker does; sent to a process or a machine as JSON."""

    storage: str  # URL of the storage, including its password
    study: str | None = None  # None for every study that is queued
    data: str | None = None  # ``folder:DIR`` for a folder; optional for the named data sets
    data_dir: Path | None = None  # folder of downloaded archives
    device: str = "auto"  # ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``
    precision: str = "auto"  # ``auto``, ``float32``, ``bf16`` or ``fp16``
    runtime: str | None = None  # the runtime config that ``--tune-setup`` timed, as JSON; None for the rules
    threads: int | None = None  # threads on a CPU; None for all cores
    planned: bool = False  # whether the search that started the worker has shown the plan
    sampler: str | None = None  # name of the sampler; None for that of the last search
    seed: int = 0
    # Number of trials in total; None for that of the last search, read again before each trial.
    trials: int | None = None
    timeout: float | None = None  # seconds after which the worker stops
    until_idle: bool = False  # whether a worker of the queue ends when nothing is left
    final: int | None = None  # number of the final whose runs it trains instead of trials


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """How a worker ended."""

    records: Records  # the records of its storage, open
    outcome: Outcome  # exit code, and whether the study has its trials


def run_worker(request: WorkerRequest, stopper: Stopper, callbacks: SearchCallbacks) -> WorkerResult:
    """Work on a study until it has its trials.

    Everything is checked before anything is written.

    Raises:
        InputError: If there is no such study, or its data differ here.
    """
    check_seed(request.seed)
    assert request.study is not None, "a worker of the queue has no study of its own"
    if request.trials is not None:
        check_trials(request.trials)
    if request.sampler is not None:
        check_sampler(request.sampler)
    url = parse_storage(request.storage)
    records = open_records(url, must_exist=True)
    specification = study_specification(records, request.study, "--study")
    if records.is_cancelled(request.study):
        hint = f"resume it with budgetnas search --study {shlex.quote(request.study)}"
        raise InputError("--study", request.study, "was cancelled", hint)
    runtime = chosen_runtime(request, callbacks)
    callbacks.on_progress("loading data")
    data, _ = load_study_data(specification, request.study, DataPlace(request.data, request.data_dir))
    opened = open_study(url, records, request.study, specification)
    task = SearchTask(
        trials=request.trials,
        images=validation_images(data, runtime),
        runtime=runtime,
        sampler=sampler_of(opened, request.sampler),
        seed=request.seed,
    )
    goal(opened, request.trials)  # an error comes before the first line of the plan
    try:
        with reporting_outcome(callbacks) as outcome, stopper.listening():
            if not request.planned:
                callbacks.on_progress("timing a few training steps")
                callbacks.on_plan(opened, make_plan(opened, task), data)
            outcome.finished = search(opened, task, stopper, callbacks)
    finally:
        opened.close_optuna()
    return WorkerResult(records, outcome)


def chosen_runtime(request: WorkerRequest, callbacks: SearchCallbacks) -> Runtime:
    """Return what chooses the runtime config of each trial, after reporting its notes.

    Raises:
        InputError: If the device is missing, or a name is unknown.
    """
    rules = runtime_rules(request.device, request.precision)
    for note in () if request.planned else rules.notes:
        callbacks.on_message(note)
    if request.runtime is not None:
        return replace(RuntimeConfig.from_json(request.runtime), device=rules.device)
    return rules if request.threads is None else rules.with_threads(request.threads)
