"""Search, and open a study."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from budgetnas.api.arguments import as_name, as_path
from budgetnas.api.calls import RESUMES, long_call
from budgetnas.api.networks import LimitValue
from budgetnas.api.study import Study
from budgetnas.api.wording import python_words
from budgetnas.data.arrays import DataArgument, as_data
from budgetnas.errors import EXIT_DONE, InputError, Interrupted, check_flag
from budgetnas.runs.reopen import DataPlace, study_specification
from budgetnas.storage.opening import open_records_read_only
from budgetnas.storage.urls import DEFAULT_STORAGE, for_other_processes, parse_storage


@python_words()
def search(
    study_file: str | Path | None = None,
    *,
    budget: LimitValue | None = None,
    max_macs: LimitValue | None = None,
    max_activations: LimitValue | None = None,
    max_weights_kb: LimitValue | None = None,
    max_ram_kb: LimitValue | None = None,
    trials: int | None = None,
    data: DataArgument | None = None,
    data_dir: str | Path | None = None,
    resolution: int | None = None,
    subset: int | None = None,
    subset_eval: int | None = None,
    split_seed: int | None = None,
    skip_damaged: bool | None = None,
    study: str | None = None,
    storage: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    recipe_space: str | None = None,
    space: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    seeds: Sequence[str] | None = None,
    sampler: str | None = None,
    seed: int | None = None,
    objective: str | None = None,
    pruner: str | None = None,
    fidelity: Mapping[str, Any] | None = None,
    finalists: int | None = None,
    final_seeds: int | None = None,
    final_epochs: int | str | None = None,
    device: str | None = None,
    precision: str | None = None,
    tune_setup: bool | None = None,
    workers: int | None = None,
    per_device: int | None = None,
    ray: str | None = None,
    gpus_per_trial: float | None = None,
    timeout: float | str | None = None,
    queue: bool = False,
    progress: bool = True,
) -> Study:
    """Search for the best residual network within a budget; the same call resumes.

    None leaves an argument to the study file, and then to its default. A study that exists keeps what it was created
    with. Ctrl-C, or the interrupt button of a notebook, saves every finished epoch and raises `KeyboardInterrupt`.

    Args:
        study_file: A study file, or the name of a shipped one, e.g. ``digits-demo``.
        budget: Limit on parameters: ``5e6``, ``"5M"`` or ``5_000_000``. Required without a study file.
        max_macs: Limit on multiply-accumulates per image.
        max_activations: Limit on activations per image.
        max_weights_kb: Limit on int8 weights, scales and biases, in KB of 1,024 bytes.
        max_ram_kb: Limit on int8 activations alive at once, in KB of 1,024 bytes.
        trials: Number of trials in total; 50 by default.
        data: ``cifar10`` (the default), ``cifar100``, ``fashion-mnist``, ``digits``, ``folder:DIR``, a pair of arrays
            (images, labels), or `ImageArrays`.
        data_dir: Folder of downloaded archives.
        resolution: Side of the images in pixels.
        subset: Number of training images, subsampled by class.
        subset_eval: Number of validation images, subsampled by class.
        split_seed: Seed of the validation split and of subsets; 0 by default.
        skip_damaged: Leave out the damaged files of a folder.
        study: Name of the study; DATA-BUDGET by default, e.g. ``cifar10-5M``.
        storage: Database; ``sqlite:///budgetnas.db`` by default.
        epochs: Epochs of each trial; 20 by default.
        batch_size: Images in one optimiser step; 128 by default.
        recipe_space: ``measured`` (the default), ``paper`` or ``tuned``.
        space: Table ``[space]`` of a study file, as a dictionary.
        recipe: Table ``[recipe]`` of a study file.
        seeds: Names of the initial trials.
        sampler: ``budget``, ``tpe``, ``random``, ``gp`` or ``nsga2``; by default the study's, or ``budget``.
        seed: Seed of the sampler; 0 by default.
        objective: ``accuracy`` (the default) or ``balanced-accuracy``, the mean of the accuracies of all classes:
            what candidates are ranked by.
        pruner: ``asha``, ``model``, ``median`` or ``none`` (the default).
        fidelity: Table ``[fidelity]`` of a study file.
        finalists: Number of networks in a final at the end; no final by default.
        final_seeds: Fresh seeds of each network in the final.
        final_epochs: Epochs of the networks that the final evaluates, or ``auto``; by default those of a trial.
        device: ``auto`` (the default), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto`` (the default), ``float32``, ``bf16`` or ``fp16``.
        tune_setup: Measure which precision, threads and layout are fastest, instead of following fixed rules.
        workers: Processes that search together; 1 by default.
        per_device: Largest number of workers on each GPU.
        ray: Address of a Ray cluster: ``auto`` or ``HOST:PORT``.
        gpus_per_trial: Share of a GPU for each trial on Ray, 0 to 1.
        timeout: Stop after this time: seconds, or ``"15m"``. The study then has fewer trials.
        queue: Queue the study for ``budgetnas worker --all``, and train nothing here.
        progress: Whether progress is shown.

    Returns:
        The study.

    Raises:
        InputError: If an argument breaks a rule, or differs from what the study was created with.
        SearchFailedError: If five runs in a row fail, or the storage is lost.
        KeyboardInterrupt: If the user stops the search.
    """
    given = {**locals()}
    from budgetnas.api.progress.searches import SearchProgress
    from budgetnas.api.progress.trainings import FinalProgress
    from budgetnas.searching.options import SearchOptions, read_study_file
    from budgetnas.searching.session import run_search

    check_flag("queue", queue)
    if study_file is not None and not isinstance(study_file, str | os.PathLike):
        hint = "images are data=..., a limit is budget=..."
        raise InputError("study_file", type(study_file).__name__, "must be a path or the name of a study file", hint)
    values = {
        name: value for name, value in given.items() if name not in ("study_file", "queue", "progress", "batch_size")
    }
    texts = {name: None if given[name] is None else str(given[name]) for name in ("storage", "study_file")}
    changed = {"batch": batch_size, "storage": texts["storage"], "data": as_data(data)}
    options = SearchOptions.parse(values | changed, source="search")
    if texts["study_file"] is not None:
        options = options.over(read_study_file(texts["study_file"]))
    with long_call(progress=progress, timeout_seconds=options.timeout) as call:
        views = SearchProgress(call.lines), FinalProgress(call.lines)
        result = run_search(options, call.stopper, *views, queue=queue)
        result.records.close()
        if result.outcome.exit_code != EXIT_DONE:
            raise Interrupted(result.outcome.exit_code, result.outcome.reason)
        if not (result.outcome.finished or queue):
            call.lines.say(f"Stopped. {RESUMES}")
    storage_url = parse_storage(options.storage or DEFAULT_STORAGE)
    return Study(result.study, for_other_processes(storage_url), DataPlace(options.data, options.data_dir))


@python_words(STUDY="name")
def open_study(
    name: str,
    *,
    storage: str | Path | None = None,
    data: DataArgument | None = None,
    data_dir: str | Path | None = None,
) -> Study:
    """Open a study that a search has created, by this or another program, finished or still running.

    Args:
        name: Its name.
        storage: Database; ``sqlite:///budgetnas.db`` by default.
        data: Its images, if it was made on a folder (``folder:DIR``) or on arrays. Only `Study.finish` and
            `Study.export` need them.
        data_dir: Folder of downloaded archives.

    Returns:
        The study.

    Raises:
        InputError: If the storage has no study of that name; it lists the studies.
    """
    as_name("name", name)
    text = str(storage or DEFAULT_STORAGE)
    folder = None if data_dir is None else as_path("data_dir", data_dir, 'write e.g. data_dir="downloads"')
    with closing(open_records_read_only(parse_storage(text))) as records:
        study_specification(records, name)
    return Study(
        name,
        for_other_processes(parse_storage(text)),
        DataPlace(as_data(data), folder),
    )
