"""``budgetnas worker``."""

from __future__ import annotations

from typing import Annotated

import typer

from budgetnas.cli.completion import study_names
from budgetnas.cli.options import (
    DataDirOption,
    DeviceOption,
    JsonFlag,
    PrecisionOption,
    StorageOption,
    StudyDataOption,
    TimeoutOption,
    option,
)
from budgetnas.errors import InputError


def worker_command(
    study: Annotated[str | None, option("Name of the study.", "BUDGETNAS_STUDY", autocompletion=study_names)] = None,
    storage: StorageOption = None,
    data: StudyDataOption = None,
    data_dir: DataDirOption = None,
    trials: Annotated[
        int | None, option("Number of trials in total.", "BUDGETNAS_TRIALS", default="the last search's")
    ] = None,
    sampler: Annotated[
        str | None, option("budget, tpe, random, gp or nsga2.", "BUDGETNAS_SAMPLER", default="the last search's")
    ] = None,
    seed: Annotated[int, option("Seed of the sampler.")] = 0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    timeout: TimeoutOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Join a study that a search created, from this or another machine, until it has its trials.

    Example: budgetnas worker --storage postgresql+psycopg://USER@HOST/DATABASE --study cifar10-5M
    """
    from budgetnas.api.progress.lines import TerminalLines
    from budgetnas.api.progress.searches import SearchProgress
    from budgetnas.cli.summary import print_end
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.searching.options import parse_timeout
    from budgetnas.searching.workers.worker import WorkerRequest, run_worker
    from budgetnas.storage.urls import DEFAULT_STORAGE

    if study is None:
        raise InputError("--study", None, "is missing: the study to join", "see budgetnas studies")
    request = WorkerRequest(
        storage=storage or DEFAULT_STORAGE,
        study=study,
        data=data,
        data_dir=data_dir,
        device=device,
        precision=precision,
        sampler=sampler,
        seed=seed,
        trials=trials,
        timeout=parse_timeout(timeout),
    )
    with TerminalLines() as lines:
        result = run_worker(request, Stopper(request.timeout), SearchProgress(lines))
    print_end(result.records, study, storage, result.outcome, as_json=as_json)
    raise typer.Exit(result.outcome.exit_code)
