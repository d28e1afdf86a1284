"""The numbers of each figure as a table, and that table as CSV; accuracies in percent, as the figures have them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from budgetnas.experiments.final_results import Entrant, FinalResult
from budgetnas.metrics import Epoch
from budgetnas.report.points import overshoot_bins, pareto_front
from budgetnas.report.values import PrunedRun, StudyTables, Training, name_of

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class FigureData:
    """What a figure shows, as a table.

    Attributes:
        columns: Names of the columns.
        rows: As many cells each.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def csv(self) -> str:
        """Return it as CSV (RFC 4180); nothing, and not a number, are empty cells."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(self.columns)
        writer.writerows([_written(cell) for cell in row] for row in self.rows)
        return text.getvalue()


def history_data(tables: StudyTables) -> FigureData:
    """Return the trainings in the order of time, and of each repeat which training it repeats."""
    runs: list[Training | PrunedRun] = sorted((*tables.complete, *tables.pruned), key=lambda one: one.order)
    repeated = {each.run: name_of(one) for one in tables.ranking for each in one.repeats}
    best, rows = -math.inf, []
    for run in runs:
        pruned = isinstance(run, PrunedRun)
        best = best if pruned else max(best, run.accuracy)
        known = None if math.isinf(best) else 100 * best
        state = "pruned" if pruned else "complete"
        drawn = (run.order, name_of(run), state, run.label, len(run.curve), 100 * run.accuracy, known)
        rows.append((*drawn, repeated.get(run.run, "")))
    columns = (
        *("order", "run", "state", "seed_trial", "epochs", "validation_accuracy_percent", "best_so_far_percent"),
        "repeat_of",
    )
    return FigureData(columns, tuple(rows))


def params_data(tables: StudyTables) -> FigureData:
    """Return accuracy and parameters of the candidates with complete trainings, in the order of time."""
    front = {one.run for one in pareto_front(tables.ranking)}
    rows = tuple(
        (
            *(name_of(run), run.label, run.params, tables.summary.max_params, 100 * run.accuracy, run.run in front),
            run.architecture.describe(),
            len(run.trainings),
        )
        for run in tables.in_time_order
    )
    columns = (
        *("run", "seed_trial", "params", "budget", "validation_accuracy_percent", "pareto_front", "architecture"),
        "trainings",
    )
    return FigureData(columns, rows)


def accuracy_data(tables: StudyTables) -> FigureData:
    """Return the accuracies of every epoch, the best run first and the pruned ones last."""
    rows = ((*key, 100 * epoch.eval_accuracy, 100 * epoch.train_accuracy) for key, epoch in _epochs(tables))
    return FigureData((*_KEY, "validation_accuracy_percent", "training_accuracy_percent"), tuple(rows))


def loss_data(tables: StudyTables) -> FigureData:
    """Return the losses of every epoch, the best run first and the pruned ones last."""
    rows = ((*key, epoch.eval_loss, epoch.train_loss) for key, epoch in _epochs(tables))
    return FigureData((*_KEY, "validation_loss_nats", "training_loss_nats"), tuple(rows))


def importance_data(shares: dict[str, float]) -> FigureData:
    """Return the importances, the greatest first."""
    return FigureData(("parameter", "share_percent"), tuple((name, 100 * share) for name, share in shares.items()))


def overshoot_data(tables: StudyTables) -> FigureData:
    """Return the bins of proposals over the budget."""
    budget = tables.summary.max_params
    bins = overshoot_bins(tables.rejections.params, budget)
    rows = tuple((budget * one.low, budget * one.high, one.proposals) for one in bins)
    return FigureData(("params_from", "params_below", "proposals"), rows)


def winner_data(tables: StudyTables) -> FigureData:
    """Return the parts of the winner, and what is left of the budget."""
    rows: list[tuple[Cell, ...]] = [
        (part.name, part.blocks, *part.out_shape, part.params, 100 * part.budget_share) for part in tables.winner
    ]
    left = tables.summary.max_params - sum(part.params for part in tables.winner)
    rows.append(("left", None, None, None, None, left, 100 * left / tables.summary.max_params))
    columns = ("part", "blocks", "out_channels", "out_height", "out_width", "params", "share_of_budget_percent")
    return FigureData(columns, tuple(rows))


def final_data(tables: StudyTables, final: FinalResult) -> FigureData:
    """Return every validation accuracy of a final, and what the search had said of the same candidates."""
    return _of_entrants(tables, final.entrants, test=False)


def test_data(tables: StudyTables, final: FinalResult) -> FigureData:
    """Return every test accuracy of a final."""
    return _of_entrants(tables, final.entrants, test=True)


_KEY = ("rank", "run", "state", "epoch")


def _epochs(tables: StudyTables) -> Iterator[tuple[tuple[Cell, ...], Epoch]]:
    for run in tables.ranking:
        for training in run.trainings:
            for epoch in training.curve:
                yield (run.rank, name_of(training), "complete", epoch.epoch), epoch
    for pruned in tables.pruned:
        for epoch in pruned.curve:
            yield (None, name_of(pruned), "pruned", epoch.epoch), epoch


def _of_entrants(tables: StudyTables, entrants: Sequence[Entrant], *, test: bool) -> FigureData:
    kind = "test" if test else "validation"
    rows: list[tuple[Cell, ...]] = []
    for one in entrants:
        name = (tables.name_of(one.run), one.is_winner, one.is_reference)
        said = () if test else ((0, "search", 100 * one.search_accuracy), (0, "smoothed score", 100 * one.score))
        rows += [(*name, *values) for values in said]
        accuracies = one.test if test else one.validation
        rows += [(*name, number, f"fresh {kind}", 100 * value) for number, value in enumerate(accuracies, start=1)]
    return FigureData(("run", "winner", "reference", "fresh_seed", "kind", "accuracy_percent"), tuple(rows))


def _written(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell
