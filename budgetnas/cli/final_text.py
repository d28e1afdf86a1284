"""The result of a final, as text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from budgetnas.cli.console import stdout, table
from budgetnas.experiments.final_results import Entrant, FinalResult
from budgetnas.metrics import by_class_words


def print_final(result: FinalResult) -> None:
    """Print the result of a final: the entrants and the test accuracies."""
    console = stdout()
    console.print()
    columns = ("", "architecture", "recipe", "parameters", "in the search", "smoothed", "fresh mean", "sd", "n")
    title = f"Final of study {result.study}: {result.measure.on('validation')} with fresh seeds"
    console.print(table(title, columns, map(_entrant_row, result.entrants), left=3))
    if result.validation_classes is not None:
        console.print(result.validation_classes.describe("the validation images", result.measure))
    if result.winner is None:
        console.print("the final is not finished yet")
        return
    for line in final_lines(result):
        console.print(line)


def final_lines(result: FinalResult) -> list[str]:
    """Return the result of a finished final, line by line."""
    winner, reference = result.winner, result.reference
    assert winner is not None, "a finished final has a winner"
    lines = [f"winner: {winner.name}, {winner.run.params:,} parameters"]
    if not winner.test:
        return [*lines, "not evaluated on the test split yet"]
    images, measured = result.test_images or 0, result.measure.on("test")
    if winner.long_recipe is not None:
        lines.append(f"long trainings: {winner.long_recipe.describe()}")
    lines.append(f"{measured} over {len(winner.test)} networks trained on train + validation ({images:,} test images):")
    if result.test_classes is not None:
        lines.append(f"  {result.test_classes.describe('the test images', result.measure)}")
    lines += [f"  winner     {_spread(winner.test)}", *_by_class(winner)]
    if reference is None:
        lines.append("  no initial trial is in the final, so the winner has no reference")
    elif reference is winner:
        lines.append(f"  the winner is the initial trial {reference.run.label}: the search found nothing better")
    else:
        lines.append(f"  reference  {_spread(reference.test)} ({reference.name}, {reference.run.params:,} parameters)")
        lines += _by_class(reference)
    if result.int8 is not None:
        share = f"accuracy {result.int8.describe()}"  # not balanced, whatever the study's objective
        lines.append(f"  int8 file of the winner's exported network (export --int8): {share}")
    if result.difference is not None:
        low, high = result.difference.low, result.difference.high
        lines.append(
            f"  winner - reference: {100 * result.difference.estimate:+.2f} points, 95 % interval {100 * low:+.2f} to "
            f"{100 * high:+.2f} (Welch); {_verdict(low, high)}"
        )
    if result.binomial_error is not None:
        lines.append(f"  the finite test split alone adds a standard error of {100 * result.binomial_error:.2f} points")
    if result.mixed:
        lines.append(f"  {result.mixed[0].lower()}{result.mixed[1:-1]}")
    if result.readings > 1:
        lines.append(
            f"  evaluated on the test split {result.readings} times for this study; only the first is unbiased"
        )
    return lines


def _by_class(entrant: Entrant) -> list[str]:
    words = by_class_words(entrant.test_by_class)
    return [f"             {words}"] if words else []


def _verdict(low: float, high: float) -> str:
    width = f"{100 * (high - low):.2f} points wide"
    if low > 0:
        return f"{width}: the winner is better"
    if high < 0:
        return f"{width}: the reference is better"
    return f"{width}, and it includes 0: these seeds do not show which is better"


def _spread(accuracies: Sequence[float]) -> str:
    values = [100 * share for share in accuracies]
    return f"mean {statistics.fmean(values):.2f} %, sd {statistics.stdev(values):.2f}, n = {len(values)}"


def _entrant_row(entrant: Entrant) -> tuple[str, ...]:
    marks = [("winner", entrant.is_winner), ("reference", entrant.is_reference)]
    spread = statistics.stdev(entrant.validation) if len(entrant.validation) > 1 else None
    return (
        ", ".join(name for name, marked in marks if marked),
        entrant.name,
        entrant.run.recipe.describe(brief=True),
        f"{entrant.run.params:,}",
        f"{entrant.search_accuracy:.2%}"
        + (f" (mean of {entrant.search_trainings})" if entrant.search_trainings > 1 else ""),
        f"{entrant.score:.2%}",
        "-" if entrant.mean_validation is None else f"{entrant.mean_validation:.2%}",
        "-" if spread is None else f"{100 * spread:.2f}",
        str(len(entrant.validation)),
    )
