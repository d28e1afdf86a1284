"""The importance of each parameter of the space: Optuna's estimate from the runs of a study."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import optuna
import plotly.graph_objects as go
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from budgetnas.report.figures.figure import Figure, Table
from budgetnas.report.figures.style import BLUE, safe, styled
from budgetnas.report.values import RankedRun
from budgetnas.samplers.distributions import distribution
from budgetnas.space.ranges import Params
from budgetnas.space.specification import StudySpecification

EVALUATOR: Final = "PED-ANOVA"
FEWEST_RUNS: Final = 8
_TOP_RUNS: Final = 5
"""Optuna's documentation asks for at least five trials in the top group."""
_FEWEST_VALUES: Final = 2
"""The value of a parameter that only one run has cannot be compared with anything."""


def importance_bars(shares: dict[str, float]) -> Figure:
    """Draw the importance of each parameter, the greatest on top."""
    rows = tuple((name, 100 * share) for name, share in shares.items())
    hover = tuple(f"{safe(name)}: {share:.1f} %" for name, share in rows)
    table = Table(("parameter", "share_percent"), rows, hover)
    figure = go.Figure()
    figure.add_bar(
        x=table["share_percent"][::-1],
        y=[name.replace("_", " ") for name in table["parameter"][::-1]],
        orientation="h",
        marker={"color": BLUE},
        hovertext=table.hover[::-1],
        hoverinfo="text",
        showlegend=False,
    )
    figure.update_xaxes(title="share of importance (%)", rangemode="tozero")
    return Figure("importance", "Importance by parameter", "", styled(figure, height=120 + 26 * len(rows)), table)


def importances(candidates: Sequence[RankedRun], specification: StudySpecification) -> dict[str, float]:
    """Return the share of each parameter in the difference between the best runs and the rest, the greatest first.

    The evaluator is PED-ANOVA (Watanabe, Bansal and Hutter 2023): it needs no model of the accuracy, which a few runs
    cannot support, and it can judge the rates of an optimiser that only some of the runs use.

    Returns:
        Shares that add up to 1. Empty with fewer than eight runs, or if the worst run is tied with the top group.
    """
    usable = compared(candidates, specification)
    accuracies = sorted((accuracy for _, accuracy in usable), reverse=True)
    if len(usable) < FEWEST_RUNS or accuracies[top_count(len(usable)) - 1] == accuracies[-1]:
        return {}
    return _evaluate(usable, specification)


def compared(candidates: Sequence[RankedRun], specification: StudySpecification) -> list[tuple[Params, float]]:
    """Return parameters and accuracy of the candidates that are compared: those inside the space.

    An initial trial can lie outside of it and has no parameters then.
    """
    params_of = specification.candidates.params_of
    found = [(params_of(candidate.run.candidate), candidate.accuracy) for candidate in candidates]
    return [(params, accuracy) for params, accuracy in found if params is not None]


def top_count(runs: int) -> int:
    """Return how many of `runs` runs are the top group, without ties."""
    return math.ceil(top_share(runs) * runs)


def top_share(runs: int) -> float:
    """Return the share of the top group: at least five runs, at least a tenth, at most half."""
    return max(0.1, min(0.5, _TOP_RUNS / runs))


def _evaluate(runs: Sequence[tuple[Params, float]], specification: StudySpecification) -> dict[str, float]:
    with _quiet():
        study = optuna.create_study(direction="maximize")
    distributions = {name: distribution(span) for name, span in specification.candidates.ranges().items()}
    for params, accuracy in runs:
        ranges = {name: distributions[name] for name in params}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=accuracy))
    values = Counter(name for params, _ in runs for name in params)
    judged = [name for name in distributions if values[name] >= _FEWEST_VALUES]
    evaluator = PedAnovaImportanceEvaluator(target_quantile=top_share(len(runs)))
    with warnings.catch_warnings():
        # Optuna also warns when a single run uses the other optimiser, which does not matter here.
        warnings.filterwarnings("ignore", message="Some regimes for parameter")
        shares = get_param_importances(study, evaluator=evaluator, params=judged)
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
