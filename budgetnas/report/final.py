"""The final of a study, as its report shows it."""

from __future__ import annotations

from dataclasses import dataclass

from budgetnas.architecture import Architecture
from budgetnas.intervals import Interval
from budgetnas.protocol import ChoiceProtocol
from budgetnas.recipe import Recipe
from budgetnas.storage import Records


@dataclass(frozen=True, slots=True)
class Entrant:
    """A candidate of a final; accuracies are shares of 1.

    Attributes:
        run: Its record of the search.
        label: Name of the seed it is, or empty.
        architecture: What was trained.
        recipe: How.
        params: Parameters.
        score: Smoothed score of the search.
        search_accuracy: The single validation accuracy of the search.
        is_finalist: Whether its score brought it here.
        is_reference: Whether it is the seed network that the winner is held against.
        is_winner: Whether it won.
        validation: Validation accuracy of each fresh seed so far.
        test: Test accuracy of each network trained on training and validation images; empty if none was read.
    """

    run: int
    label: str
    architecture: Architecture
    recipe: Recipe
    params: int
    score: float
    search_accuracy: float
    is_finalist: bool
    is_reference: bool
    is_winner: bool
    validation: tuple[float, ...]
    test: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FinalResult:
    """What a final found.

    Attributes:
        study: Name of the study.
        number: Number of the final.
        protocol: How many finalists and seeds.
        entrants: Everything that was trained again.
        winner: The best by mean validation accuracy; nothing while that is open.
        reference: The seed network that it is held against.
        difference: Winner less reference on the test split, with Welch's interval.
        binomial_error: Standard error of one accuracy, from the number of test images.
        test_images: Images of the test split.
        readings: How many times the test split was read for this study in all.
        shipped_run: The record whose network is given out.
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


def final_result(records: Records, study: str) -> FinalResult | None:
    """Return what the last final of `study` found, or nothing."""
    return None
