"""Which parameters of the space went with high accuracy: Optuna's importances over a study's runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from budgetnas.report.values import RankedRun
from budgetnas.space import Candidate, Choice, LogRange, Params, Range, WholeRange
from budgetnas.specification import StudySpecification

EVALUATOR: Final = "PED-ANOVA"
FEWEST_RUNS: Final = 8
_TOP_RUNS: Final = 5
"""Optuna's documentation asks for at least five trials in the top group."""


def importances(runs: Sequence[RankedRun], specification: StudySpecification) -> dict[str, float]:
    """Return the share of each parameter in what sets a study's best runs apart, the greatest first.

    The evaluator is PED-ANOVA (Watanabe, Bansal and Hutter 2023), because it needs no model of the accuracy, which
    a few runs cannot support, and can judge the rates of an optimiser that only some of the runs chose.

    Returns:
        Shares that add up to 1; empty with fewer than eight runs, or when all have the same accuracy.
    """
    usable = [one for one in runs if _params(one, specification) is not None]
    if len(usable) < FEWEST_RUNS or len({one.accuracy for one in usable}) == 1:
        return {}
    return _evaluate(usable, specification)


def top_share(runs: int) -> float:
    """Return the share of runs that count as the best: at least five of them, at least a tenth, at most half."""
    return max(0.1, min(0.5, _TOP_RUNS / runs))


def _evaluate(runs: Sequence[RankedRun], specification: StudySpecification) -> dict[str, float]:
    evaluator = PedAnovaImportanceEvaluator(target_quantile=top_share(len(runs)))
    with _quiet():
        study = optuna.create_study(direction="maximize")
    distributions = {name: _distribution(one) for name, one in specification.candidates.ranges().items()}
    for run in runs:
        params = _params(run, specification) or {}
        held = {name: distributions[name] for name in params}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=held, value=run.accuracy))
    found = get_param_importances(study, evaluator=evaluator)
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _params(run: RankedRun, specification: StudySpecification) -> Params | None:
    return specification.candidates.params_of(Candidate(run.architecture, run.recipe))


def _distribution(one: Range) -> BaseDistribution:
    match one:
        case WholeRange(low, high):
            return IntDistribution(low, high)
        case LogRange(low, high):
            return FloatDistribution(low, high, log=True)
        case Choice(values):
            return CategoricalDistribution(values)


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
