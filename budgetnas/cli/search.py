"""``budgetnas search``."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from budgetnas.cli.completion import study_names
from budgetnas.cli.options import (
    BudgetOption,
    DataDirOption,
    JsonFlag,
    MaxActivationsOption,
    MaxMacsOption,
    MaxRamOption,
    MaxWeightsOption,
    StorageOption,
    StudyFileArgument,
    TimeoutOption,
    is_from_environment,
    option,
)
from budgetnas.errors import EXIT_DONE

_OF_WORKERS: Final = frozenset({"workers", "per_device", "ray", "gpus_per_trial", "precision"})
"""Options with an environment variable that a search which is queued does not have."""


def search_command(
    context: typer.Context,
    study_file: StudyFileArgument = None,
    budget: BudgetOption = None,
    max_macs: MaxMacsOption = None,
    max_activations: MaxActivationsOption = None,
    max_weights_kb: MaxWeightsOption = None,
    max_ram_kb: MaxRamOption = None,
    trials: Annotated[int | None, option("Number of trials in total.", "BUDGETNAS_TRIALS", default="50")] = None,
    data: Annotated[
        str | None,
        option("cifar10, cifar100, fashion-mnist, digits or folder:DIR.", "BUDGETNAS_DATA", default="cifar10"),
    ] = None,
    data_dir: DataDirOption = None,
    resolution: Annotated[int | None, option("Side of the images in pixels.")] = None,
    study: Annotated[
        str | None, option("Name of the study.", "BUDGETNAS_STUDY", default="DATA-BUDGET", autocompletion=study_names)
    ] = None,
    storage: StorageOption = None,
    epochs: Annotated[int | None, option("Epochs of each trial.", "BUDGETNAS_EPOCHS", default="20")] = None,
    subset: Annotated[int | None, option("Number of training images, subsampled by class.")] = None,
    subset_eval: Annotated[int | None, option("Number of validation images, subsampled by class.")] = None,
    batch: Annotated[
        int | None, typer.Option("--batch-size", "--batch", help="Images in one optimiser step.", show_default="128")
    ] = None,
    recipe_space: Annotated[
        str | None,
        option(
            "measured, paper or tuned; tuned searches more of the recipe.", "BUDGETNAS_RECIPE_SPACE", default="measured"
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        option("budget, tpe, random, gp or nsga2.", "BUDGETNAS_SAMPLER", default="the study's, or budget"),
    ] = None,
    objective: Annotated[
        str | None,
        option("accuracy or balanced-accuracy: the mean over classes.", "BUDGETNAS_OBJECTIVE", default="accuracy"),
    ] = None,
    pruner: Annotated[str | None, option("asha, model, median or none.", "BUDGETNAS_PRUNER", default="none")] = None,
    finalists: Annotated[
        int | None, option("Run a final of this many networks at the end.", default="no final")
    ] = None,
    final_seeds: Annotated[int | None, option("Fresh seeds of each network in the final.", default="3")] = None,
    final_epochs: Annotated[
        str | None, option("Epochs of the networks that the final evaluates, or auto.", default="those of a trial")
    ] = None,
    seed: Annotated[int | None, option("Seed of the sampler.", default="0")] = None,
    split_seed: Annotated[int | None, option("Seed of the validation split and of subsets.", default="0")] = None,
    skip_damaged: Annotated[
        bool | None, typer.Option("--skip-damaged", help="Leave out damaged files of a folder, and record their names.")
    ] = None,
    device: Annotated[str | None, option("auto, cpu, cuda, cuda:N or mps.", "BUDGETNAS_DEVICE", default="auto")] = None,
    precision: Annotated[
        str | None, option("auto, float32, bf16 or fp16.", "BUDGETNAS_PRECISION", default="auto")
    ] = None,
    tune_setup: Annotated[
        bool | None,
        typer.Option(
            "--tune-setup",
            help="Measure the fastest precision, threads and layout; results then vary from call to call.",
        ),
    ] = None,
    workers: Annotated[int | None, option("Processes that search together.", "BUDGETNAS_WORKERS", default="1")] = None,
    per_device: Annotated[
        int | None, option("Largest number of workers on each GPU.", "BUDGETNAS_PER_DEVICE", default="1")
    ] = None,
    ray: Annotated[str | None, option("Search on a Ray cluster: auto or HOST:PORT.", "BUDGETNAS_RAY")] = None,
    gpus_per_trial: Annotated[
        float | None,
        option(
            "Share of a GPU for each trial on Ray, 0 to 1.", "BUDGETNAS_GPUS_PER_TRIAL", default="1, or 0 without GPUs"
        ),
    ] = None,
    timeout: TimeoutOption = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="Queue the study for budgetnas worker --all, and train nothing here.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Search for the best residual network within a budget; run it again to resume.

    Example: budgetnas search --budget 5e6 --trials 50
    """
    from budgetnas.api.progress.lines import TerminalLines
    from budgetnas.api.progress.searches import SearchProgress
    from budgetnas.api.progress.trainings import FinalProgress
    from budgetnas.cli.summary import print_end, print_queued
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.searching.options import SearchOptions, read_study_file
    from budgetnas.searching.session import run_search

    given = {name: value for name, value in context.params.items() if name in SearchOptions.model_fields}
    if queue:  # the workers decide how they train, whatever this process's environment says
        given = {name: value for name, value in given.items() if not _is_left_to_workers(context, name)}
    options = SearchOptions.parse(given)
    if study_file is not None:
        options = options.over(read_study_file(study_file))
    with TerminalLines() as lines:
        views = SearchProgress(lines), FinalProgress(lines)
        result = run_search(options, Stopper(options.timeout), *views, queue=queue)
    if queue and result.outcome.exit_code == EXIT_DONE:
        print_queued(result.records, result.study, storage, as_json=as_json)
        return
    data = options.data if isinstance(options.data, str) else None
    print_end(result.records, result.study, storage, result.outcome, data=data, as_json=as_json)
    raise typer.Exit(result.outcome.exit_code)


def _is_left_to_workers(context: typer.Context, name: str) -> bool:
    return name in _OF_WORKERS and is_from_environment(context, name)
