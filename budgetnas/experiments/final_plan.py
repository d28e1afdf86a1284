"""The plan of a final: which candidates it trains, for how long, and whether one is due."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from budgetnas.errors import InputError
from budgetnas.experiments.final_results import FIRST_TEST_SEED, FIRST_VALIDATION_SEED, final_seeds, result_of
from budgetnas.runs.reopen import DataPlace, study_specification
from budgetnas.samplers.choice import Ranked, Trained, best_first, trained_of
from budgetnas.space.specification import ChoiceProtocol, StudySpecification
from budgetnas.space.strong import automatic_epochs, final_recipe
from budgetnas.storage import SEARCHED, Records, Role, Run, State
from budgetnas.storage.finals import Finalist, FinalPlan, FinalRecord
from budgetnas.storage.leases import work_in_progress
from budgetnas.storage.values import RunKey
from budgetnas.training.callbacks import Callbacks


@dataclass(frozen=True, slots=True)
class FinishRequest:
    """Which study to finish, and how."""

    study: str
    place: DataPlace
    # Numbers of finalists and seeds; None for those of the study, of its last final, or the default.
    protocol: ChoiceProtocol | None = None
    # Epochs of the networks that are evaluated on the test split; None for those of the last final or the study.
    final_epochs: int | Literal["auto"] | None = None


def is_final_due(records: Records, study: str) -> bool:
    """Return whether a search of `study` ends with a final that is missing, or that newer trials have outdated."""
    specification = study_specification(records, study)
    if specification.choice is None:
        return False
    latest = next(reversed(records.finals(study)), None)
    last = records.last_final(study, protocol_of(specification, FinishRequest(study, DataPlace()), latest))
    return last is None or not is_current(last, searched_runs(records, study))


@dataclass(frozen=True, slots=True)
class RunsLeft:
    """The runs that the current half of an unfinished final still needs."""

    missing: int  # runs without a result, those in training included
    in_training: int  # of these, runs that a live process trains


def runs_left(records: Records, study: str) -> RunsLeft:
    """Return what is left to train of a study's unfinished final; nothing if it has none."""
    last = next(reversed(records.finals(study)), None)
    if last is None or not last.is_unfinished:
        return RunsLeft(0, 0)
    result, data = result_of(records, last), study_specification(records, study).data
    is_last = result.winner is not None
    if is_last:
        candidates = [each.long_candidate for each in result.entrants if each.is_winner or each.is_reference]
    else:
        candidates = [each.run.candidate for each in result.entrants]
    seeds = final_seeds(FIRST_TEST_SEED if is_last else FIRST_VALIDATION_SEED, last.plan.protocol)
    live = {work.run for work in work_in_progress(records)}
    keys = [[RunKey(*each.key, data.digest(), seed, Role.FINAL) for seed in seeds] for each in candidates]
    found = [[records.find_claimed(key, study=study) for key in of_one] for of_one in keys]
    # A failed run ends the part of its entrant: its other seeds are not trained.
    kept = [each for each in found if not any(run is not None and run.state is State.FAILED for run in each)]
    runs = [run for each in kept for run in each]
    missing = [run for run in runs if run is None or run.state is State.RUNNING]
    return RunsLeft(len(missing), sum(run is not None and run.id in live for run in missing))


def plan_final(
    runs: Sequence[Run], trained: Sequence[Trained], protocol: ChoiceProtocol, specification: StudySpecification
) -> FinalPlan:
    """Return the finalists, the candidates with the highest expected accuracies, and the best initial trial.

    `runs` are the search's complete and pruned runs; `trained` has the training of each of them.
    """

    def finalist(ranked: Ranked) -> Finalist:
        run = runs[ranked.first]
        epochs = protocol.final_epochs
        weights = run.recipe.class_weights
        long = None if epochs is None else final_recipe(specification.recipes, epochs, run.params, weights)
        return Finalist(
            run=run.id, score=ranked.expected, accuracy=ranked.mean, trainings=ranked.trainings, long_recipe=long
        )

    ranking = best_first(specification, trained)
    initial = {run.candidate.key for run in runs if run.label in specification.seeds}
    reference = next((ranked for ranked in ranking if runs[ranked.first].candidate.key in initial), None)
    return FinalPlan(
        protocol=protocol,
        finalists=tuple(map(finalist, ranking[: protocol.finalists])),
        reference=None if reference is None else finalist(reference),
    )


def protocol_of(specification: StudySpecification, request: FinishRequest, last: FinalRecord | None) -> ChoiceProtocol:
    """Return the protocol of the final: each value from the request, else from the last final or the study."""
    fixed, asked, epochs = specification.choice, request.protocol, request.final_epochs
    if fixed and asked and (fixed.finalists, fixed.seeds) != (asked.finalists, asked.seeds):
        rule = f"study {request.study!r} was created with --finalists {fixed.finalists} --final-seeds {fixed.seeds}"
        raise InputError("--finalists, --final-seeds", f"{asked.finalists}, {asked.seeds}", rule, "leave both out")
    before = None if last is None else last.plan.protocol
    protocol = fixed or asked or before or ChoiceProtocol()
    if epochs is None:
        epochs = (before or protocol).final_epochs
    elif epochs == "auto":
        epochs = automatic_epochs(specification.recipes.epochs)
    return protocol.model_copy(update={"final_epochs": epochs})


def searched_runs(records: Records, study: str) -> list[Run]:
    """Return the complete runs of a study's search.

    Raises:
        InputError: If it has none.
    """
    runs = [run for run in records.runs(study=study) if run.role in SEARCHED and run.state is State.COMPLETE]
    if not runs:
        rule = "has no complete run to choose from"
        raise InputError("STUDY", study, rule, "search first: budgetnas search --study NAME --trials N")
    return runs


def is_current(final: FinalRecord, searched: Sequence[Run]) -> bool:
    """Return whether a final is finished, over all runs of the search."""
    newer = any((run.ended_at or 0.0) > final.started_at for run in searched)
    return final.read_at is not None and not newer


def start_final(
    records: Records,
    study: str,
    protocol: ChoiceProtocol,
    searched: Sequence[Run],
    specification: StudySpecification,
    callbacks: Callbacks,
    asked_at: float,
) -> FinalRecord:
    """Record a new final and its plan; an earlier reading of the test split is reported."""
    read = [final.read_at for final in records.finals(study) if final.read_at is not None]
    if read:
        at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(read[-1]))
        callbacks.on_message(
            f"this study was evaluated on the test split before (last on {at}), which may have influenced later "
            "choices; this final evaluates on it again, and the record says so"
        )
    pruned = [run for run in records.runs(study=study) if run.role in SEARCHED and run.state is State.PRUNED]
    runs = [*searched, *pruned]
    curves = records.curves(run.id for run in runs)
    trained = [
        trained_of(run.candidate, curves[run.id], specification.measure, complete=run.state is State.COMPLETE)
        for run in runs
    ]
    return records.start_final(study, plan_final(runs, trained, protocol, specification), asked_at)
