"""Build the tables of a study's report from its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median

from budgetnas.architecture import Architecture, count, count_parts
from budgetnas.architecture.budget import Budget
from budgetnas.errors import InputError, closest
from budgetnas.experiments.final_results import FinalResult, final_result
from budgetnas.metrics import ClassCounts, Measure, by_class
from budgetnas.report.values import (
    Chosen,
    Expected,
    InitialTrialDistance,
    OriginCount,
    Overshoot,
    PartShare,
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
from budgetnas.samplers.choice import best_first, trained_of
from budgetnas.space.specification import StudySpecification, read_specification
from budgetnas.storage import SEARCHED, OverLimit, Records, Rejection, Role, Run, State

_INITIAL_ORIGIN = "seed "
_COUNTED = (State.COMPLETE, State.PRUNED)


def study_tables(records: Records, study: str) -> StudyTables:
    """Return the tables of `study`.

    Raises:
        InputError: If the storage has no study of that name; it lists the studies.
    """
    text = records.specification(study)
    if text is None:
        raise _unknown(study, records.study_names())
    specification = read_specification(text)
    max_params = specification.max_params
    runs = [run for run in records.runs(study=study) if run.role in SEARCHED]
    rejected = records.rejections(study)
    trainings = _trainings(records, runs, specification.measure)
    ranking = _ranking(trainings, max_params)
    rejections = _rejections(rejected, specification.budget, records.over_limits(study, specification.budget))
    final = final_result(records, study)
    classes = records.class_counts(specification.data.digest(), "validation")
    chosen = chosen_network(ranking, final, max_params, best_of_search(specification, trainings), classes)
    return StudyTables(
        study=study,
        specification=specification,
        summary=summary(specification),
        notices=notices(specification, ranking),
        tallies=_tallies(runs, rejected),
        ranking=ranking,
        failed=tuple(run for run in runs if run.state is State.FAILED),
        rejections=rejections,
        winner=parts_of(chosen.run.architecture, max_params) if chosen else (),
        distances=tuple(_distance(name, ranking, runs, rejections) for name in specification.seeds),
        pruning=_pruning(specification.fidelity.pruner, trainings),
        chosen=chosen,
        final=final,
        classes=classes,
    )


def best_of_search(specification: StudySpecification, trainings: Sequence[Training]) -> Expected | None:
    """Return the winner of the search; None before any run is complete."""
    measure = specification.measure
    trained = [
        trained_of(training.run.candidate, training.curve, measure, complete=training.run.state is State.COMPLETE)
        for training in trainings
    ]
    ranked = best_first(specification, trained)
    return Expected(trainings[ranked[0].first].run, ranked[0].expected) if ranked else None


def chosen_network(
    ranking: Sequence[RankedRun],
    final: FinalResult | None,
    max_params: int,
    best: Expected | None,
    classes: ClassCounts | None = None,
) -> Chosen | None:
    """Return the winner of the final; without a final the winner of the search; None before any run is complete."""
    winner = final.winner if final else None
    if winner is not None:
        run, accuracies = winner.run, winner.validation
        name = next((candidate.name for candidate in ranking if candidate.run.id == run.id), name_of(run))
        return Chosen(
            run,
            name,
            run.params / max_params,
            fmean(accuracies),
            len(accuracies),
            by_final=True,
            by_class=winner.validation_by_class,
        )
    if best is None:
        return None
    row = next(candidate for candidate in ranking if candidate.run.id == best.run.id)
    return Chosen(
        row.run,
        row.name,
        row.budget_share,
        row.accuracy,
        len(row.trainings),
        by_final=False,
        expected=best.accuracy,
        by_class=by_class(classes, [training.curve[-1].eval_correct for training in row.trainings]),
    )


def parts_of(architecture: Architecture, max_params: int) -> tuple[PartShare, ...]:
    """Return the parts of a network with their shares of the budget."""
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


def _unknown(study: str, known: Sequence[str]) -> InputError:
    there = f"there are: {', '.join(known)}" if known else "it has no studies yet"
    hint = closest(study, known, "list them with budgetnas studies")
    return InputError("STUDY", study, f"the storage has no study of that name; {there}", hint)


def _trainings(records: Records, runs: Sequence[Run], measure: Measure) -> list[Training]:
    """Return the complete and pruned runs in the order of time."""
    curves = records.curves(run.id for run in runs if run.state in _COUNTED)
    trained = [run for run in runs if run.id in curves]
    return [Training(run, order, curves[run.id], measure) for order, run in enumerate(trained, start=1)]


def _ranking(trainings: Sequence[Training], max_params: int) -> tuple[RankedRun, ...]:
    candidates: dict[tuple[str, str], list[Training]] = {}
    for training in trainings:
        run = training.run
        if run.state is State.COMPLETE:
            candidates.setdefault(run.candidate.key, []).append(training)

    def place(group: Sequence[Training]) -> tuple[float, int, int]:
        return -fmean(training.accuracy for training in group), group[0].run.params, group[0].run.id

    return tuple(
        RankedRun(rank, group[0].run.params / max_params, tuple(group))
        for rank, group in enumerate(sorted(candidates.values(), key=place), start=1)
    )


def _pruning(pruner: str, trainings: Sequence[Training]) -> Pruning:
    pruned = tuple(training for training in trainings if training.run.state is State.PRUNED)
    asked = sum(training.run.epochs_asked for training in trainings)
    saved = sum(training.run.epochs_asked - training.run.epochs_done for training in pruned)
    return Pruning(pruner, pruned, asked, saved)


def _rejections(rejected: Sequence[Rejection], budget: Budget, limits: tuple[OverLimit, ...]) -> Rejections:
    over = [rejection for rejection in rejected if not rejection.duplicate]
    params = tuple(rejection.max_params + rejection.overshoot for rejection in over if rejection.overshoot)
    factors = sorted(number / budget.max_params for number in params)
    initial = [rejection for rejection in rejected if rejection.origin.startswith(_INITIAL_ORIGIN)]
    return Rejections(
        origins=_origins(rejected),
        seeds=tuple(_rejected_initial(rejection, budget) for rejection in initial),
        overshoot=Overshoot(factors[0], median(factors), factors[-1]) if factors else None,
        limits=limits,
        params=params,
    )


def _origins(rejected: Sequence[Rejection]) -> tuple[OriginCount, ...]:
    origins = ["seed" if rejection.origin.startswith(_INITIAL_ORIGIN) else rejection.origin for rejection in rejected]
    groups = Counter((origin, rejection.duplicate) for origin, rejection in zip(origins, rejected, strict=True))
    return tuple(
        OriginCount(origin, groups[origin, False], groups[origin, True]) for origin, _ in Counter(origins).most_common()
    )


def _rejected_initial(rejection: Rejection, budget: Budget) -> RejectedInitialTrial:
    name, counts = rejection.origin.removeprefix(_INITIAL_ORIGIN), count(rejection.architecture)
    return RejectedInitialTrial(name, counts.params, rejection.overshoot, rejection.duplicate, budget.excesses(counts))


def _tallies(runs: Sequence[Run], rejected: Sequence[Rejection]) -> Tallies:
    states = Counter(run.state for run in runs)
    duplicates = sum(rejection.duplicate for rejection in rejected)
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
    name: str, ranking: Sequence[RankedRun], runs: Sequence[Run], rejections: Rejections
) -> InitialTrialDistance:
    trained = next((candidate for candidate in ranking if candidate.label == name), None)
    if trained is not None:
        points = 100 * (ranking[0].accuracy - trained.accuracy)
        return InitialTrialDistance(name, "trained", trained.accuracy, points)
    if any(rejection.name == name for rejection in rejections.seeds):
        return InitialTrialDistance(name, "rejected", None, None)
    states = {run.state for run in runs if run.label == name}
    ended = "pruned" if State.PRUNED in states else "failed" if State.FAILED in states else "not trained"
    return InitialTrialDistance(name, ended, None, None)
