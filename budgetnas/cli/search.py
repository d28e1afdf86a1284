"""``budgetnas search``."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

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
    subset: Annotated[int | None, typer.Option(help="Number of training images, subsampled by class.")] = None,
    subset_eval: Annotated[int | None, typer.Option(help="Number of validation images, subsampled by class.")] = None,
    batch: Annotated[
        int | None, typer.Option("--batch-size", "--batch", help="Images in one optimiser step.", show_default="128")
    ] = None,
    recipe_space: Annotated[
        str | None,
        typer.Option(
            help="measured, paper or tuned; tuned searches more of the recipe.",
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
        int | None, typer.Option(help="End with a final of that many networks.", show_default="no final")
    ] = None,
    final_seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds of each network in the final.", show_default="3")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampler.", show_default="0")] = None,
    split_seed: Annotated[
        int | None, typer.Option(help="Seed of the validation split and of subsets.", show_default="0")
    ] = None,
    skip_damaged: Annotated[
        bool | None, typer.Option("--skip-damaged", help="Leave out the damaged files of a folder; recorded by name.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda or cuda:N.", envvar="BUDGETNAS_DEVICE", show_default="auto"),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, float32, bf16 or fp16.", envvar="BUDGETNAS_PRECISION", show_default="auto")
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
            help="Most workers on one GPU; without --workers, on each.",
            envvar="BUDGETNAS_PER_DEVICE",
            show_default="1",
        ),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Search on a Ray cluster: auto or HOST:PORT.", envvar="BUDGETNAS_RAY")
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(
            help="Share of a GPU for each trial on Ray, 0 to 1.",
            envvar="BUDGETNAS_GPUS_PER_TRIAL",
            show_default="1, or 0 without GPUs",
        ),
    ] = None,
    timeout: TimeoutOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Search for the best residual network within a budget; run it again to resume.

    Example: budgetnas search --budget 5e6 --trials 50
    """
    from budgetnas.cli.progress import FinalProgress, Lines
    from budgetnas.cli.search_progress import SearchProgress
    from budgetnas.cli.summary import print_end
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.search.options import SearchOptions, read_study_file
    from budgetnas.search.session import run_search

    given = {name: value for name, value in context.params.items() if name in SearchOptions.model_fields}
    options = SearchOptions.parse(given)
    if study_file is not None:
        options = options.over(read_study_file(study_file))
    with Lines() as lines:
        result = run_search(options, Stopper(options.timeout), SearchProgress(lines), FinalProgress(lines))
    with closing(result.records):
        print_end(result.records, result.study, storage, result.outcome, as_json=as_json)
    raise typer.Exit(result.outcome.exit_code)
