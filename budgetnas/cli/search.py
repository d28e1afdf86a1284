"""``budgetnas search``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.cli.console import print_json, print_resume, stderr
from budgetnas.cli.options import (
    BudgetOption,
    DataDirOption,
    JsonFlag,
    MaxActivationsOption,
    MaxMacsOption,
    StorageOption,
    StudyFileArgument,
    TimeoutOption,
)
from budgetnas.errors import EXIT_FAILED, Interrupted

if TYPE_CHECKING:
    from budgetnas.experiments.final import FinalCallbacks
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.search.session import SearchResult


def search_command(
    context: typer.Context,
    study_file: StudyFileArgument = None,
    budget: BudgetOption = None,
    max_macs: MaxMacsOption = None,
    max_activations: MaxActivationsOption = None,
    trials: Annotated[
        int | None, typer.Option(help="Number of trials in total.", envvar="BUDGETNAS_TRIALS", show_default="50")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="cifar10, cifar100, fashion-mnist, digits or folder:DIR.",
            envvar="BUDGETNAS_DATA",
            show_default="cifar10",
        ),
    ] = None,
    data_dir: DataDirOption = None,
    resolution: Annotated[int | None, typer.Option(help="Side of the images in pixels.")] = None,
    study: Annotated[
        str | None, typer.Option(help="Name of the study.", envvar="BUDGETNAS_STUDY", show_default="DATA-BUDGET")
    ] = None,
    storage: StorageOption = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of each trial.", envvar="BUDGETNAS_EPOCHS", show_default="20")
    ] = None,
    subset: Annotated[int | None, typer.Option(help="Thin the training images to so many, stratified.")] = None,
    subset_eval: Annotated[int | None, typer.Option(help="Thin the validation images likewise.")] = None,
    batch: Annotated[
        int | None, typer.Option("--batch-size", "--batch", help="Images in one optimiser step.", show_default="128")
    ] = None,
    recipe_space: Annotated[
        str | None,
        typer.Option(
            help="measured, paper, or tuned: label smoothing and more searched.",
            envvar="BUDGETNAS_RECIPE_SPACE",
            show_default="measured",
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="tpe, random, gp, nsga2 or budget.", envvar="BUDGETNAS_SAMPLER", show_default="tpe"),
    ] = None,
    pruner: Annotated[
        str | None, typer.Option(help="asha, median or none.", envvar="BUDGETNAS_PRUNER", show_default="none")
    ] = None,
    finalists: Annotated[
        int | None, typer.Option(help="End with a final: train so many of the best again.", show_default="no final")
    ] = None,
    final_seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds of each network of the final.", show_default="3")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampler.", show_default="0")] = None,
    split_seed: Annotated[
        int | None, typer.Option(help="Seed of validation split and subset.", show_default="0")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda or cuda:N.", envvar="BUDGETNAS_DEVICE", show_default="auto"),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, float32 or bf16.", envvar="BUDGETNAS_PRECISION", show_default="auto")
    ] = None,
    tune_setup: Annotated[
        bool | None,
        typer.Option(
            "--tune-setup",
            help="Time precision, threads and layout instead of following the rules: other bits each time.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that search together.", envvar="BUDGETNAS_WORKERS", show_default="1"),
    ] = None,
    per_device: Annotated[
        int | None,
        typer.Option(
            help="Most workers on one GPU; alone, so many on each.", envvar="BUDGETNAS_PER_DEVICE", show_default="1"
        ),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Search on a Ray cluster: auto or HOST:PORT.", envvar="BUDGETNAS_RAY")
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(
            help="Share of a GPU that a trial takes on Ray, 0 to 1.",
            envvar="BUDGETNAS_GPUS_PER_TRIAL",
            show_default="1, or 0 without GPUs",
        ),
    ] = None,
    timeout: TimeoutOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Search the best residual network within a budget; run it again to resume.

    Example: budgetnas search --budget 5e6 --trials 50
    """
    from sqlalchemy.exc import SQLAlchemyError

    from budgetnas.cli.progress import FinalProgress, Lines, SearchProgress
    from budgetnas.cli.summary import print_summary
    from budgetnas.report.tables import study_tables
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.search.options import SearchOptions, read_study_file
    from budgetnas.search.session import run_search

    given = {name: value for name, value in context.params.items() if name in SearchOptions.model_fields}
    request = SearchOptions.parse(given)
    if study_file is not None:
        request = request.over(read_study_file(study_file))
    stopper = Stopper(request.timeout)
    with Lines() as lines:
        result = run_search(request, stopper, SearchProgress(lines))
        if result.finished and result.final:
            _hold_final(result, storage, stopper, FinalProgress(lines))
    try:
        tables = study_tables(result.records, result.study)
    except SQLAlchemyError:  # it was told already why the search ended
        if result.exit_code != EXIT_FAILED:
            raise
    else:
        if as_json:
            print_json(tables.to_dict())
        else:
            print_summary(tables, request.storage)
    if not result.finished:
        stderr().print("stopped; all that was trained is recorded. Go on with:", markup=False)
        print_resume(storage)
    raise typer.Exit(result.exit_code)


def _hold_final(result: SearchResult, storage: str | None, stopper: Stopper, view: FinalCallbacks) -> None:
    """Hold the final that ends a search."""
    from budgetnas.cli.finish import tell_stopped
    from budgetnas.experiments.final import FinishRequest, finish

    try:
        with stopper.listening():
            finish(FinishRequest(result.study, result.place), result.records, result.runtime, stopper, view)
    except Interrupted as stop:
        tell_stopped(stop, storage)
        raise
