"""The figures of a study. Each module draws a figure from a table that can be saved as CSV."""

from __future__ import annotations

from budgetnas.report.figures.curves import accuracy_curves, loss_curves
from budgetnas.report.figures.excess import excess
from budgetnas.report.figures.figure import Figure
from budgetnas.report.figures.finalists import finalists, test_accuracies
from budgetnas.report.figures.history import history
from budgetnas.report.figures.importance import importance_bars, importances
from budgetnas.report.figures.params import accuracy_against_params
from budgetnas.report.figures.winner import winner
from budgetnas.report.values import StudyTables


def study_figures(tables: StudyTables) -> list[Figure]:
    """Return the figures of a study, the same for its report and its dashboard."""
    figures = []
    if tables.chosen is not None:
        figures.append(winner(tables, tables.chosen))
    if tables.final is not None:
        figures.append(finalists(tables, tables.final))
        if any(entrant.test for entrant in tables.final.entrants):
            figures.append(test_accuracies(tables, tables.final))
    if tables.ranking:
        figures += [draw(tables) for draw in (accuracy_against_params, history, accuracy_curves, loss_curves)]
    if shares := importances(tables.ranking, tables.specification):
        figures.append(importance_bars(shares))
    if tables.rejections.params:
        figures.append(excess(tables))
    return figures
