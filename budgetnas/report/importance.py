"""Which parameters of the space went with high accuracy: Optuna's importances over a study's runs."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from budgetnas.report.values import RankedRun
from budgetnas.samplers.distributions import distribution
from budgetnas.space.search_space import Candidate, Params
from budgetnas.space.specification import StudySpecification

EVALUATOR: Final = "PED-ANOVA"
FEWEST_RUNS: Final = 8
_TOP_RUNS: Final = 5
"""Optuna's documentation asks for at least five trials in the top group."""
_FEWEST_HOLDERS: Final = 2
"""A parameter that a single run has cannot be compared with anything."""


def importances(runs: Sequence[RankedRun], specification: StudySpecification) -> dict[str, float]:
    """Return the share of each parameter in what sets a study's best runs apart, the greatest first.

    The evaluator is PED-ANOVA (Watanabe, Bansal and Hutter 2023), because it needs no model of the accuracy, which
    a few runs cannot support, and can judge the rates of an optimiser that only some of the runs chose.

    Returns:
        Shares that add up to 1; empty with fewer than eight runs, or when no better half can be told from the rest.
    """
    usable = [one for one in runs if _params(one, specification) is not None]
    if len(usable) < FEWEST_RUNS or _all_in_top_group([one.accuracy for one in usable]):
        return {}
    return _evaluate(usable, specification)


def top_count(runs: int) -> int:
    """Return how many of so many runs count as the best, when no two are equal."""
    return math.ceil(top_share(runs) * runs)


def top_share(runs: int) -> float:
    """Return the share of runs that count as the best: at least five of them, at least a tenth, at most half."""
    return max(0.1, min(0.5, _TOP_RUNS / runs))


def _all_in_top_group(accuracies: Sequence[float]) -> bool:
    """Return whether the runs equal to the last of the top group reach down to the worst."""
    return sorted(accuracies, reverse=True)[top_count(len(accuracies)) - 1] == min(accuracies)


def _evaluate(runs: Sequence[RankedRun], specification: StudySpecification) -> dict[str, float]:
    with _quiet():
        study = optuna.create_study(direction="maximize")
    distributions = {name: distribution(one) for name, one in specification.candidates.ranges().items()}
    held: Counter[str] = Counter()
    for run in runs:
        params = _params(run, specification) or {}
        held.update(params.keys())
        ranges = {name: distributions[name] for name in params}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=run.accuracy))
    judged = [name for name in distributions if held[name] >= _FEWEST_HOLDERS]
    evaluator = PedAnovaImportanceEvaluator(target_quantile=top_share(len(runs)))
    with warnings.catch_warnings():
        # Also given when it is the other optimiser that a single run chose, which does not matter here.
        warnings.filterwarnings("ignore", message="Some regimes for parameter")
        found = get_param_importances(study, evaluator=evaluator, params=judged)
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _params(run: RankedRun, specification: StudySpecification) -> Params | None:
    return specification.candidates.params_of(Candidate(run.architecture, run.recipe))


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
