"""One call for ``budgetnas search``: from a request to a study that has its runs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from sqlalchemy.engine import URL

from budgetnas.data import Data, load_data
from budgetnas.errors import InputError
from budgetnas.runs.checkpoints import sweep
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.reopen import DataPlace, validation_images
from budgetnas.samplers.named import check_sampler
from budgetnas.search.loop import SearchTask, search
from budgetnas.search.options import (
    DEFAULT_TRIALS,
    SearchOptions,
    check_study_name,
    specify,
    stored_options,
)
from budgetnas.search.outcome import outcome_of
from budgetnas.search.plan import Plan, make_plan
from budgetnas.search.study import OpenStudy, open_study
from budgetnas.search.view import SearchView
from budgetnas.search.workers.pools import pool_for
from budgetnas.search.workers.supervisor import WorkerPool, search_together
from budgetnas.search.workers.worker import DEFAULT_SAMPLER, WorkerRequest
from budgetnas.space.specification import read_specification
from budgetnas.storage import Records
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage, sqlite_file
from budgetnas.training import CpuFacts, Runtime, RuntimeRules, runtime_rules

DEFAULT_SEED = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """How a search ended.

    Attributes:
        study: Name of the study.
        records: Its records.
        exit_code: 0 when done or out of time, 1 after five failed runs in a row or where the storage is gone,
            130 after Ctrl-C, 143 after SIGTERM.
        finished: Whether the study has all of its runs.
        runtime: Chooses the runtime config of each network.
        place: Where its data lie.
        final: Whether the study ends with a final.
    """

    study: str
    records: Records
    exit_code: int
    finished: bool
    runtime: Runtime
    place: DataPlace
    final: bool


def run_search(
    request: SearchOptions, stopper: Stopper, view: SearchView, *, cpu: CpuFacts | None = None
) -> SearchResult:
    """Run or resume a search.

    Everything that can be wrong is checked before anything is written.

    Args:
        request: What the user asked for.
        stopper: Notes requests to stop.
        view: Whoever shows progress.
        cpu: What the rules that choose precision, threads and layout know of the processor; None for this one.

    Raises:
        InputError: If the request cannot be met.
    """
    check_sampler(request.sampler or DEFAULT_SAMPLER)
    url = parse_storage(request.storage or DEFAULT_STORAGE)
    exists = url.get_backend_name() != "sqlite" or sqlite_file(url).exists()
    if request.study and exists:
        with closing(open_records(url)) as records:
            request = _resumed(request, records)
    request.limits()
    runtime = runtime_rules(request.device or "auto", request.precision or "auto", cpu=cpu)
    with pool_for(request, url, runtime) as pool:
        return _run(request, url, runtime, pool, stopper, view)


def _run(
    request: SearchOptions,
    url: URL,
    runtime: RuntimeRules,
    pool: WorkerPool | None,
    stopper: Stopper,
    view: SearchView,
) -> SearchResult:
    """Open the study, tell what is about to run, and have it run."""
    view.preparing("loading data")
    data = load_data(request.data_request())
    specification = specify(request, data)
    name, trials, sampler = request.study_name(data.identity), _trials(request), _sampler(request)
    records = open_records(url)
    opened = open_study(url, records, name, specification)
    records.set_goal(name, trials, sampler)
    sweep(records)
    here = runtime if pool is None or pool.threads is None else runtime.with_threads(pool.threads)
    tune = request.tune_setup or False
    task = SearchTask(trials, validation_images(data, here), here, sampler, _seed(request), tune)
    final = specification.choice is not None

    def work() -> bool:
        with stopper.listening():
            if pool is None:
                return _alone(opened, task, data, stopper, view)
            return _together(opened, pool, task, data, _worker_request(request, url, opened), stopper, view)

    try:
        ended = outcome_of(work, view.on_message)
    finally:
        opened.storage.remove_session()
        opened.storage.engine.dispose()
    place = DataPlace(request.data, request.data_dir)
    return SearchResult(name, records, ended.exit_code, ended.finished, runtime, place, final)


def _alone(opened: OpenStudy, task: SearchTask, data: Data, stopper: Stopper, view: SearchView) -> bool:
    """Search in this process."""
    view.preparing("timing a few training steps")
    plan = make_plan(opened, task)
    view.planned(opened, plan, data)
    return search(opened, _tuned(task, plan), stopper, view)


def _together(
    opened: OpenStudy,
    pool: WorkerPool,
    task: SearchTask,
    data: Data,
    request: WorkerRequest,
    stopper: Stopper,
    view: SearchView,
) -> bool:
    """Have a pool search."""
    if pool.timed:
        view.preparing("timing a few training steps")
    plan = make_plan(opened, task, timed=pool.timed)
    plan = plan.shared(pool.describe(plan.runtime), pool.shares)
    view.planned(opened, plan, data)
    torch.cuda.empty_cache()  # what is left of the GPU is the workers'
    tuned = plan.runtime.to_json() if task.tune_setup and pool.timed else None
    request = request.model_copy(update={"runtime": tuned, "threads": pool.threads, "planned": True})
    return search_together(opened, pool, request, stopper, view)


def _tuned(task: SearchTask, plan: Plan) -> SearchTask:
    """Return the task with the runtime config that was timed, if the user asked for that."""
    return replace(task, runtime=plan.runtime) if task.tune_setup else task


def _worker_request(request: SearchOptions, url: URL, opened: OpenStudy) -> WorkerRequest:
    """Return what each worker is told; paths are whole, for a worker's current folder may be another one."""
    kind, colon, folder = (request.data or "").partition(":")
    data = f"{kind}:{Path(folder).absolute()}" if colon else request.data
    whole = url.set(database=str(sqlite_file(url))) if url.get_backend_name() == "sqlite" else url
    return WorkerRequest(
        storage=whole.render_as_string(hide_password=False),
        study=opened.name,
        data=data,
        data_dir=None if request.data_dir is None else request.data_dir.absolute(),
        precision=request.precision or "auto",
        sampler=_sampler(request),
        seed=_seed(request),
        trials=_trials(request),
    )


def _trials(request: SearchOptions) -> int:
    return DEFAULT_TRIALS if request.trials is None else request.trials


def _sampler(request: SearchOptions) -> str:
    return request.sampler or DEFAULT_SAMPLER


def _seed(request: SearchOptions) -> int:
    return DEFAULT_SEED if request.seed is None else request.seed


def _resumed(request: SearchOptions, records: Records) -> SearchOptions:
    stored = records.specification(check_study_name(request.study or ""))
    if stored is None:
        return request
    specification = read_specification(stored)
    completed = request.over(stored_options(specification))
    if completed.data is None:
        raise InputError(
            "--data",
            None,
            f"is missing: study {request.study!r} was made on {specification.data.name}",
            "name the folder with --data folder:DIR",
        )
    return completed
