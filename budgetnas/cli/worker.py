"""``budgetnas worker``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final

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
    is_from_environment,
    option,
)
from budgetnas.errors import InputError

if TYPE_CHECKING:
    from budgetnas.searching.options import SearchOptions
    from budgetnas.searching.workers.worker import WorkerRequest

_OF_STUDY: Final = ("study", "data", "trials", "sampler", "seed")
_OF_POOL: Final = ("workers", "per_device", "ray", "gpus_per_trial")
_OF_ALL: Final = ("until_idle", *_OF_POOL)


def worker_command(
    context: typer.Context,
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
    seed: Annotated[int | None, option("Seed of the sampler.", default="0")] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    every: Annotated[
        bool, typer.Option("--all", help="Train every queued study, in turns, and wait for more.")
    ] = False,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="With --all: end when nothing is left.")] = False,
    workers: Annotated[
        int | None, option("With --all: processes on this machine.", "BUDGETNAS_WORKERS", default="1")
    ] = None,
    per_device: Annotated[
        int | None,
        option("With --all: most workers on one GPU; without --workers, on each.", "BUDGETNAS_PER_DEVICE", default="1"),
    ] = None,
    ray: Annotated[
        str | None, option("With --all: train on a Ray cluster, auto or HOST:PORT.", "BUDGETNAS_RAY")
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        option(
            "Share of a GPU for each worker on Ray, 0 to 1.",
            "BUDGETNAS_GPUS_PER_TRIAL",
            default="1, or 0 without GPUs",
        ),
    ] = None,
    timeout: TimeoutOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Join a study that a search created, or all that are queued, from this or another machine.

    Example: budgetnas worker --storage postgresql+psycopg://USER@HOST/DATABASE --study cifar10-5M
    """
    from budgetnas.api.progress.lines import TerminalLines
    from budgetnas.api.progress.searches import SearchProgress
    from budgetnas.cli.summary import print_end
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.searching.options import SearchOptions, parse_timeout
    from budgetnas.searching.workers.worker import WorkerRequest, run_worker
    from budgetnas.storage.urls import DEFAULT_STORAGE

    _check_together(context, _OF_STUDY if every else _OF_ALL, every=every)
    common: dict[str, Any] = {
        "storage": storage or DEFAULT_STORAGE,
        "data_dir": data_dir,
        "device": device,
        "precision": precision,
        "timeout": parse_timeout(timeout),
    }
    if every:
        pool = SearchOptions.parse({name: context.params[name] for name in ("device", *_OF_POOL)})
        request = WorkerRequest(**common, until_idle=until_idle)
        raise typer.Exit(_train_queue(request, pool, storage, as_json=as_json))
    if study is None:
        raise InputError("--study", None, "is missing: the study to join", "see budgetnas studies, or use --all")
    request = WorkerRequest(**common, study=study, data=data, sampler=sampler, seed=seed or 0, trials=trials)
    with TerminalLines() as lines:
        result = run_worker(request, Stopper(request.timeout), SearchProgress(lines))
    print_end(result.records, study, storage, result.outcome, data=data, as_json=as_json)
    raise typer.Exit(result.outcome.exit_code)


def _check_together(context: typer.Context, others: Iterable[str], *, every: bool) -> None:
    """Check that no option is given that only `--study`, or only `--all`, has; environment variables do not count."""
    for name in others:
        value = context.params[name]
        if value is None or value is False or is_from_environment(context, name):
            continue
        flag, shown = f"--{name.replace('_', '-')}", None if value is True else value
        if every:
            raise InputError(flag, shown, "does not go with --all, which trains every queued study", "leave it out")
        raise InputError(flag, shown, "goes with --all", f"add --all, or leave {flag} out")


def _train_queue(request: WorkerRequest, pool: SearchOptions, storage: str | None, *, as_json: bool) -> int:
    """Train what is queued; return the exit code."""
    from budgetnas.api.progress.lines import TerminalLines
    from budgetnas.cli.studies import print_studies
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.searching.callbacks import MessageCallbacks
    from budgetnas.searching.workers.serving import train_queue

    with TerminalLines() as lines:
        result = train_queue(request, pool, Stopper(request.timeout), MessageCallbacks(lines.say))
    result.records.close()
    if result.outcome.finished or as_json:
        print_studies(storage, as_json=as_json)
    return result.outcome.exit_code
