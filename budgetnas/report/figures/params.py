"""Accuracy against parameters, with the budget and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from budgetnas.report.figures.figure import Figure, Table
from budgetnas.report.figures.points import ACCURACY, add_points, hover
from budgetnas.report.figures.style import GREEN, budget_line, log_axis, styled
from budgetnas.report.values import RankedRun, StudyTables


def accuracy_against_params(tables: StudyTables) -> Figure:
    """Draw each candidate's accuracy against its parameters."""
    table = _table(tables)
    best = table.where(pareto_front=True)
    front = sorted(zip(best["params"], best[ACCURACY], strict=True))
    figure = go.Figure()
    figure.add_scatter(
        x=[params for params, _ in front],
        y=[accuracy for _, accuracy in front],
        name="Pareto front",
        mode="lines",
        line={"color": GREEN, "width": 2, "shape": "hv"},
        hoverinfo="skip",
    )
    add_points(figure, table, "params", "bottom left")
    budget = tables.summary.max_params
    budget_line(figure, budget)
    figure.update_xaxes(title="parameters (log scale)", **log_axis(min(table["params"]), budget))
    figure.update_yaxes(title=f"{tables.specification.measure.on('validation')} (%)")
    means = " For a candidate with several runs, their mean." if max(table["trainings"]) > 1 else ""
    left_out = " Pruned runs are left out." if tables.pruning.pruned else ""
    caption = f"On the Pareto front: networks that no network with as few parameters beats.{means}{left_out}"
    return Figure("params", "Accuracy against parameters", caption, styled(figure), table)


def pareto_front(candidates: Sequence[RankedRun]) -> tuple[RankedRun, ...]:
    """Return the candidates that no candidate with as few parameters beats in accuracy, smallest network first."""
    front: list[RankedRun] = []
    for candidate in sorted(candidates, key=lambda candidate: (candidate.run.params, -candidate.accuracy)):
        if not front or candidate.accuracy > front[-1].accuracy:
            front.append(candidate)
    return tuple(front)


def _table(tables: StudyTables) -> Table:
    front = pareto_front(tables.ranking)
    candidates = sorted(tables.ranking, key=lambda candidate: candidate.trainings[0].order)
    rows = tuple(
        (
            *(candidate.name, candidate.label, candidate.run.params, tables.summary.max_params),
            *(100 * candidate.accuracy, candidate in front),
            *(candidate.run.architecture.describe(), len(candidate.trainings)),
        )
        for candidate in candidates
    )
    columns = ("run", "seed_trial", "params", "budget", ACCURACY, "pareto_front", "architecture", "trainings")
    return Table(columns, rows, tuple(hover(candidate) for candidate in candidates))
