"""What studies with their finals and fresh trainings say, with intervals."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.small_studies.make import chosen, fresh_accuracies
from budgetnas.experiments.final_results import final_result
from budgetnas.metrics import Interval, difference_interval, mean_interval
from budgetnas.runs.reopen import study_specification
from budgetnas.storage import SEARCHED, Records, State

POINTS = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one study gave; accuracies are shares of 1 on the validation images.

    Attributes:
        pruner: Its pruner.
        seed: Seed of its sampler.
        asked: Epochs that its trials would have had.
        trained: Epochs that they had.
        best_single: The highest accuracy of a single run of the search.
        best_single_fresh: Mean of that candidate's fresh trainings.
        winner: Mean of the final's trainings, which named the winner.
        winner_fresh: Mean of the winner's fresh trainings.
        same: Whether both are the same candidate.
        test: Mean test accuracy of the winner trained on training and validation images.
    """

    pruner: str
    seed: int
    asked: int
    trained: int
    best_single: float
    best_single_fresh: float
    winner: float
    winner_fresh: float
    same: bool
    test: float


def read_outcomes(records: Records) -> list[Outcome]:
    """Return the outcome of every study of a storage that has its final and its fresh trainings."""
    found = (_outcome(records, name) for name in records.study_names() if "/" in name)
    return sorted((one for one in found if one is not None), key=lambda one: (one.pruner, one.seed))


def _outcome(records: Records, study: str) -> Outcome | None:
    result = final_result(records, study)
    if result is None or result.winner is None or result.winner.mean_test is None:
        return None
    best, winner = chosen(records, result)
    fresh = [fresh_accuracies(records, study, one) for one in (best, winner)]
    if not all(len(one) == max(map(len, fresh)) > 1 for one in fresh):
        return None
    pruner, _, seed = study.partition("/")
    runs = [run for run in records.runs(study=study) if run.role in SEARCHED]
    counted = [run for run in runs if run.state in (State.COMPLETE, State.PRUNED)]
    return Outcome(
        pruner=pruner,
        seed=int(seed),
        asked=len(counted) * study_specification(records, study).recipes.epochs,
        trained=sum(run.epochs_done for run in counted),
        best_single=_best_single(records, study),
        best_single_fresh=statistics.fmean(fresh[0]),
        winner=statistics.fmean(result.winner.validation),
        winner_fresh=statistics.fmean(fresh[1]),
        same=best.key == winner.key,
        test=result.winner.mean_test,
    )


def _best_single(records: Records, study: str) -> float:
    runs = [run for run in records.runs(study=study) if run.role in SEARCHED and run.state is State.COMPLETE]
    curves = records.curves(run.id for run in runs)
    return max(curve[-1].eval_accuracy for curve in curves.values())


def summary_lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield one line for each study, then the comparisons, in points of accuracy."""
    yield "| pruner | seed | epochs | best single run | fresh | winner's final | fresh | test, train + validation |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for one in outcomes:
        values = (one.best_single, one.best_single_fresh, one.winner, one.winner_fresh, one.test)
        cells = " | ".join(f"{POINTS * value:.2f}" for value in values)
        yield f"| {one.pruner} | {one.seed} | {one.trained} of {one.asked} | {cells} |"
    groups = {
        name: [one for one in outcomes if one.pruner == name] for name in dict.fromkeys(o.pruner for o in outcomes)
    }
    for name, group in groups.items():
        yield f"{name}: {_share(group)}"
    plain = groups.get("none", [])
    for name, group in groups.items():
        if name != "none" and min(len(group), len(plain)) > 1:
            yield from _against(name, group, plain)
    if len(outcomes) > 1:
        yield f"best single run, what chose it less fresh: {_bias(outcomes, 'best_single')}"
        yield f"our rule, what chose it less fresh: {_bias(outcomes, 'winner')}"
        gained = mean_interval([one.winner_fresh - one.best_single_fresh for one in outcomes])
        same = sum(one.same for one in outcomes)
        yield f"our winner less the best single run, both fresh: {_told(gained)}; the same network in {same} studies"


def _against(name: str, group: Sequence[Outcome], plain: Sequence[Outcome]) -> Iterator[str]:
    for figure, of in (("fresh accuracy", _fresh_mean), ("accuracy in the final and fresh", _retrained_mean)):
        found = difference_interval([of(one) for one in group], [of(one) for one in plain])
        yield f"winner's {figure}, {name} less none: {_told(found)} (Welch)"
        pairs = [(of(one), of(other)) for one in group for other in plain if one.seed == other.seed]
        if len(pairs) > 1:
            paired = mean_interval([one - other for one, other in pairs])
            yield f"the same, paired by the sampler's seed: {_told(paired)} (Student)"


def _fresh_mean(one: Outcome) -> float:
    return one.winner_fresh


def _retrained_mean(one: Outcome) -> float:
    return (one.winner + one.winner_fresh) / 2


def _share(group: Sequence[Outcome]) -> str:
    trained, asked = sum(one.trained for one in group), sum(one.asked for one in group)
    return f"{trained:,} of {asked:,} epochs trained, {1 - trained / asked:.1%} saved (n = {len(group)} studies)"


def _bias(outcomes: Sequence[Outcome], name: str) -> str:
    return _told(mean_interval([getattr(one, name) - getattr(one, f"{name}_fresh") for one in outcomes]))


def _told(one: Interval) -> str:
    return (
        f"{POINTS * one.estimate:+.2f} points, 95 % interval {POINTS * one.low:+.2f} to {POINTS * one.high:+.2f} "
        f"(n = {one.n})"
    )
