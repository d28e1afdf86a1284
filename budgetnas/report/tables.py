"""From the records of a study to the tables of its report."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from budgetnas.architecture import Architecture, count, count_parts
from budgetnas.architecture.budget import Budget
from budgetnas.errors import InputError
from budgetnas.experiments.final_results import Entrant, FinalResult, final_result
from budgetnas.metrics import Epoch
from budgetnas.report.values import (
    Chosen,
    FailedRun,
    InitialTrialDistance,
    OriginCount,
    Overshoot,
    PartShare,
    PrunedRun,
    Pruning,
    RankedRun,
    RejectedInitialTrial,
    Rejections,
    StudyTables,
    Tallies,
    Training,
    name_of,
)
from budgetnas.report.wording import notices, summary
from budgetnas.space.specification import read_specification
from budgetnas.storage import SEARCHED, Broken, Records, Rejection, Role, Run, State

_SEED_ORIGIN = "seed "
_COUNTED = (State.COMPLETE, State.PRUNED)


def study_tables(records: Records, study: str) -> StudyTables:
    """Return the tables of `study`.

    Raises:
        InputError: If the storage has no study of that name; it names those there are.
    """
    text = records.specification(study)
    if text is None:
        raise _unknown(study, records.study_names())
    specification = read_specification(text)
    max_params = specification.max_params
    runs = [run for run in records.runs(study=study) if run.role in SEARCHED]
    curves = records.curves(run.id for run in runs if run.state in _COUNTED)
    trained = [run for run in runs if run.id in curves]
    rejected = records.rejections(study)
    ranking = _ranking(trained, curves, max_params)
    rejections = _rejections(rejected, specification.budget)
    failed = tuple(_failed(run) for run in runs if run.state is State.FAILED)
    pruned = tuple(
        _pruned(run, order, curves[run.id]) for order, run in enumerate(trained, start=1) if run.state is State.PRUNED
    )
    final = final_result(records, study)
    chosen = chosen_network(ranking, final, max_params)
    return StudyTables(
        study=study,
        specification=specification,
        summary=summary(specification),
        notices=notices(specification, ranking),
        tallies=_tallies(runs, rejected),
        ranking=ranking,
        failed=failed,
        rejections=rejections,
        winner=parts_of(chosen.architecture, max_params) if chosen else (),
        distances=tuple(_distance(seed, ranking, (*failed, *pruned), rejections) for seed in specification.seeds),
        pruning=_pruning(specification.fidelity.pruner, runs, pruned),
        chosen=chosen,
        final=final,
    )


def chosen_network(ranking: Sequence[RankedRun], final: FinalResult | None, max_params: int) -> Chosen | None:
    """Return the winner of the final; without one, the best of the search; nothing if nothing is trained."""
    if final is not None and final.winner is not None:
        return _chosen_by_final(final.winner, ranking, max_params)
    if not ranking:
        return None
    best = ranking[0]
    return Chosen(
        run=best.run,
        name=name_of(best),
        architecture=best.architecture,
        recipe=best.recipe,
        params=best.params,
        budget_share=best.budget_share,
        macs=best.macs,
        accuracy=best.accuracy,
        seeds=len(best.trainings),
        by_final=False,
    )


def parts_of(architecture: Architecture, max_params: int) -> tuple[PartShare, ...]:
    """Return the parts of a network and what each takes of the budget."""
    blocks = (0, *architecture.blocks, 0)
    return tuple(
        PartShare(
            name=part.name,
            params=part.counts.params,
            budget_share=part.counts.params / max_params,
            macs=part.counts.macs,
            out_shape=tuple(part.out_shape),
            blocks=number,
        )
        for part, number in zip(count_parts(architecture), blocks, strict=True)
    )


def _chosen_by_final(winner: Entrant, ranking: Sequence[RankedRun], max_params: int) -> Chosen:
    names = [name_of(one) for one in ranking if one.run == winner.run]
    return Chosen(
        run=winner.run,
        name=names[0] if names else winner.label or f"run {winner.run}",
        architecture=winner.architecture,
        recipe=winner.recipe,
        params=winner.params,
        budget_share=winner.params / max_params,
        macs=count(winner.architecture).macs,
        accuracy=fmean(winner.validation),
        seeds=len(winner.validation),
        by_final=True,
    )


def _unknown(study: str, known: Sequence[str]) -> InputError:
    close = difflib.get_close_matches(study, known, n=1)
    there = f"there are: {', '.join(known)}" if known else "it has no studies yet"
    hint = f"did you mean {close[0]}?" if close else "list them with budgetnas studies"
    return InputError("STUDY", study, f"the storage has no study of that name; {there}", hint)


def _ranking(trained: Sequence[Run], curves: Mapping[int, tuple[Epoch, ...]], max_params: int) -> tuple[RankedRun, ...]:
    order = {run.id: place for place, run in enumerate(trained, start=1)}
    found: dict[tuple[str, str], list[tuple[Run, Training]]] = {}
    for run in trained:
        if run.state is State.COMPLETE:
            key = run.architecture.digest, run.recipe.digest
            found.setdefault(key, []).append((run, _training(run, order[run.id], curves[run.id])))
    candidates = [(runs[0][0], tuple(training for _, training in runs)) for runs in found.values()]
    candidates.sort(key=lambda one: (-_mean(one[1]), one[0].params, one[0].id))
    return tuple(_ranked(run, rank, several, max_params) for rank, (run, several) in enumerate(candidates, start=1))


def _training(run: Run, order: int, curve: tuple[Epoch, ...]) -> Training:
    return Training(
        order=order,
        run=run.id,
        trial=run.trial,
        role=run.role,
        label=run.label,
        seed=run.seed,
        accuracy=curve[-1].eval_accuracy,
        seconds=run.seconds,
        curve=curve,
    )


def _mean(trainings: Sequence[Training]) -> float:
    return fmean(one.accuracy for one in trainings)


def _ranked(run: Run, rank: int, trainings: tuple[Training, ...], max_params: int) -> RankedRun:
    curve = trainings[0].curve
    best = max(curve, key=lambda epoch: epoch.eval_accuracy)
    return RankedRun(
        rank=rank,
        order=trainings[0].order,
        run=run.id,
        trial=run.trial,
        role=run.role,
        label=next((one.label for one in trainings if one.label), ""),
        seed=run.seed,
        architecture=run.architecture,
        recipe=run.recipe,
        params=run.params,
        budget_share=run.params / max_params,
        macs=run.macs,
        accuracy=_mean(trainings),
        best_accuracy=best.eval_accuracy,
        best_epoch=best.epoch,
        seconds=run.seconds,
        curve=curve,
        trainings=trainings,
    )


def _pruned(run: Run, order: int, curve: tuple[Epoch, ...]) -> PrunedRun:
    return PrunedRun(
        order=order,
        run=run.id,
        trial=run.trial,
        label=run.label,
        architecture=run.architecture,
        recipe=run.recipe,
        params=run.params,
        accuracy=curve[-1].eval_accuracy,
        epochs_done=len(curve),
        epochs_asked=run.epochs_asked,
        reason=run.reason,
        curve=curve,
    )


def _failed(run: Run) -> FailedRun:
    return FailedRun(
        run.id, run.trial, run.label, run.architecture, run.recipe, run.params, run.epochs_done, run.reason
    )


def _pruning(pruner: str, runs: Sequence[Run], cut: tuple[PrunedRun, ...]) -> Pruning:
    asked = sum(run.epochs_asked for run in runs if run.state in _COUNTED)
    saved = sum(one.epochs_asked - one.epochs_done for one in cut)
    return Pruning(pruner, cut, asked, saved, saved / asked if asked else 0.0)


def _rejections(rejected: Sequence[Rejection], budget: Budget) -> Rejections:
    over = [one for one in rejected if not one.duplicate]
    params = tuple(one.max_params + one.overshoot for one in over if one.overshoot)
    factors = sorted(value / budget.max_params for value in params)
    return Rejections(
        origins=_origins(rejected),
        seeds=tuple(_rejected_seed(one, budget) for one in rejected if one.origin.startswith(_SEED_ORIGIN)),
        overshoot=Overshoot(factors[0], median(factors), factors[-1]) if factors else None,
        limits=_broken(over, budget),
        params=params,
    )


def _broken(over: Sequence[Rejection], budget: Budget) -> tuple[Broken, ...]:
    counts = [count(one.architecture) for one in over]
    return tuple(
        Broken(limit.quantity, limit.value, sum(limit.count(one) > limit.value for one in counts))
        for limit in budget.limits
    )


def _origins(rejected: Sequence[Rejection]) -> tuple[OriginCount, ...]:
    groups = Counter((_origin(one), one.duplicate) for one in rejected)
    totals = Counter(_origin(one) for one in rejected)
    return tuple(OriginCount(origin, groups[origin, False], groups[origin, True]) for origin, _ in totals.most_common())


def _origin(one: Rejection) -> str:
    return "seed" if one.origin.startswith(_SEED_ORIGIN) else one.origin


def _rejected_seed(one: Rejection, budget: Budget) -> RejectedInitialTrial:
    name, counts = one.origin.removeprefix(_SEED_ORIGIN), count(one.architecture)
    return RejectedInitialTrial(name, counts.params, one.overshoot, one.duplicate, budget.excesses(counts))


def _tallies(runs: Sequence[Run], rejected: Sequence[Rejection]) -> Tallies:
    states = Counter(run.state for run in runs)
    duplicates = sum(one.duplicate for one in rejected)
    trials = {("trial", run.trial) if run.trial is not None else ("run", run.id) for run in runs}
    return Tallies(
        proposed=len(trials) + len(rejected),
        over_budget=len(rejected) - duplicates,
        duplicates=duplicates,
        trained=states[State.COMPLETE] + states[State.PRUNED],
        complete=states[State.COMPLETE],
        pruned=states[State.PRUNED],
        failed=states[State.FAILED],
        running=states[State.RUNNING],
        interrupted=states[State.INTERRUPTED],
        repeats=sum(run.role is Role.REPEAT and run.state is State.COMPLETE for run in runs),
    )


def _distance(
    seed: str, ranking: Sequence[RankedRun], unranked: Sequence[FailedRun | PrunedRun], rejections: Rejections
) -> InitialTrialDistance:
    trained = [one for one in ranking if one.label == seed]
    if trained:
        points = 100 * (ranking[0].accuracy - trained[0].accuracy)
        return InitialTrialDistance(seed, "trained", trained[0].accuracy, points)
    if any(one.name == seed for one in rejections.seeds):
        return InitialTrialDistance(seed, "rejected", None, None)
    ended = [one for one in unranked if one.label == seed]
    if ended:
        return InitialTrialDistance(seed, "pruned" if isinstance(ended[-1], PrunedRun) else "failed", None, None)
    return InitialTrialDistance(seed, "not trained", None, None)
