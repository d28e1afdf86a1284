"""The end of a search, and ``show``, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from budgetnas.api.progress.terminal import duration
from budgetnas.architecture.budget import format_count
from budgetnas.cli.console import print_json, print_next, print_stopped, stdout, table
from budgetnas.cli.final_text import print_final
from budgetnas.errors import EXIT_FAILED, plural
from budgetnas.metrics import Measure, by_class_words
from budgetnas.report.values import (
    Chosen,
    InitialTrialDistance,
    Pruning,
    RankedRun,
    RejectedInitialTrial,
    StudyTables,
    Tallies,
)
from budgetnas.storage import OverLimit, Records

if TYPE_CHECKING:
    from budgetnas.searching.loop import Outcome

_PRUNED_SHOWN = 10
_RANKS_SHOWN = 20


def print_end(
    records: Records, study: str, storage: str | None, outcome: Outcome, *, data: str | None, as_json: bool
) -> None:
    """Print the study after a search or a worker, and how to resume it if it has not finished; close the records."""
    from budgetnas.report.tables import study_tables

    saved = "Every finished epoch is saved."
    try:
        with closing(records):
            tables = study_tables(records, study)
    except SQLAlchemyError:  # already reported, if the lost storage ended the search
        if outcome.exit_code != EXIT_FAILED:
            raise
        saved = "The storage cannot be read."
    else:
        if as_json:
            print_json(tables.to_dict())
        else:
            print_summary(tables, storage, data)
    if not outcome.finished:
        print_stopped(storage, saved)


def print_queued(records: Records, study: str, storage: str | None, *, as_json: bool) -> None:
    """Print what a search that was queued will train, and the command that trains it; close the records."""
    from budgetnas.report.tables import study_tables

    with closing(records):
        goal, tables = records.goal(study), study_tables(records, study)
    if as_json:
        return print_json(tables.to_dict())
    trained = tables.tallies.trained
    trials = trained if goal is None else max(goal.trials, trained)
    stdout().print(f"\nstudy {study} is queued: {trained} of {trials} trials trained")
    print_next(storage, ["worker", "--all"], ["studies"])


def print_summary(tables: StudyTables, storage: str | None, data: str | None = None) -> None:
    """Print a study's ranking, winner, distance to the initial networks, rejections, and the next commands.

    `storage` and `data` are what the user gave, or None; `data` is ``folder:DIR`` for a folder.
    """
    console = stdout()
    tallies = tables.tallies
    console.print(f"\nstudy {tables.study}")
    for text in tables.notices:
        console.print(f"note: {text}")
    if tables.ranking:
        console.print(_ranking(tables.ranking[:_RANKS_SHOWN], tables.specification.measure))
        if tables.final is not None:
            print_final(tables.final)
        _print_winner(tables)
    else:
        console.print("nothing is trained yet")
    for failed in tables.failed:
        console.print(f"failed: trial {failed.trial}, {failed.architecture.describe()}: {failed.reason}")
    trained = f"{tallies.trained}" + (f" ({plural(tallies.repeats, 'repeat')})" if tallies.repeats else "")
    over = f"{tallies.over_budget} over the budget{_by_limit(tables.rejections.limits)}"
    console.print(
        f"\nproposed {tallies.proposed}: {over} and "
        f"{tallies.duplicates} duplicates rejected; trained {trained}, failed {tallies.failed}{_unfinished(tallies)}",
    )
    _print_pruning(tables.pruning)
    for seed in tables.rejections.seeds:
        console.print(f"initial trial {seed.name}: rejected, {_reason(seed, tables)}")
    final = ["export", tables.study] if tables.final and tables.final.shipped_run else ["finish", tables.study]
    further = ["search", "--study", tables.study, "--trials", str(tallies.trained + 10)]
    views = (["show", tables.study], ["report", tables.study], ["dashboard"])
    images = ["--data", data or "folder:DIR"] if tables.specification.data.is_own else []
    print_next(storage, *views, *([[*final, *images]] if tables.ranking else []), [*further, *images])


def _unfinished(tallies: Tallies) -> str:
    """Return how many trials run and how many were interrupted, with a leading comma; empty without any."""
    counts = {"running": tallies.running, "interrupted": tallies.interrupted}
    return "".join(f", {name} {number}" for name, number in counts.items() if number)


def _by_limit(limits: Sequence[OverLimit]) -> str:
    """Return how many proposals exceeded each limit, with a leading space; empty if there is a single limit."""
    counts = ", ".join(f"{limit.proposals} in {limit.words}" for limit in limits)
    return f" ({counts})" if len(limits) > 1 else ""


def _reason(seed: RejectedInitialTrial, tables: StudyTables) -> str:
    if len(tables.summary.limits) == 1:
        return f"{seed.params:,} parameters are {seed.overshoot:,} over the budget"
    return f"over the budget: {'; '.join(excess.sentence() for excess in seed.excesses)}"


def _print_pruning(pruning: Pruning) -> None:
    console = stdout()
    if pruning.pruner != "none":
        console.print(pruning.sentence())
    for run in (training.run for training in pruning.pruned[:_PRUNED_SHOWN]):
        console.print(f"  trial {run.trial}, {run.architecture.describe()}: {run.reason}")
    if len(pruning.pruned) > _PRUNED_SHOWN:
        console.print(f"  and {len(pruning.pruned) - _PRUNED_SHOWN} more; --json shows all")


def _ranking(runs: Sequence[RankedRun], measure: Measure) -> Table:
    """Return the table of the best; accuracies of repeated candidates are means."""
    repeated = any(run.repeats for run in runs)
    title = f"Ranking by {measure.on('validation')} after the last epoch"
    columns = ("rank", "trial", "initial", "architecture", "recipe", "parameters", "of budget", "validation", "time")
    if not repeated:
        return table(title, columns, map(_row, runs), left=5)
    title += "; mean of n trainings, with the trials that repeat the first"
    rows = ((*_row(run)[:-1], str(len(run.trainings)), _repeats(run)) for run in runs)
    return table(title, (*columns[:-1], "n", "repeated by"), rows, left=5)


def _repeats(run: RankedRun) -> str:
    return ", ".join(repeat.name.removeprefix("trial ") for repeat in run.repeats)


def _row(candidate: RankedRun) -> tuple[str, ...]:
    run = candidate.run
    return (
        str(candidate.rank),
        "" if run.trial is None else str(run.trial),
        candidate.label,
        run.architecture.describe(),
        run.recipe.describe(brief=True),
        f"{run.params:,}",
        f"{candidate.budget_share:.1%}",
        f"{candidate.accuracy:.2%}",
        "" if run.seconds is None else duration(run.seconds),
    )


def _print_winner(tables: StudyTables) -> None:
    console, winner, measure = stdout(), tables.chosen, tables.specification.measure
    if winner is None:
        return
    if winner.by_final:
        how = f"mean of {winner.seeds} fresh seeds"
        console.print(f"\nWinner of the final: {winner.name}, {winner.accuracy:.2%} {measure.where} ({how})")
    else:
        console.print(f"\nWinner of the search: {winner.name}, {winner.accuracy:.2%} {measure.where}")
        for line in _chosen_from(winner, tables):
            console.print(f"  {line}")
    if tables.classes is not None:
        console.print(f"  {tables.classes.describe('the validation images', measure)}")
        console.print(f"  {by_class_words(winner.by_class)}")
    console.print(f"  {winner.run.architecture.describe()}")
    console.print(f"  {winner.run.recipe.describe()}")
    rows = [
        (
            part.name,
            f"{part.params:,}",
            f"{part.budget_share:.1%}",
            f"{part.macs:,}",
            "x".join(map(str, part.out_shape)),
        )
        for part in tables.winner
    ]
    budget = format_count(tables.summary.max_params)
    columns = ("part", "parameters", f"share of {budget}", "multiply-accumulates", "output")
    console.print(table("", columns, rows))
    if len(tables.summary.limits) > 1:
        console.print(f"  {tables.specification.budget.verdict(winner.run.architecture).sentence()}")
    for seed in tables.distances:
        if seed.outcome != "rejected":  # printed with the rejections
            console.print(f"  {_distance(seed)}")


def _chosen_from(winner: Chosen, tables: StudyTables) -> Iterator[str]:
    """Yield what the accuracy of a search's winner is, and how it was chosen."""
    number, ahead = len(tables.ranking), tables.ahead
    runs = "a single run" if winner.seeds == 1 else f"mean of {winner.seeds} runs"
    among = f", chosen from {number:,} candidates, so optimistic" if number > 1 else ""
    yield f"{runs}{among}; budgetnas finish gives an unbiased figure"
    highest = ": the highest of all candidates" if number > 1 else ""
    yield f"expected accuracy {winner.expected:.2%}, predicted from all runs{highest}"
    if ahead is not None:
        yield f"by its own accuracy alone, {ahead.name} is the best: {ahead.accuracy:.2%}"


def _distance(seed: InitialTrialDistance) -> str:
    if seed.points is None or seed.accuracy is None:
        return f"{seed.name}: {seed.outcome}"
    return f"{seed.name}: {seed.accuracy:.2%}; best run minus {seed.name}: {seed.points:+.2f} points"
