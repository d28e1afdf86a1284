"""One call for ``budgetnas search``: from a request to a study that has its runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from budgetnas.checkpoints import sweep
from budgetnas.data import Data, load_data
from budgetnas.errors import EXIT_DONE, EXIT_FAILED, InputError, Interrupted, SearchFailedError, check_seed
from budgetnas.reopen import DataPlace, validation_images
from budgetnas.search.listener import SearchListener
from budgetnas.search.loop import SearchTask, search
from budgetnas.search.plan import Plan, make_plan
from budgetnas.search.samplers import check_sampler
from budgetnas.search.settings import (
    SearchRequest,
    check_study_name,
    required_budget,
    required_trials,
    specify,
    stored_request,
    study_name,
)
from budgetnas.search.study import OpenStudy, open_records, open_study
from budgetnas.specification import read_specification
from budgetnas.stopping import Stopper
from budgetnas.storage import Records
from budgetnas.storage.engine import storage_failed
from budgetnas.storage.patience import database_error
from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage, sqlite_file
from budgetnas.train import Setup, alternatives, choose_setup

DEFAULT_SAMPLER = "tpe"
DEFAULT_SEED = 0


class SearchView(SearchListener, Protocol):
    """Whoever shows a whole search."""

    def planned(self, opened: OpenStudy, plan: Plan, data: Data) -> None:
        """Hear what is about to run."""

    def preparing(self, text: str) -> None:
        """Hear what takes a moment."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """How a search ended.

    Attributes:
        study: Name of the study.
        records: Its records.
        exit_code: 0 when done or out of time, 1 after five failed runs in a row or where the storage is gone,
            130 after Ctrl-C, 143 after SIGTERM.
        finished: Whether the study has all of its runs.
        setups: Setups that its networks may be trained in, the one that was taken first.
        place: Where its data lie.
        final: Whether the study ends with a final.
    """

    study: str
    records: Records
    exit_code: int
    finished: bool
    setups: tuple[Setup, ...]
    place: DataPlace
    final: bool


def run_search(request: SearchRequest, stopper: Stopper, view: SearchView) -> SearchResult:
    """Run or resume a search.

    Everything that can be wrong is checked before anything is written.

    Args:
        request: What the user asked for.
        stopper: Notes requests to stop.
        view: Whoever shows progress.

    Raises:
        InputError: If the request cannot be met.
    """
    trials, sampler = required_trials(request), check_sampler(request.sampler or DEFAULT_SAMPLER)
    seed = check_seed(DEFAULT_SEED if request.seed is None else request.seed)
    url = parse_storage(request.storage or DEFAULT_STORAGE)
    exists = url.get_backend_name() != "sqlite" or sqlite_file(url).exists()
    request = _resumed(request, open_records(url)) if request.study and exists else request
    required_budget(request)
    precision = request.precision or "auto"
    setup = choose_setup(request.device or "auto", precision)
    view.preparing("loading data")
    data = load_data(request.data_request())
    specification = specify(request, data)
    name = study_name(request, data.identity)
    records = open_records(url)
    opened = open_study(url, records, name, specification)
    records.set_goal(name, trials, sampler)
    sweep(records)
    others = alternatives(setup, precision)
    task = SearchTask(trials, validation_images(data, setup), setup, sampler, seed, others)
    ended = SearchResult(
        study=name,
        records=records,
        exit_code=EXIT_DONE,
        finished=False,
        setups=(setup, *others),
        place=DataPlace(request.data, request.data_dir),
        final=specification.choice is not None,
    )
    try:
        with stopper.listening():
            view.preparing("timing a few training steps")
            plan = make_plan(opened, task)
            view.planned(opened, plan, data)
            finished = search(opened, replace(task, setup=plan.setup), stopper, view)
    except (SQLAlchemyError, UnboundLocalError) as error:  # the latter is Optuna's, if a trial cannot be told to end
        if database_error(error) is None:
            raise
        view.notice(storage_failed(error))
        return replace(ended, exit_code=EXIT_FAILED)
    except SearchFailedError as error:
        view.notice(str(error))
        return replace(ended, exit_code=error.exit_code)
    except Interrupted as stop:
        if stop.reason:
            view.notice(stop.reason)
        return replace(ended, exit_code=stop.exit_code)
    return replace(ended, finished=finished)


def _resumed(request: SearchRequest, records: Records) -> SearchRequest:
    stored = records.specification(check_study_name(request.study or ""))
    if stored is None:
        return request
    specification = read_specification(stored)
    completed = request.over(stored_request(specification))
    if completed.data is None:
        raise InputError(
            "--data",
            None,
            f"is missing: study {request.study!r} was made on {specification.data.name}",
            "name the folder with --data folder:DIR",
        )
    return completed
