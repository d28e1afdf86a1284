"""``budgetnas finish``: the final evaluation of a study."""

from __future__ import annotations

from typing import Annotated

import typer

from budgetnas.cli.console import chosen_runtime, print_json, print_next, print_stopped
from budgetnas.cli.options import (
    DataDirOption,
    DeviceOption,
    JsonFlag,
    PrecisionOption,
    StorageOption,
    StudyArgument,
    StudyDataOption,
    TimeoutOption,
    option,
)
from budgetnas.errors import Interrupted


def finish_command(
    study: StudyArgument,
    finalists: Annotated[int | None, option("Number of finalists.", default="the study's, or 3")] = None,
    final_seeds: Annotated[int | None, option("Fresh seeds of each finalist.", default="the study's, or 3")] = None,
    final_epochs: Annotated[
        str | None,
        option("Epochs of the networks to evaluate on the test split, or auto.", default="the study's"),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also evaluate the exported network's int8 file on the test split, once.")
    ] = False,
    data: StudyDataOption = None,
    data_dir: DataDirOption = None,
    storage: StorageOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    workers: Annotated[int | None, option("Processes that train together.", "BUDGETNAS_WORKERS", default="1")] = None,
    per_device: Annotated[
        int | None, option("Largest number of workers on each GPU.", "BUDGETNAS_PER_DEVICE", default="1")
    ] = None,
    timeout: TimeoutOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Retrain the finalists of a study with fresh seeds, choose the winner, and evaluate it on the test split once.

    Example: budgetnas finish cifar10-5M
    """
    from budgetnas.api.final_int8 import evaluate_int8_of_final
    from budgetnas.api.progress.lines import TerminalLines
    from budgetnas.api.progress.trainings import FinalProgress
    from budgetnas.cli.final_text import print_final
    from budgetnas.experiments.final_plan import FinishRequest
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.runs.reopen import DataPlace
    from budgetnas.searching.options import SearchOptions, choice_protocol, parse_timeout
    from budgetnas.searching.workers.finals import finish_with
    from budgetnas.searching.workers.pools import pool_for
    from budgetnas.storage.opening import open_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    given = {"final_epochs": final_epochs, "workers": workers, "per_device": per_device, "device": device}
    options = SearchOptions.parse(given)
    protocol = choice_protocol(finalists, final_seeds)
    request = FinishRequest(study, DataPlace(data, data_dir), protocol, options.final_epochs)
    stopper, url = Stopper(parse_timeout(timeout)), parse_storage(storage or DEFAULT_STORAGE)
    records = open_records(url, must_exist=True)
    runtime = chosen_runtime(device, precision)
    records.take_up(study)
    try:
        with TerminalLines() as lines, stopper.listening(), pool_for(options, url, runtime) as pool:
            view = FinalProgress(lines)
            result = finish_with(pool, request, records, runtime, precision, stopper, view)
            if int8:
                result = evaluate_int8_of_final(study, request.place, records, stopper, view.on_progress)
    except Interrupted:
        print_stopped(storage, "Every finished epoch of the final is saved.")
        raise
    if as_json:
        print_json(result.to_dict())
    else:
        print_final(result)
        images = [] if data is None else ["--data", data]
        print_next(storage, ["export", study, *(["--int8"] if int8 else []), *images], ["report", study])
