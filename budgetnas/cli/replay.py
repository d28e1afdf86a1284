"""``budgetnas replay``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.cli.completion import recorded_run_names
from budgetnas.cli.console import chosen_runtime, print_json, print_stopped, stdout, table
from budgetnas.cli.options import DataDirOption, DataOption, DeviceOption, JsonFlag, StorageOption, option, out_option
from budgetnas.errors import BudgetnasError, Interrupted, check_out

if TYPE_CHECKING:
    from budgetnas.experiments.replay_results import ReplayResult

DEFAULT_PAGE = Path("replay-report.html")


def replay_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="v1-sgd, ... resnet152.", autocompletion=recorded_run_names),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Replay all runs; resumes after an interruption.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the recorded runs.")] = False,
    epochs: Annotated[
        int | None, option("Number of epochs; the cosine scales with it.", default="the report's")
    ] = None,
    t_max: Annotated[int | None, option("Length of the cosine in epochs.", default="the report's, scaled")] = None,
    subset: Annotated[int | None, option("Number of train images, a stratified subsample.")] = None,
    subset_eval: Annotated[int | None, option("Number of test images, a stratified subsample.")] = None,
    data: DataOption = "cifar10",
    data_dir: DataDirOption = None,
    storage: StorageOption = None,
    precision: Annotated[str, option("float32 (the report's), bf16, fp16 or auto.")] = "float32",
    seed: Annotated[int, option("Seed of initial weights, order and augmentation.")] = 0,
    device: DeviceOption = "auto",
    out: Annotated[Path, out_option("HTML file with all replays.", "FILE")] = DEFAULT_PAGE,
    as_json: JsonFlag = False,
) -> None:
    """Retrain runs of the source report by its protocol, and compare them with its printed figures.

    Example: budgetnas replay v2-sgd
    """
    if listing:
        _print_list(as_json)
        return
    from budgetnas.api.progress.lines import TerminalLines
    from budgetnas.api.progress.trainings import ReplayProgress
    from budgetnas.data import DataRequest
    from budgetnas.experiments.replay import ReplayRequest, names_of, recorded_results, replay
    from budgetnas.report.page import write_replay_report
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.storage.opening import open_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    request = ReplayRequest(
        names_of(names or (), everything=everything),
        DataRequest(name=data, data_dir=data_dir, subset=subset, subset_eval=subset_eval),
        epochs=epochs,
        t_max=t_max,
        seed=seed,
    )
    request.runs()
    check_out(out)
    url, runtime, stopper = parse_storage(storage or DEFAULT_STORAGE), chosen_runtime(device, precision), Stopper()
    try:
        with TerminalLines() as lines, stopper.listening():
            outcome = replay(request, runtime, lambda: open_records(url), stopper, ReplayProgress(lines))
    except Interrupted:
        print_stopped(storage, "Every finished epoch is saved.")
        raise
    page = write_replay_report(recorded_results(outcome.records), out)
    if as_json:
        print_json([result.comparison() | {"page": str(page)} for result in outcome.results])
    else:
        _print_results(outcome.results)
        stdout().print(f"\npage with all curves and tables: {page}", soft_wrap=True)
    if outcome.failed:
        raise BudgetnasError(f"{', '.join(outcome.failed)} failed; {len(outcome.results)} replays are recorded")


def _print_list(as_json: bool) -> None:
    from budgetnas.experiments.plain import plain_fields
    from budgetnas.experiments.published import recorded_runs

    runs = recorded_runs().values()
    if as_json:
        names = ("name", "params", "recipe", "printed_train", "printed_test")
        print_json([plain_fields(run, *names) for run in runs])
        return
    rows = [
        (
            run.name,
            run.network,
            run.recipe.describe(),
            f"{run.recipe.t_max}",
            f"{run.params:,}",
            _percent(run.printed_train),
            _percent(run.printed_test),
        )
        for run in runs
    ]
    columns = ("run", "network", "recipe", "T_max", "parameters", "printed train %", "printed test %")
    stdout().print(table("Recorded runs of the source report", columns, rows, left=3))


def _print_results(results: Sequence[ReplayResult]) -> None:
    from budgetnas.experiments.replay_results import marked

    rows = []
    for result in results:
        shown = result.comparison()
        for split in ("train", "test"):
            rows.append(
                (
                    marked(result.run.name, result.why_not),
                    split,
                    _percent(shown[f"printed_{split}"]),
                    _percent(shown[f"best_{split}"]),
                    str(shown[f"best_{split}_epoch"]),
                    _percent(shown[f"best_{split}_difference"], "+"),
                    _percent(shown[f"last_{split}"]),
                )
            )
    columns = ("run", "split", "printed % (best)", "ours % (best)", "epoch", "difference", "ours % (last epoch)")
    stdout().print(table("Replays and the report's printed figures", columns, rows, left=2))
    runs: dict[tuple[str, ...], list[str]] = {}
    for result in results:
        runs.setdefault(result.why_not, []).append(result.run.name)
    for why_not, names in ((why_not, names) for why_not, names in runs.items() if why_not):
        stdout().print(f"* {', '.join(names)}: NOT COMPARABLE with the report: {'; '.join(why_not)}")
    stdout().print("The best epoch was chosen on the test set, as in the report, so its figure is optimistic.")
    stdout().print("The last epoch's figure is unbiased.")


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.2f}"
