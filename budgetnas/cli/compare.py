"""``budgetnas compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from budgetnas.cli.console import chosen_runtime, print_json, print_stopped, stdout, table
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
from budgetnas.errors import plural

if TYPE_CHECKING:
    from budgetnas.experiments.comparison import Comparison, Pair, Side


def compare_command(
    study: StudyArgument,
    architectures: Annotated[int, option("Number of architectures.")] = 5,
    rates: Annotated[int, option("Learning rates of each optimiser.")] = 3,
    seed: Annotated[int, option("Seed of the drawn architectures and of all runs.")] = 0,
    storage: StorageOption = None,
    data: StudyDataOption = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    timeout: TimeoutOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Train the same architectures with SGD and Adam, equally tuned, and print the interval of the difference.

    Example: budgetnas compare cifar10-5M --architectures 6 --rates 3
    """
    from budgetnas.api.progress.lines import TerminalLines
    from budgetnas.cli.compare_progress import CompareProgress
    from budgetnas.experiments.compare import CompareRequest, compare
    from budgetnas.experiments.comparison import to_dict
    from budgetnas.runs.interrupts import Stopper
    from budgetnas.runs.reopen import DataPlace
    from budgetnas.searching.options import parse_timeout
    from budgetnas.storage.opening import open_records
    from budgetnas.storage.urls import DEFAULT_STORAGE, parse_storage

    request = CompareRequest(study, architectures, rates, seed, DataPlace(data, data_dir))
    stopper, url = Stopper(parse_timeout(timeout)), parse_storage(storage or DEFAULT_STORAGE)
    runtime = chosen_runtime(device, precision)
    with TerminalLines() as lines, stopper.listening():
        outcome = compare(request, runtime, lambda: open_records(url, must_exist=True), stopper, CompareProgress(lines))
    if as_json:
        print_json({"study": study} | to_dict(outcome.comparison))
    else:
        _print_comparison(study, outcome.comparison)
    if not outcome.comparison.finished:
        print_stopped(storage, "Every finished epoch is saved.")
    raise typer.Exit(outcome.exit_code)


def _print_comparison(study: str, comparison: Comparison) -> None:
    from budgetnas.experiments.comparison import NAMES, OPTIMIZERS, conclusion
    from budgetnas.space.initial_trials import WEIGHT_DECAY

    console, design = stdout(), comparison.design
    console.print(f"\nSGD and Adam on study {study}")
    for optimizer in OPTIMIZERS:
        rates = ", ".join(f"{rate:.3g}" for rate in design.rates(optimizer))
        decay = WEIGHT_DECAY[optimizer]
        console.print(f"{NAMES[optimizer]}: learning rates {rates}; weight decay {decay:g}")
    console.print(
        f"all: {plural(design.recipes.epochs, 'epoch')}, batch {design.recipes.batch}; every rate with a single seed, "
        f"the best again with a fresh seed; {design.measure.on('validation')} after the last epoch",
    )
    columns = (
        *("architecture", "", "parameters", "SGD rate", "first", "again"),
        *("Adam rate", "first", "again", "SGD minus Adam"),
    )
    console.print(
        table(
            "Best rate of each optimiser, first run and again with a fresh seed",
            columns,
            map(_row, comparison.pairs),
            left=2,
        )
    )
    for pair in comparison.dropped:
        console.print(f"{pair.entrant.name} is dropped: {pair.why_dropped}")
    for sentence in conclusion(comparison):
        console.print(sentence, soft_wrap=True)


def _row(pair: Pair) -> tuple[str, ...]:
    difference = "dropped" if pair.difference is None else f"{100 * pair.difference:+.2f}"
    entrant = pair.entrant
    return (
        entrant.name,
        entrant.architecture.describe(),
        f"{entrant.params:,}",
        *_cells(pair.sgd),
        *_cells(pair.adam),
        difference,
    )


def _cells(side: Side) -> tuple[str, str, str]:
    if side.best is None:
        return "-", "-", "-"
    again = "-" if side.accuracy is None else f"{side.accuracy:.2%}"
    return f"{side.best.rate:.3g}", f"{side.best.accuracy:.2%}", again
