"""What a final gave, from its records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from budgetnas.architecture import Architecture
from budgetnas.experiments.plain import to_plain
from budgetnas.space.recipe import Recipe
from budgetnas.space.specification import ChoiceProtocol
from budgetnas.stats import Interval, difference_interval
from budgetnas.storage import Records, Role, Run, State
from budgetnas.storage.finals import Finalist, FinalRecord, finals_of, readings, test_accuracies

FIRST_VALIDATION_SEED: Final = 1_000
"""Training seed of a final's first training on the training images; a search's seeds count from 0."""
FIRST_TEST_SEED: Final = 2_000
"""Likewise of its first training on training and validation images."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A candidate of a final; accuracies are shares of 1.

    Attributes:
        run: Its record of the search.
        label: Name of the seed it is, or empty.
        architecture: What was trained.
        recipe: How.
        params: Parameters.
        score: Its smoothed score, the validation accuracy that the search's model expects of it.
        search_accuracy: Its validation accuracy in the search, the mean of all its trainings there.
        search_trainings: How many these are.
        is_finalist: Whether its score made it a finalist.
        is_reference: Whether it is the seed network that the winner is held against.
        is_winner: Whether it won.
        validation: Validation accuracies with fresh seeds so far, in the order of the seeds.
        test: Test accuracies of the networks trained on training and validation images, likewise; empty unless it
            is the winner or the reference and the test split was read.
    """

    run: int
    label: str
    architecture: Architecture
    recipe: Recipe
    params: int
    score: float
    search_accuracy: float
    search_trainings: int
    is_finalist: bool
    is_reference: bool
    is_winner: bool
    validation: tuple[float, ...]
    test: tuple[float, ...]

    @property
    def name(self) -> str:
        """Name of the seed it is, or of its architecture."""
        return f"{self.label} {self.architecture.describe()}".strip()

    @property
    def mean_validation(self) -> float | None:
        """Mean of the validation accuracies."""
        return statistics.fmean(self.validation) if self.validation else None

    @property
    def mean_test(self) -> float | None:
        """Mean of the test accuracies."""
        return statistics.fmean(self.test) if self.test else None


@dataclass(frozen=True, slots=True)
class FinalResult:
    """What a final gave so far.

    Attributes:
        study: The study.
        number: Number of the final's record.
        protocol: How many finalists and seeds.
        entrants: What was trained again: the finalists by smoothed score, then the reference if it is none of them.
        winner: The entrant with the highest mean validation accuracy; nothing before all are trained.
        reference: The seed network with the highest; nothing where no seed is in the final.
        difference: Winner less reference on the test split, with Welch's interval; nothing before the split is read,
            without a reference, or where the winner is the reference.
        binomial_error: Standard error of the winner's mean test accuracy that is due to the finite test split.
        test_images: Images of the test split, once it is read.
        readings: How many times the test split was read for the study, by this and by other finals.
        shipped_run: Record of the winner's first network trained on training and validation images.
    """

    study: str
    number: int
    protocol: ChoiceProtocol
    entrants: tuple[Entrant, ...]
    winner: Entrant | None
    reference: Entrant | None
    difference: Interval | None
    binomial_error: float | None
    test_images: int | None
    readings: int
    shipped_run: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with the mean and standard deviation of every entrant."""
        plain: dict[str, Any] = to_plain(self)
        plain["entrants"] = [_entrant_dict(one) for one in self.entrants]
        for name, one in (("winner", self.winner), ("reference", self.reference)):
            plain[name] = None if one is None else _entrant_dict(one)
        return plain


def final_result(records: Records, study: str) -> FinalResult | None:
    """Return what the last final of `study` gave so far, or nothing if none was begun."""
    finals = finals_of(records, study)
    return result_of(records, finals[-1]) if finals else None


def result_of(records: Records, final: FinalRecord) -> FinalResult:
    """Return what a final gave so far."""
    trained = _trained(records, final.study)
    tested = test_accuracies(records, final.id)
    entrants = _entrants(records, final, trained, tested)
    winner = next((one for one in entrants if one.is_winner), None)
    reference = next((one for one in entrants if one.is_reference), None)
    return FinalResult(
        study=final.study,
        number=final.id,
        protocol=final.plan.protocol,
        entrants=entrants,
        winner=winner,
        reference=reference,
        difference=_difference(winner, reference),
        binomial_error=_binomial_error(winner, final.test_images),
        test_images=final.test_images,
        readings=readings(records, final.study),
        shipped_run=_shipped(winner, trained),
    )


def final_seeds(first: int, protocol: ChoiceProtocol) -> range:
    """Return the training seeds that begin with `first`."""
    return range(first, first + protocol.seeds)


_Trained = Mapping[tuple[str, str, int], Run]


def _trained(records: Records, study: str) -> _Trained:
    """Return the complete trainings of a study's finals by digests of architecture and recipe, and seed.

    Where two processes trained the same, the first counts: it is the one that the test split is read for.
    """
    complete = [one for one in records.runs(study=study, role=Role.FINAL) if one.state is State.COMPLETE]
    return {(one.architecture.digest, one.recipe.digest, one.seed): one for one in reversed(complete)}


def _entrants(
    records: Records, final: FinalRecord, trained: _Trained, tested: Mapping[int, float]
) -> tuple[Entrant, ...]:
    plan = final.plan
    runs = {one.run: records.run(one.run) for one in plan.entrants}
    curves = records.curves(run.id for run in trained.values())
    finalists = {one.run for one in plan.finalists}
    validation = {
        number: tuple(
            curves[one.id][-1].eval_accuracy
            for one in _seeded(run, trained, final_seeds(FIRST_VALIDATION_SEED, plan.protocol))
        )
        for number, run in runs.items()
    }
    reference = _reference(plan.entrants, runs, validation) if final.winner is not None else None

    def entrant(one: Finalist) -> Entrant:
        run, seeds = runs[one.run], final_seeds(FIRST_TEST_SEED, plan.protocol)
        return Entrant(
            run=one.run,
            label=run.label,
            architecture=run.architecture,
            recipe=run.recipe,
            params=run.params,
            score=one.score,
            search_accuracy=one.accuracy,
            search_trainings=one.trainings,
            is_finalist=one.run in finalists,
            is_reference=one.run == reference,
            is_winner=one.run == final.winner,
            validation=validation[one.run],
            test=tuple(tested[each.id] for each in _seeded(run, trained, seeds) if each.id in tested),
        )

    return tuple(entrant(one) for one in plan.entrants)


def _seeded(run: Run, trained: _Trained, seeds: range) -> list[Run]:
    keys = ((run.architecture.digest, run.recipe.digest, seed) for seed in seeds)
    return [trained[key] for key in keys if key in trained]


def _reference(
    entrants: Sequence[Finalist], runs: Mapping[int, Run], validation: Mapping[int, Sequence[float]]
) -> int | None:
    seeds = [one.run for one in entrants if runs[one.run].label and validation[one.run]]
    return max(seeds, key=lambda one: (statistics.fmean(validation[one]), -runs[one].params), default=None)


def _difference(winner: Entrant | None, reference: Entrant | None) -> Interval | None:
    if winner is None or reference is None or winner is reference or min(len(winner.test), len(reference.test)) < 2:
        return None
    return difference_interval(winner.test, reference.test)


def _binomial_error(winner: Entrant | None, images: int | None) -> float | None:
    if winner is None or winner.mean_test is None or not images:
        return None
    return math.sqrt(winner.mean_test * (1 - winner.mean_test) / images)


def _shipped(winner: Entrant | None, trained: _Trained) -> int | None:
    if winner is None or not winner.test:
        return None
    run = trained.get((winner.architecture.digest, winner.recipe.digest, FIRST_TEST_SEED))
    return None if run is None else run.id


def _entrant_dict(one: Entrant) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(one)
    for name, values in (("validation", one.validation), ("test", one.test)):
        plain[f"{name}_mean"] = statistics.fmean(values) if values else None
        plain[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    return plain
