"""Which figures a study has: its report and its dashboard show the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go

from budgetnas.experiments.final_results import FinalResult
from budgetnas.report import figure_data as data
from budgetnas.report import figures, final_figures
from budgetnas.report.figure_data import FigureData
from budgetnas.report.values import StudyTables
from budgetnas.report.winner_figure import winner


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure on a page.

    Attributes:
        key: Its identifier on the page.
        title: Its heading.
        caption: What it shows.
        figure: The figure.
        data: Its numbers.
    """

    key: str
    title: str
    caption: str
    figure: go.Figure
    data: FigureData


def study_figures(tables: StudyTables, shares: dict[str, float]) -> list[Figure]:
    """Return the figures of a study, from its tables and the importances of its parameters."""
    found = []
    if tables.chosen is not None:
        caption = (
            "Each box of a stage is a block, the taller the more channels it puts out; behind the arrow channels × "
            "height × width. At the right parameters, and below them their share of the budget."
        )
        drawn = winner(tables, tables.chosen)
        found.append(Figure("winner", "The winner, stage by stage", caption, drawn, data.winner_data(tables)))
    if tables.final is not None:
        found += _final_figures(tables, tables.final)
    if tables.ranking:
        found += _search_figures(tables)
    if shares:
        drawn, numbers = figures.importance_bars(shares), data.importance_data(shares)
        found.append(Figure("importance", "Importance by parameter", "", drawn, numbers))
    if tables.rejections.params:
        others = "" if len(tables.summary.limits) == 1 else " Those over other limits alone are left out."
        caption = f"Proposals over the budget, by the parameters they would have had.{others}"
        drawn, numbers = figures.overshoot(tables), data.overshoot_data(tables)
        found.append(Figure("overshoot", "How far over the budget", caption, drawn, numbers))
    return found


def _final_figures(tables: StudyTables, final: FinalResult) -> list[Figure]:
    caption = (
        "Square: the accuracy that the search saw, the highest of many and therefore partly luck. Triangle: the same "
        "smoothed over all runs. Diamond: the mean of fresh seeds, with its interval."
    )
    drawn, numbers = final_figures.finalists(tables, final), data.final_data(tables, final)
    found = [Figure("finalists", "The finalists, trained again", caption, drawn, numbers)]
    if any(one.test for one in final.entrants):
        caption = "Networks trained on training and validation images, each with a fresh seed."
        drawn, numbers = final_figures.test_accuracies(tables, final), data.test_data(tables, final)
        found.append(Figure("test", "Test accuracy of winner and reference", caption, drawn, numbers))
    return found


def _search_figures(tables: StudyTables) -> list[Figure]:
    few = "" if len(tables.ranking) <= figures.SHOWN_CURVES else f" The {figures.SHOWN_CURVES} best have colours."
    ended = " A dotted grey line that ends in a cross is a pruned run." if tables.pruned else ""
    left_out = " Pruned runs are left out." if tables.pruned else ""
    crosses = " A cross is a pruned run, at its last epoch; it has no rank." if tables.pruned else ""
    several = any(one.repeats for one in tables.ranking)
    means = " Of a candidate with several trainings it is their mean." if several else ""
    again = " A hollow circle is a further training of a candidate that was trained before." if several else ""
    thick = (
        "thick lines are the trainings of the best candidate" if several else "thick line is the best run of the search"
    )
    make: list[tuple[str, str, str, Callable[[StudyTables], go.Figure], Callable[[StudyTables], FigureData]]] = [
        (
            "params",
            "Accuracy against parameters",
            f"Networks on the Pareto front are beaten by none with as few parameters.{means}{left_out}",
            figures.accuracy_against_params,
            data.params_data,
        ),
        (
            "history",
            "The search in order of time",
            f"Accuracy after the last epoch of each training; the line is the best so far.{again}{crosses}",
            figures.history,
            data.history_data,
        ),
        (
            "accuracy",
            "Accuracy by epoch",
            f"The {thick}.{few}{ended}",
            figures.accuracy_curves,
            data.accuracy_data,
        ),
        (
            "loss",
            "Loss by epoch",
            f"Cross-entropy; the {thick}.{few}{ended}",
            figures.loss_curves,
            data.loss_data,
        ),
    ]
    return [Figure(key, title, text, draw(tables), numbers(tables)) for key, title, text, draw, numbers in make]
