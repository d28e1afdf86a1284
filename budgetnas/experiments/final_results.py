"""The result of a final, from its records."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from budgetnas.experiments.plain import plain_fields
from budgetnas.metrics import (
    ACCURACY,
    ClassAccuracy,
    ClassCounts,
    Int8Reading,
    Interval,
    Measure,
    by_class,
    difference_interval,
)
from budgetnas.space.candidates import Candidate
from budgetnas.space.recipe import Recipe
from budgetnas.space.specification import (
    OBJECTIVES,
    ChoiceProtocol,
    Objective,
    StudySpecification,
    measure_of,
    read_specification,
)
from budgetnas.storage import Records, Role, Run, State
from budgetnas.storage.finals import Finalist, FinalRecord, TestResult

FIRST_VALIDATION_SEED: Final = 1_000
"""First seed of the final's runs on the train images; the seeds of a search count from 0."""
FIRST_TEST_SEED: Final = 2_000
"""First seed of the final's runs on train and validation images."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A candidate of a final; accuracies are shares of 1, balanced if that is the study's objective."""

    run: Run  # its first run in the search
    score: float  # its smoothed score: the validation accuracy that the search's model expects
    search_accuracy: float  # its validation accuracy in the search, the mean of all its runs there
    search_trainings: int  # number of these runs
    is_finalist: bool  # whether its score made it a finalist
    is_reference: bool  # whether it is the initial trial that the winner is compared with
    is_winner: bool  # whether it won
    validation: tuple[float, ...]  # validation accuracies with fresh seeds so far, in the order of the seeds
    # Test accuracies of the networks trained on train and validation images, in the order of the seeds. Empty before
    # the evaluation on the test split, and for all but winner and reference.
    test: tuple[float, ...]
    long_recipe: Recipe | None = None  # recipe of these networks, or None for that of the search
    # Mean accuracies of each class in the same evaluations; empty without any, and where they were not recorded.
    validation_by_class: tuple[ClassAccuracy, ...] = ()
    test_by_class: tuple[ClassAccuracy, ...] = ()

    @property
    def long_candidate(self) -> Candidate:
        """Its architecture with the recipe of the networks that are evaluated on the test split."""
        return Candidate(self.run.architecture, self.long_recipe or self.run.recipe)

    @property
    def name(self) -> str:
        """Name of its initial trial, and its architecture."""
        return f"{self.run.label} {self.run.architecture.describe()}".strip()

    @property
    def mean_validation(self) -> float | None:
        """Mean of the validation accuracies."""
        return statistics.fmean(self.validation) if self.validation else None

    @property
    def mean_test(self) -> float | None:
        """Mean of the test accuracies."""
        return statistics.fmean(self.test) if self.test else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with means and standard deviations."""
        shown = {"run": self.run.id} | plain_fields(self.run, "label", "architecture", "recipe", "params")
        shown |= plain_fields(self, *(field for field in self.__slots__ if field != "run"))
        for name, values in (("validation", self.validation), ("test", self.test)):
            shown[f"{name}_mean"] = statistics.fmean(values) if values else None
            shown[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        return shown


@dataclass(frozen=True, slots=True, repr=False)
class FinalResult:
    """Result of a final so far."""

    study: str
    number: int  # number of the final's record
    protocol: ChoiceProtocol
    entrants: tuple[Entrant, ...]  # the finalists by smoothed score, then the reference if it is not a finalist
    winner: Entrant | None  # the entrant with the highest mean validation accuracy, or None before all runs are done
    reference: Entrant | None  # the initial trial with the highest mean, or None if no initial trial is in the final
    # Winner minus reference on the test split with Welch's interval. None before the evaluation on the test split,
    # without a reference, or if the winner is the reference.
    difference: Interval | None
    binomial_error: float | None  # standard error of the winner's mean test accuracy due to the finite test split
    test_images: int | None  # number of images of the test split, once it was evaluated on
    readings: int  # number of evaluations on the test split for the study, by this and other finals
    shipped_run: int | None  # record of the winner's first network trained on train and validation images
    int8: Int8Reading | None = None  # evaluation of that network's int8 file on the test split, if there was any
    objective: Objective = OBJECTIVES["accuracy"]  # what the accuracies are
    validation_classes: ClassCounts | None = None  # the validation images by class, or None if not recorded
    test_classes: ClassCounts | None = None  # the test images by class, or None before the evaluation on them
    precisions: tuple[str, ...] = ()  # precisions of its runs; several if its processes ran on different machines

    def __repr__(self) -> str:
        if self.winner is None:
            return f"<FinalResult of {self.study!r}: no winner yet>"
        test = self.winner.test
        reached = f"{statistics.fmean(test):.2%} on the test split (n = {len(test)})" if test else "not evaluated yet"
        return f"<FinalResult of {self.study!r}: {self.winner.name}, {reached}>"

    @property
    def measure(self) -> Measure:
        """The figure behind all of its accuracies."""
        return measure_of(self.objective)

    @property
    def mixed(self) -> str:
        """A sentence on the precisions of its runs if these differ, else empty."""
        used = " and ".join(self.precisions)
        return f"The runs used different precisions ({used})." if len(self.precisions) > 1 else ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return plain_fields(self)


def final_result(records: Records, study: str) -> FinalResult | None:
    """Return the result so far of the last final of `study`, or None without a final."""
    finals = records.finals(study)
    return result_of(records, finals[-1]) if finals else None


def result_of(records: Records, final: FinalRecord) -> FinalResult:
    """Return the result of a final so far."""
    trained, stored = _trained(records, final.study), records.specification(final.study)
    assert stored is not None, "a study with a final has a specification"
    specification = read_specification(stored)
    facts = _Facts.of(records, specification)
    entrants = _entrants(records, final, trained, records.test_results(final.id), facts)
    winner = next((entrant for entrant in entrants if entrant.is_winner), None)
    reference = next((entrant for entrant in entrants if entrant.is_reference), None)
    return FinalResult(
        study=final.study,
        number=final.id,
        protocol=final.plan.protocol,
        entrants=entrants,
        winner=winner,
        reference=reference,
        difference=_difference(winner, reference),
        binomial_error=_winner_error(winner, final.test_images, facts.measure),
        test_images=final.test_images,
        readings=records.finals_read(final.study),
        shipped_run=_shipped(winner, trained),
        objective=specification.objective,
        validation_classes=facts.validation,
        test_classes=facts.test if final.test_images else None,
        int8=records.int8_reading(final.id),
        precisions=_precisions(entrants, trained),
    )


def final_seeds(first: int, protocol: ChoiceProtocol) -> range:
    """Return the training seeds from `first`."""
    return range(first, first + protocol.seeds)


@dataclass(frozen=True, slots=True)
class _Facts:
    """The objective of a study, and its images by class, None where they were not recorded."""

    measure: Measure
    validation: ClassCounts | None
    test: ClassCounts | None

    @classmethod
    def of(cls, records: Records, specification: StudySpecification) -> _Facts:
        data = specification.data.digest()
        counts = (records.class_counts(data, split) for split in ("validation", "test"))
        return cls(specification.measure, *counts)


_Trained = Mapping[tuple[str, str, int], Run]


def _trained(records: Records, study: str) -> _Trained:
    """Return the complete runs of a study's finals by digests of architecture and recipe, and seed.

    If two processes trained the same run, the first counts: its network is evaluated on the test split.
    """
    complete = [run for run in records.runs(study=study, role=Role.FINAL) if run.state is State.COMPLETE]
    return {(*run.candidate.key, run.seed): run for run in reversed(complete)}


def _entrants(
    records: Records, final: FinalRecord, trained: _Trained, tested: Mapping[int, TestResult], facts: _Facts
) -> tuple[Entrant, ...]:
    plan = final.plan
    runs = {planned.run: records.run(planned.run) for planned in plan.entrants}
    curves = records.curves(run.id for run in trained.values())
    seeds = final_seeds(FIRST_VALIDATION_SEED, plan.protocol)
    epochs = {
        number: [curves[fresh.id][-1] for fresh in _seeded(run.candidate, trained, seeds)]
        for number, run in runs.items()
    }
    validation = {number: tuple(map(facts.measure.of, last)) for number, last in epochs.items()}
    whole = {number: values for number, values in validation.items() if len(values) == len(seeds)}
    reference = _reference(runs, whole) if final.winner is not None else None

    def entrant(planned: Finalist) -> Entrant:
        run = runs[planned.run]
        long = Candidate(run.architecture, planned.long_recipe or run.recipe)
        fresh = _seeded(long, trained, final_seeds(FIRST_TEST_SEED, plan.protocol))
        results = [tested[training.id] for training in fresh if training.id in tested]
        return Entrant(
            run=run,
            score=planned.score,
            search_accuracy=planned.accuracy,
            search_trainings=planned.trainings,
            is_finalist=planned in plan.finalists,
            is_reference=planned.run == reference,
            is_winner=planned.run == final.winner,
            validation=validation[planned.run],
            test=tuple(result.value(facts.measure) for result in results),
            long_recipe=planned.long_recipe,
            validation_by_class=by_class(facts.validation, [epoch.eval_correct for epoch in epochs[planned.run]]),
            test_by_class=by_class(facts.test, [result.correct for result in results]),
        )

    return tuple(map(entrant, plan.entrants))


def _precisions(entrants: Sequence[Entrant], trained: _Trained) -> tuple[str, ...]:
    keys = {candidate.key for entrant in entrants for candidate in (entrant.run.candidate, entrant.long_candidate)}
    used = {json.loads(run.environment).get("precision") for key, run in trained.items() if key[:2] in keys}
    return tuple(sorted(filter(None, used)))


def _seeded(candidate: Candidate, trained: _Trained, seeds: range) -> list[Run]:
    keys = ((*candidate.key, seed) for seed in seeds)
    return [trained[key] for key in keys if key in trained]


def _reference(runs: Mapping[int, Run], validation: Mapping[int, Sequence[float]]) -> int | None:
    initial = [number for number in validation if runs[number].label]
    return max(initial, key=lambda number: (statistics.fmean(validation[number]), -runs[number].params), default=None)


def _difference(winner: Entrant | None, reference: Entrant | None) -> Interval | None:
    if winner is None or reference is None or winner is reference or min(len(winner.test), len(reference.test)) < 2:
        return None
    return difference_interval(winner.test, reference.test)


def _winner_error(winner: Entrant | None, images: int | None, measure: Measure) -> float | None:
    if winner is None or winner.mean_test is None:
        return None
    return binomial_error(winner.mean_test, winner.test_by_class, images, measure)


def binomial_error(
    accuracy: float, rows: Sequence[ClassAccuracy], images: int | None, measure: Measure
) -> float | None:
    """Return the standard error of a test accuracy due to the finite test split, or None if it is not known.

    That of a balanced accuracy comes from every class, in `rows`.
    """
    if not images:
        return None
    if measure == ACCURACY:
        return math.sqrt(accuracy * (1 - accuracy) / images)
    shares = [(row.accuracy, row.images) for row in rows if row.accuracy is not None]
    return math.sqrt(sum(share * (1 - share) / number for share, number in shares)) / len(shares) if shares else None


def _shipped(winner: Entrant | None, trained: _Trained) -> int | None:
    if winner is None or not winner.test:
        return None
    run = trained.get((*winner.long_candidate.key, FIRST_TEST_SEED))
    return None if run is None else run.id
