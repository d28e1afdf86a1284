"""The outcome of a final, as text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from budgetnas.cli.console import stdout, table
from budgetnas.experiments.final_results import Entrant, FinalResult


def print_final(result: FinalResult) -> None:
    """Print what a final gave: all that was trained again, and what the test split says."""
    console = stdout()
    console.print()
    columns = ("", "architecture", "recipe", "parameters", "in the search", "smoothed", "fresh mean", "sd", "n")
    title = f"Final of study {result.study}: validation accuracy with fresh seeds"
    console.print(table(title, columns, [_entrant_row(one) for one in result.entrants], left=3))
    if result.winner is None:
        console.print("the final is not over yet", markup=False)
        return
    for line in final_lines(result):
        console.print(line, markup=False)


def final_lines(result: FinalResult) -> list[str]:
    """Return the outcome of a final in sentences."""
    winner, reference = result.winner, result.reference
    assert winner is not None, "a final that is over has a winner"
    lines = [f"winner: {winner.name}, {winner.run.params:,} parameters"]
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
        lines.append(f"  the winner is the seed {reference.run.label}: the search found nothing better")
    else:
        lines.append(f"  reference  {_spread(reference.test)} ({reference.name}, {reference.run.params:,} parameters)")
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
    values = [100 * one for one in accuracies]
    return f"mean {statistics.fmean(values):.2f} %, sd {statistics.stdev(values):.2f}, n = {len(values)}"


def _entrant_row(one: Entrant) -> tuple[str, ...]:
    marks = [("winner", one.is_winner), ("reference", one.is_reference)]
    spread = statistics.stdev(one.validation) if len(one.validation) > 1 else None
    return (
        ", ".join(name for name, marked in marks if marked),
        one.name,
        one.run.recipe.describe(),
        f"{one.run.params:,}",
        f"{one.search_accuracy:.2%}" + (f" (mean of {one.search_trainings})" if one.search_trainings > 1 else ""),
        f"{one.score:.2%}",
        "-" if one.mean_validation is None else f"{one.mean_validation:.2%}",
        "-" if spread is None else f"{100 * spread:.2f}",
        str(len(one.validation)),
    )
