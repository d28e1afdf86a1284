"""A search from its options to a study with all of its trials, and to the final evaluation."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.engine import URL

from budgetnas.data import Data, load_data
from budgetnas.data.arrays import ImageArrays
from budgetnas.data.request import absolute_place
from budgetnas.errors import InputError, listed
from budgetnas.experiments.final import FinalCallbacks
from budgetnas.experiments.final_plan import FinishRequest
from budgetnas.runs.checkpoints import delete_old_checkpoints
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import DataPlace, validation_images
from budgetnas.samplers.named import check_sampler
from budgetnas.searching.callbacks import SearchCallbacks
from budgetnas.searching.loop import Outcome, SearchTask, reporting_outcome, sampler_of, search
from budgetnas.searching.options import DEFAULT_TRIALS, SearchOptions, check_study_name, specify, stored_options
from budgetnas.searching.plan import Plan, make_plan
from budgetnas.searching.study import OpenStudy, open_study
from budgetnas.searching.workers.finals import finish_with
from budgetnas.searching.workers.pools import WorkerPool, gpus, idle_gpus, pool_for
from budgetnas.searching.workers.supervisor import search_together
from budgetnas.searching.workers.worker import WorkerRequest
from budgetnas.space.specification import read_specification
from budgetnas.storage import Records
from budgetnas.storage.mounts import storage_notice
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import DEFAULT_STORAGE, for_other_processes, masked, parse_storage, sqlite_file
from budgetnas.training import CpuFacts, RuntimeConfig, RuntimeRules, runtime_rules
from budgetnas.training.memory import free_cached_memory

DEFAULT_SEED = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """How a search ended."""

    study: str
    records: Records  # its records, open
    outcome: Outcome  # exit code, and whether the study has all of its trials
    runtime: RuntimeRules  # chooses the runtime config of each network


def run_search(
    options: SearchOptions,
    stopper: Stopper,
    callbacks: SearchCallbacks,
    final_callbacks: FinalCallbacks | None = None,
    *,
    queue: bool = False,  # only create the study, or ask for more of its trials, and queue it for workers
    cpu: CpuFacts | None = None,  # for the rules that choose precision, threads and layout; None for this machine's
) -> SearchResult:
    """Run or resume a search, and then its final if the study has one; or queue both.

    Everything is checked before anything is written.

    Raises:
        InputError: If an option cannot be used.
    """
    url = parse_storage(options.storage or DEFAULT_STORAGE)
    if (notice := storage_notice(url)) is not None:
        callbacks.on_message(notice)
    options = _complete(options, url)
    if queue:
        _check_queued(options)
    runtime = runtime_rules(options.device or "auto", options.precision or "auto", cpu=cpu)
    idle = idle_gpus(options, gpus(options.device, runtime))
    for note in (*runtime.notes, *([idle] if idle else [])):
        callbacks.on_message(note)
    with pool_for(options, url, runtime) as pool:
        if pool is not None and isinstance(options.data, ImageArrays):
            rule = "arrays cannot be sent to other processes"
            raise InputError("--data", "arrays", rule, "leave --workers out, or write them as a folder of images")
        opened, task, data = _open(options, url, runtime, pool, callbacks)
        try:
            with reporting_outcome(callbacks) as outcome, stopper.listening():
                plan = _plan(opened, task, data, pool, callbacks, timed=not queue)
                if queue:
                    data_name, data_dir = _absolute(options)
                    opened.records.enqueue(opened.name, data=data_name, data_dir=data_dir, seed=task.seed)
                    return SearchResult(opened.name, opened.records, outcome, runtime)
                opened.records.take_up(opened.name)
                tuned = plan.runtime if task.tune_setup else None
                if pool is None:
                    finished = search(opened, replace(task, runtime=tuned or task.runtime), stopper, callbacks)
                else:
                    request = _worker_request(options, url, opened, task, pool, tuned, stopper.seconds_left())
                    finished = search_together(opened, pool, request, stopper, callbacks)
                if finished and opened.specification.choice is not None:
                    final = FinishRequest(opened.name, DataPlace(options.data, options.data_dir))
                    precision, hooks = options.precision or "auto", final_callbacks or FinalCallbacks()
                    finish_with(pool, final, opened.records, runtime, precision, stopper, hooks)
                outcome.finished = finished
        finally:
            opened.close_optuna()
    return SearchResult(opened.name, opened.records, outcome, runtime)


def _complete(options: SearchOptions, url: URL) -> SearchOptions:
    """Return the options, completed by the defaults and by the specification of the study that is resumed.

    Raises:
        InputError: If an option without a default is missing, or the study's name or the sampler cannot be used.
    """
    exists = url.get_backend_name() != "sqlite" or sqlite_file(url).exists()
    study = None if options.study is None else check_study_name(options.study)
    if study is not None and exists:
        with closing(open_records(url)) as records:
            options = _resumed(options, study, records)
            if options.budget is None:
                rule = f"is missing, and there is no study {study!r} in {masked(url)} to resume"
                raise InputError("--budget", None, rule, _known(records) or "add e.g. --budget 5e6")
    options.limits()
    if options.sampler is not None:
        check_sampler(options.sampler)
    return options.over(SearchOptions(trials=DEFAULT_TRIALS, seed=DEFAULT_SEED, precision="auto"))


def _known(records: Records) -> str:
    """Return which studies a storage has; the empty string for none."""
    names = records.study_names()
    return f"add e.g. --budget 5e6, or name a study that is there: {listed(names)}" if names else ""


def _resumed(options: SearchOptions, study: str, records: Records) -> SearchOptions:
    stored = records.specification(study)
    if stored is None:
        return options
    specification = read_specification(stored)
    goal = records.goal(study)
    last = SearchOptions() if goal is None else SearchOptions(trials=goal.trials)
    completed = options.over(stored_options(specification)).over(last)
    keeps_sides = isinstance(options.data, ImageArrays) and not options.data.flip and options.recipe is None
    if keeps_sides and specification.recipes.augmentation.flip:
        rule = "the study was created with images that training may flip, so it cannot resume without"
        raise InputError("flip", False, rule, "give another study name")
    if completed.data is None:
        raise InputError(
            "--data",
            None,
            f"is missing: study {study!r} was made on {specification.data.name}",
            specification.data.how_to_give,
        )
    return completed


def _open(
    options: SearchOptions, url: URL, runtime: RuntimeRules, pool: WorkerPool | None, callbacks: SearchCallbacks
) -> tuple[OpenStudy, SearchTask, Data]:
    """Load the data, open the study, and record how many trials are asked for, and of which sampler."""
    callbacks.on_progress("loading data")
    data = load_data(options.data_request())
    specification = specify(options, data)
    name = options.study_name(data.identity)
    records = open_records(url)
    opened = open_study(url, records, name, specification)
    trials, seed, sampler = options.trials, options.seed, sampler_of(opened, options.sampler)
    assert trials is not None and seed is not None, "these have defaults"
    records.set_goal(opened.name, trials, sampler)
    records.save_class_counts(data.identity.digest(), "validation", data.validation_classes)
    delete_old_checkpoints(records)
    here = runtime if pool is None or pool.threads is None else runtime.with_threads(pool.threads)
    images = validation_images(data, here)
    return opened, SearchTask(trials, images, here, sampler, seed, options.tune_setup or False), data


def _plan(
    opened: OpenStudy,
    task: SearchTask,
    data: Data,
    pool: WorkerPool | None,
    callbacks: SearchCallbacks,
    *,
    timed: bool = True,
) -> Plan:
    """Return the plan, after reporting it; `timed` unless another machine will train."""
    timed = timed and (pool is None or pool.timed)
    if timed:
        callbacks.on_progress("timing a few training steps")
    plan = make_plan(opened, task, timed=timed)
    if pool is not None:
        plan = plan.shared(pool.describe(plan.runtime), pool.shares)
        free_cached_memory(plan.runtime.torch_device)  # leaves a GPU's memory to the workers
    callbacks.on_plan(opened, plan, data)
    return plan


def _check_queued(options: SearchOptions) -> None:
    """Raise `InputError` if a search to queue has an option that only its own process could follow."""
    if isinstance(options.data, ImageArrays):
        raise InputError("--data", "arrays", "arrays cannot be queued", "write them as a folder of images")
    given = [name for name in ("workers", "per_device", "ray", "gpus_per_trial", "timeout") if getattr(options, name)]
    given += ["tune_setup"] if options.tune_setup else []
    given += ["precision"] if options.precision != "auto" else []
    if given:
        rule = f"does not go with --{given[0].replace('_', '-')}"
        raise InputError("--queue", None, rule, "leave it out; budgetnas worker --all decides how it trains")


def _absolute(options: SearchOptions) -> tuple[str | None, Path | None]:
    assert not isinstance(options.data, ImageArrays), "they were rejected"
    return absolute_place(options.data, options.data_dir)


def _worker_request(
    options: SearchOptions,
    url: URL,
    opened: OpenStudy,
    task: SearchTask,
    pool: WorkerPool,
    tuned: RuntimeConfig | None,
    timeout: float | None,
) -> WorkerRequest:
    """Return the request of each worker.

    A worker needs the time limit to estimate how many trainings will fit. It never reaches the limit itself: its clock
    starts later than that of the search, which stops it.
    """
    data, data_dir = _absolute(options)
    return WorkerRequest(
        storage=for_other_processes(url),
        study=opened.name,
        data=data,
        data_dir=data_dir,
        precision=options.precision or "auto",
        runtime=tuned.to_json() if tuned is not None and pool.timed else None,
        threads=pool.threads,
        planned=True,
        sampler=task.sampler,
        seed=task.seed,
        trials=task.trials,
        timeout=timeout,
    )
