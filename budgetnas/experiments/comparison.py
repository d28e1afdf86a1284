"""The design of a comparison of SGD and Adam, fixed before the first run, and its result."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import stdev
from typing import Any, Final

from budgetnas.architecture import Architecture, count, named
from budgetnas.errors import InputError, check_seed, plural
from budgetnas.metrics import ACCURACY, Interval, Measure, mean_interval
from budgetnas.space.candidates import Candidate
from budgetnas.space.initial_trials import WEIGHT_DECAY
from budgetnas.space.recipe import OptimizerName, RecipeSpace
from budgetnas.space.specification import StudySpecification

DEFAULT_ARCHITECTURES: Final = 5
DEFAULT_RATES: Final = 3
OPTIMIZERS: Final[tuple[OptimizerName, OptimizerName]] = ("sgd", "adam")
NAMES: Final[dict[OptimizerName, str]] = {"sgd": "SGD", "adam": "Adam"}
_NAMED: Final = ("v1", "v2")
_DRAWS_EACH: Final = 200


@dataclass(frozen=True, slots=True)
class Entrant:
    """An architecture of a comparison."""

    name: str  # ``v1``, ``v2`` or ``drawn N``
    architecture: Architecture
    params: int
    macs: int
    tried_seed: int  # training seed for trying the rates, the same for both optimisers
    fresh_seed: int  # training seed for repeating the best rate, the same for both optimisers


@dataclass(frozen=True, slots=True)
class Design:
    """The runs of a comparison: the same for both optimisers except the rates."""

    entrants: tuple[Entrant, ...]
    sgd: tuple[float, ...]  # learning rates of SGD, ascending
    adam: tuple[float, ...]  # learning rates of Adam, ascending; the same number
    recipes: RecipeSpace  # source of epochs, batch, augmentation and momentum
    measure: Measure = ACCURACY  # the study's objective

    def __post_init__(self) -> None:
        assert len(self.sgd) == len(self.adam), "each optimiser gets the same number of rates"

    def rates(self, optimizer: OptimizerName) -> tuple[float, ...]:
        """Return the rates of an optimiser."""
        return self.sgd if optimizer == "sgd" else self.adam

    def candidate(self, entrant: Entrant, optimizer: OptimizerName, rate: float) -> Candidate:
        """Return a run's candidate; its weight decay is that of the optimiser's initial trials."""
        return Candidate(entrant.architecture, self.recipes.recipe(optimizer, rate, WEIGHT_DECAY[optimizer]))

    @property
    def trainings(self) -> int:
        """Number of runs: for each architecture and optimiser every rate once, and the best again."""
        return len(self.entrants) * len(OPTIMIZERS) * (len(self.sgd) + 1)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A finished run of a comparison."""

    rate: float  # its learning rate
    run: int  # number of its record
    accuracy: float | None  # the study's objective, a share of 1; None if it failed
    reason: str = ""  # why it failed, or empty
    diverged: bool = False  # whether it failed because a loss was not finite; the learning rate is then at fault


@dataclass(frozen=True, slots=True)
class Side:
    """The runs of an architecture with an optimiser."""

    attempts: tuple[Attempt, ...]  # a run for each rate, ascending
    again: Attempt | None = None  # the best rate with the fresh seed, or None

    @property
    def best(self) -> Attempt | None:
        """The run with the best validation accuracy; of equal runs that with the lower rate.

        Diverged runs are worse than all others. None if all diverged, or if a run failed for another reason.
        """
        if any(attempt.accuracy is None and not attempt.diverged for attempt in self.attempts):
            return None
        complete = [attempt for attempt in self.attempts if attempt.accuracy is not None]
        return max(complete, key=lambda attempt: (attempt.accuracy or 0.0, -attempt.rate), default=None)

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy of the best rate with the fresh seed, or None."""
        return self.again.accuracy if self.again else None

    @property
    def at_edge(self) -> bool:
        """Whether the best of three or more rates is the lowest or the highest."""
        best = self.best
        rates = [attempt.rate for attempt in self.attempts]
        return best is not None and len(rates) > 2 and best.rate in (min(rates), max(rates))

    def missing(self) -> str:
        """Return the reason for a missing accuracy, or an empty string."""
        if self.accuracy is not None:
            return ""
        if self.again is not None:
            return f"the best rate, {self.again.rate:.3g}, failed with the fresh seed: {self.again.reason}"
        failed = next((attempt for attempt in self.attempts if attempt.accuracy is None and not attempt.diverged), None)
        if failed is not None:
            return f"rate {failed.rate:.3g} failed: {failed.reason}"
        return "every rate diverged"


@dataclass(frozen=True, slots=True)
class Pair:
    """An architecture with both optimisers."""

    entrant: Entrant
    sgd: Side
    adam: Side

    def side(self, optimizer: OptimizerName) -> Side:
        """Return the runs with an optimiser."""
        return self.sgd if optimizer == "sgd" else self.adam

    @property
    def difference(self) -> float | None:
        """SGD's accuracy minus Adam's, both with the fresh seed; None if the pair is dropped."""
        if self.sgd.accuracy is None or self.adam.accuracy is None:
            return None
        return self.sgd.accuracy - self.adam.accuracy

    @property
    def why_dropped(self) -> str:
        """Why the pair is dropped, or empty."""
        reasons = ((NAMES[optimizer], self.side(optimizer).missing()) for optimizer in OPTIMIZERS)
        return "; ".join(f"{name}: {reason}" for name, reason in reasons if reason)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison so far."""

    design: Design
    pairs: tuple[Pair, ...]  # the architectures whose runs all ended

    @property
    def finished(self) -> bool:
        """Whether every architecture was trained."""
        return len(self.pairs) == len(self.design.entrants)

    @property
    def dropped(self) -> tuple[Pair, ...]:
        """The pairs without a difference."""
        return tuple(pair for pair in self.pairs if pair.difference is None)

    @property
    def differences(self) -> tuple[float, ...]:
        """SGD minus Adam for each pair that is not dropped."""
        return tuple(pair.difference for pair in self.pairs if pair.difference is not None)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the differences; None for fewer than two."""
        return stdev(self.differences) if len(self.differences) > 1 else None

    @property
    def interval(self) -> Interval | None:
        """Mean difference with Student's 95 % interval; None before the end, or for fewer than two pairs."""
        return mean_interval(self.differences) if self.finished and len(self.differences) > 1 else None

    def edges(self, optimizer: OptimizerName) -> int:
        """Return for how many architectures the best rate was the lowest or the highest."""
        return sum(pair.side(optimizer).at_edge for pair in self.pairs)


def make_design(
    specification: StudySpecification,
    *,
    architectures: int = DEFAULT_ARCHITECTURES,
    rates: int = DEFAULT_RATES,
    seed: int,
) -> Design:
    """Return the design of a comparison; it does not depend on any run.

    Args:
        specification: The study's: space, budget, ranges of rates, epochs, batch, augmentation.
        architectures: Number of architectures; V1 and V2 come first if budget and space include them.
        rates: Number of learning rates of each optimiser.
        seed: Seed of the drawn architectures and of all runs.

    Raises:
        InputError: If a number is out of range, or the space has too few architectures or rates.
    """
    for argument, value, low, high in (("--architectures", architectures, 2, 100), ("--rates", rates, 1, 20)):
        if not low <= value <= high:
            raise InputError(argument, value, f"must be a whole number from {low} to {high}")
    check_seed(seed)
    sgd, adam = (spread_rates(specification.recipes, optimizer, rates) for optimizer in OPTIMIZERS)
    chosen = _architectures(specification, architectures, seed)
    entrants = tuple(_entrant(name, architecture, seed) for name, architecture in chosen)
    return Design(entrants, sgd, adam, specification.recipes, specification.measure)


def spread_rates(recipes: RecipeSpace, optimizer: OptimizerName, rates: int) -> tuple[float, ...]:
    """Return the centres of `rates` equal parts of an optimiser's range on a log scale, ascending.

    They are rounded to six digits, so that every machine trains the same rates.

    Raises:
        InputError: If the range is too narrow.
    """
    low, high = recipes.range_of(optimizer).learning_rate
    step = math.log(high / low) / rates
    centres = (low * math.exp(step * (index + 0.5)) for index in range(rates))
    rounded = tuple(min(max(float(f"{rate:.6g}"), low), high) for rate in centres)
    if len(set(rounded)) < rates:
        rule = f"the study's range of {NAMES[optimizer]}'s learning rate, {low:g} to {high:g}, is too narrow"
        raise InputError("--rates", rates, rule, "use --rates 1")
    return rounded


def _architectures(specification: StudySpecification, wanted: int, seed: int) -> list[tuple[str, Architecture]]:
    space, inputs, budget = specification.space, specification.inputs, specification.budget
    space.require_feasible(inputs, budget)
    shape = {"in_channels": inputs.in_channels, "size": inputs.size, "classes": inputs.classes}
    known = {named(name, **shape): name for name in _NAMED}
    chosen = {network: name for network, name in known.items() if budget.fits(network) and space.params_of(network)}
    generator, drawn = random.Random(f"compare {seed}"), 0
    for _ in range(wanted * _DRAWS_EACH):
        if len(chosen) >= wanted:
            break
        network = space.architecture(space.draw_feasible(inputs, budget, generator), inputs)
        if network not in chosen:
            drawn += 1
            chosen[network] = f"drawn {drawn}"
    if len(chosen) < wanted:
        rule = f"only {len(chosen)} architectures within {budget} were found in the study's space"
        raise InputError("--architectures", wanted, rule, "ask for fewer")
    return [(name, network) for network, name in chosen.items()][:wanted]


def _entrant(name: str, architecture: Architecture, seed: int) -> Entrant:
    """Return an entrant with its own training seeds, so that no two architectures share an order of images."""
    generator = random.Random(f"compare {seed} {architecture.digest}")
    tried, fresh = generator.sample(range(2**31), 2)
    counts = count(architecture)
    return Entrant(name, architecture, counts.params, counts.macs, tried, fresh)


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain JSON types; accuracies and differences are shares of 1."""
    design, interval = comparison.design, comparison.interval
    return {
        "finished": comparison.finished,
        "epochs": design.recipes.epochs,
        "batch": design.recipes.batch,
        "rates": {optimizer: list(design.rates(optimizer)) for optimizer in OPTIMIZERS},
        "weight_decay": dict(WEIGHT_DECAY),
        "measure": design.measure.words,
        "pairs": [_pair_dict(pair) for pair in comparison.pairs],
        "interval": None if interval is None else asdict(interval) | {"width": interval.high - interval.low},
        "spread": comparison.spread,
        "conclusion": list(conclusion(comparison)),
    }


def _pair_dict(pair: Pair) -> dict[str, Any]:
    entrant = pair.entrant
    return {
        "name": entrant.name,
        "architecture": entrant.architecture.describe(),
        "params": entrant.params,
        "tried_seed": entrant.tried_seed,
        "fresh_seed": entrant.fresh_seed,
        **{optimizer: _side_dict(pair.side(optimizer)) for optimizer in OPTIMIZERS},
        "difference": pair.difference,
        "dropped": pair.why_dropped or None,
    }


def _side_dict(side: Side) -> dict[str, Any]:
    return {
        "best_rate": side.best.rate if side.best else None,
        "tried_accuracy": side.best.accuracy if side.best else None,
        "accuracy": side.accuracy,
        "tried": [asdict(attempt) for attempt in side.attempts],
        "again": asdict(side.again) if side.again else None,
    }


def conclusion(comparison: Comparison) -> Sequence[str]:
    """Return the conclusion of a comparison, in sentences."""
    interval, spread, n = comparison.interval, comparison.spread, len(comparison.differences)
    if not comparison.finished:
        done, wanted = len(comparison.pairs), len(comparison.design.entrants)
        return (f"{done} of {wanted} architectures are trained; the interval needs all of them.",)
    if interval is None or spread is None:
        return (f"{plural(n, 'pair')} left; the interval needs at least 2.",)
    low, high, measured = 100 * interval.low, 100 * interval.high, comparison.design.measure.on("validation")
    sentences = [
        f"SGD minus Adam: {100 * interval.estimate:+.2f} points of {measured} on average, 95 % interval "
        f"{low:+.2f} to {high:+.2f}, {high - low:.2f} points wide (Student, n = {n} architectures; their differences "
        f"have a standard deviation of {100 * spread:.2f} points).",
        "With other such architectures and seeds, 95 of 100 such intervals would include the mean difference. This "
        "applies only to this study's data, budget and epochs, and to these ranges of rates.",
    ]
    if interval.low <= 0 <= interval.high:
        sentences.append("It includes 0: this comparison does not show which of the two is better here.")
    else:
        better = "SGD" if interval.estimate > 0 else "Adam"
        sentences.append(f"It does not include 0: here {better} is better on average.")
    edges = [(comparison.edges(optimizer), NAMES[optimizer]) for optimizer in OPTIMIZERS if comparison.edges(optimizer)]
    if edges:
        counts = " and ".join(
            f"{number} of {len(comparison.pairs)} architectures with {name}" for number, name in edges
        )
        sentences.append(
            f"The best rate was the lowest or the highest for {counts}: more rates or another range may change this."
        )
    return tuple(sentences)
