"""``budgetnas finish``, and the final that ends a search."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.cli.looking import StudyArgument
from budgetnas.cli.output import JsonFlag, StorageOption, print_json, shown_storage, stderr, stdout, table
from budgetnas.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgetnas.report.final import Entrant, FinalResult


def finish_command(
    study: StudyArgument,
    finalists: Annotated[
        int | None, typer.Option(help="So many of the best are trained again.", show_default="the study's, or 3")
    ] = None,
    final_seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds of each network.", show_default="the study's, or 3")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="folder:DIR, if the study's data are one.", envvar="BUDGETNAS_DATA", show_default="study's"),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where downloaded archives lie.", envvar="BUDGETNAS_DATA_DIR")
    ] = None,
    storage: StorageOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", envvar="BUDGETNAS_DEVICE")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bf16.", envvar="BUDGETNAS_PRECISION")] = "auto",
    timeout: Annotated[str | None, typer.Option(help="Stop after so long: 90s, 15m, 2h.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Choose the winner of a study honestly: train the best again, and read the test split once.

    Example: budgetnas finish cifar10-5M
    """
    from budgetnas.cli.progress import FinalProgress, Lines
    from budgetnas.final import FinishRequest, finish
    from budgetnas.reopen import DataPlace
    from budgetnas.search.settings import choice_protocol, parse_timeout
    from budgetnas.search.study import open_records
    from budgetnas.stopping import Stopper
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage
    from budgetnas.train import alternatives, choose_setup

    request = FinishRequest(study, DataPlace(data, data_dir), choice_protocol(finalists, final_seeds))
    stopper = Stopper(parse_timeout(timeout))
    records = open_records(parse_storage(storage or DEFAULT_STORAGE), must_exist=True)
    setup = choose_setup(device, precision)
    setups = (setup, *alternatives(setup, precision))
    try:
        with Lines() as lines, stopper.listening():
            result = finish(request, records, setups, stopper, FinalProgress(lines))
    except Interrupted as stop:
        tell_stopped(stop, storage)
        raise
    if as_json:
        print_json(result.to_dict())
    else:
        print_final(result)
        print_next(result, storage)


def tell_stopped(stop: Interrupted, storage: str | None) -> None:
    """Tell how a final that was stopped goes on."""
    if stop.reason:
        stderr().print(stop.reason, markup=False)
    stderr().print("stopped; complete trainings of the final are recorded. Go on with:", markup=False)
    words = [shown_storage(one) or "" if one == storage else one for one in sys.argv[1:]]
    stderr().print(f"  {shlex.join(['budgetnas', *words])}", markup=False, soft_wrap=True)


def print_final(result: FinalResult) -> None:
    """Print what a final gave: all that was trained again, and what the test split says."""
    console = stdout()
    columns = ("", "architecture", "recipe", "parameters", "search, one run", "smoothed", "fresh mean", "sd", "n")
    title = f"Final of study {result.study}: validation accuracy with fresh seeds"
    console.print(table(title, columns, [_entrant_row(one) for one in result.entrants], left=3))
    if result.winner is None:
        console.print("the final is not over yet", markup=False)
        return
    for line in final_lines(result):
        console.print(line, markup=False)


def print_next(result: FinalResult, storage: str | None) -> None:
    """Print what to do with a winner."""
    shown = shown_storage(storage)
    where = ["--storage", shown] if shown else []
    stdout().print("\nGo on with:", markup=False)
    for command in ("export", "report"):
        stdout().print(f"  {shlex.join(['budgetnas', command, result.study, *where])}", markup=False)


def final_lines(result: FinalResult) -> list[str]:
    """Return the outcome of a final in sentences."""
    winner, reference = result.winner, result.reference
    assert winner is not None, "a final that is over has a winner"
    lines = ["", f"Winner: {winner.name}, {winner.params:,} parameters", f"  {winner.recipe.describe()}"]
    if not winner.test:
        return [*lines, "the test split is not read yet"]
    images = result.test_images or 0
    lines.append(
        f"test accuracy over {len(winner.test)} networks trained on train + validation ({images:,} test images):"
    )
    lines.append(f"  winner     {_spread(winner.test)}")
    if reference is None:
        lines.append("  no seed network is in the final: there is nothing to hold the winner against")
    elif reference is winner:
        lines.append(f"  the winner is the seed {reference.label}: the search found nothing better")
    else:
        lines.append(f"  reference  {_spread(reference.test)} ({reference.name}, {reference.params:,} parameters)")
    if result.difference is not None:
        one = result.difference
        lines.append(
            f"  winner - reference: {100 * one.estimate:+.2f} points, 95 % interval {100 * one.low:+.2f} to "
            f"{100 * one.high:+.2f} (Welch); {_verdict(one.low, one.high)}"
        )
    if result.binomial_error is not None:
        lines.append(
            f"  the finite test split alone leaves a standard error of {100 * result.binomial_error:.2f} points"
        )
    if result.readings > 1:
        lines.append(f"  the test split was read {result.readings} times for this study: this is not a first look")
    return lines


def _verdict(low: float, high: float) -> str:
    width = f"{100 * (high - low):.2f} points wide"
    if low > 0:
        return f"{width}: the winner is better"
    if high < 0:
        return f"{width}: the reference is better"
    return f"{width}, and it holds 0: these seeds do not tell which is better"


def _spread(accuracies: Sequence[float]) -> str:
    import statistics

    values = [100 * one for one in accuracies]
    return f"mean {statistics.fmean(values):.2f} %, sd {statistics.stdev(values):.2f}, n = {len(values)}"


def _entrant_row(one: Entrant) -> tuple[str, ...]:
    import statistics

    marks = [("winner", one.is_winner), ("reference", one.is_reference)]
    spread = statistics.stdev(one.validation) if len(one.validation) > 1 else None
    return (
        ", ".join(name for name, marked in marks if marked),
        one.name,
        one.recipe.describe(),
        f"{one.params:,}",
        f"{one.search_accuracy:.2%}",
        f"{one.score:.2%}",
        "-" if one.mean_validation is None else f"{one.mean_validation:.2%}",
        "-" if spread is None else f"{100 * spread:.2f}",
        str(len(one.validation)),
    )
