"""The design of a comparison of SGD and Adam, and what it comes to: decided before, computed after the trainings."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import stdev
from typing import Any, Final

from budgetnas.architecture import Architecture, count, named
from budgetnas.errors import InputError, check_seed
from budgetnas.space.initial_trials import WEIGHT_DECAY
from budgetnas.space.recipe import OptimizerName, RecipeSpace
from budgetnas.space.search_space import Candidate
from budgetnas.space.specification import StudySpecification
from budgetnas.stats import Interval, mean_interval

DEFAULT_ARCHITECTURES: Final = 5
DEFAULT_RATES: Final = 3
OPTIMIZERS: Final[tuple[OptimizerName, OptimizerName]] = ("sgd", "adam")
NAMES: Final[dict[OptimizerName, str]] = {"sgd": "SGD", "adam": "Adam"}
_SEED_NETWORKS: Final = ("v1", "v2")
_DRAWS_EACH: Final = 200


@dataclass(frozen=True, slots=True)
class Entrant:
    """An architecture of a comparison.

    Attributes:
        name: ``v1``, ``v2`` or ``drawn N``.
        architecture: What is trained with both optimisers.
        params: Its parameters.
        tried_seed: Training seed of the rates that are tried, the same for both optimisers.
        fresh_seed: Training seed of the best rate again, the same for both optimisers.
    """

    name: str
    architecture: Architecture
    params: int
    tried_seed: int
    fresh_seed: int


@dataclass(frozen=True, slots=True)
class Design:
    """What a comparison trains: the same for both optimisers but for the rates themselves.

    Attributes:
        entrants: The architectures.
        sgd: Learning rates tried with SGD, rising.
        adam: Learning rates tried with Adam, as many.
        recipes: Where epochs, batch, augmentation and momentum come from.
    """

    entrants: tuple[Entrant, ...]
    sgd: tuple[float, ...]
    adam: tuple[float, ...]
    recipes: RecipeSpace

    def __post_init__(self) -> None:
        assert len(self.sgd) == len(self.adam), "each optimiser gets the same number of rates"

    def rates(self, optimizer: OptimizerName) -> tuple[float, ...]:
        """Return the rates that are tried with that optimiser."""
        return self.sgd if optimizer == "sgd" else self.adam

    def candidate(self, entrant: Entrant, optimizer: OptimizerName, rate: float) -> Candidate:
        """Return what is trained: the weight decay is the seed trials' of that optimiser."""
        return Candidate(entrant.architecture, self.recipes.recipe(optimizer, rate, WEIGHT_DECAY[optimizer]))

    @property
    def trainings_each(self) -> int:
        """Trainings of each architecture with each optimiser: every rate once, the best again."""
        return len(self.sgd) + 1

    @property
    def trainings(self) -> int:
        """Trainings in all."""
        return len(self.entrants) * len(OPTIMIZERS) * self.trainings_each


@dataclass(frozen=True, slots=True)
class Attempt:
    """A training of a comparison.

    Attributes:
        rate: Its learning rate.
        run: Number of its record.
        accuracy: Validation accuracy after the last epoch, a share of 1; nothing if it failed.
        reason: Why it failed, or empty.
        diverged: Whether it failed by a loss that is not finite: then the rate is to blame.
    """

    rate: float
    run: int
    accuracy: float | None
    reason: str = ""
    diverged: bool = False


@dataclass(frozen=True, slots=True)
class Side:
    """What an optimiser gave for an architecture.

    Attributes:
        attempts: One for each rate, rising.
        again: The best rate with a fresh seed; nothing if there is none.
    """

    attempts: tuple[Attempt, ...]
    again: Attempt | None = None

    @property
    def best(self) -> Attempt | None:
        """The best rate by validation accuracy; of equal ones the lowest; a rate that diverged is worse than any.

        Nothing if all diverged, or one failed for a reason that says nothing about its rate.
        """
        if any(one.accuracy is None and not one.diverged for one in self.attempts):
            return None
        complete = [one for one in self.attempts if one.accuracy is not None]
        return max(complete, key=lambda one: (one.accuracy or 0.0, -one.rate), default=None)

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy of the best rate with the fresh seed; nothing where it is missing."""
        return self.again.accuracy if self.again else None

    @property
    def at_edge(self) -> bool:
        """Whether the best of three or more rates is the lowest or highest tried."""
        best = self.best
        rates = [one.rate for one in self.attempts]
        return best is not None and len(rates) > 2 and best.rate in (min(rates), max(rates))

    def missing(self) -> str:
        """Return why there is no accuracy, or nothing if there is one."""
        if self.accuracy is not None:
            return ""
        if self.again is not None:
            return f"the best rate, {self.again.rate:.3g}, failed with the fresh seed: {self.again.reason}"
        failed = next((one for one in self.attempts if one.accuracy is None and not one.diverged), None)
        if failed is not None:
            return f"rate {failed.rate:.3g} failed: {failed.reason}"
        return "every rate diverged"


@dataclass(frozen=True, slots=True)
class Pair:
    """An architecture with both optimisers.

    Attributes:
        entrant: The architecture.
        sgd: What SGD gave.
        adam: What Adam gave.
    """

    entrant: Entrant
    sgd: Side
    adam: Side

    def side(self, optimizer: OptimizerName) -> Side:
        """Return what that optimiser gave."""
        return self.sgd if optimizer == "sgd" else self.adam

    @property
    def difference(self) -> float | None:
        """SGD's accuracy less Adam's, both with the fresh seed; nothing if the pair is dropped."""
        if self.sgd.accuracy is None or self.adam.accuracy is None:
            return None
        return self.sgd.accuracy - self.adam.accuracy

    @property
    def why_dropped(self) -> str:
        """Why the pair is dropped, or empty."""
        told = ((NAMES[one], self.side(one).missing()) for one in OPTIMIZERS)
        return "; ".join(f"{name}: {reason}" for name, reason in told if reason)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison came to.

    Attributes:
        design: What was to be trained.
        pairs: The architectures whose trainings all ended.
    """

    design: Design
    pairs: tuple[Pair, ...]

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
        """SGD less Adam for each pair that is not dropped."""
        return tuple(pair.difference for pair in self.pairs if pair.difference is not None)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the differences; nothing of fewer than two."""
        return stdev(self.differences) if len(self.differences) > 1 else None

    @property
    def interval(self) -> Interval | None:
        """Mean difference with Student's 95 % interval; nothing before the end, or of fewer than two pairs."""
        return mean_interval(self.differences) if self.finished and len(self.differences) > 1 else None

    def edges(self, optimizer: OptimizerName) -> int:
        """Return for how many architectures the best rate was the lowest or highest tried."""
        return sum(pair.side(optimizer).at_edge for pair in self.pairs)


def make_design(
    specification: StudySpecification,
    *,
    architectures: int = DEFAULT_ARCHITECTURES,
    rates: int = DEFAULT_RATES,
    seed: int,
) -> Design:
    """Return the design of a comparison; it depends on nothing that was trained.

    Args:
        specification: The study's: space, budget, ranges of rates, epochs, batch, augmentation.
        architectures: How many; V1 and V2 come first where the budget and the space hold them.
        rates: Learning rates of each optimiser.
        seed: Of the drawn architectures and of all trainings.

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
    return Design(entrants, sgd, adam, specification.recipes)


def spread_rates(recipes: RecipeSpace, optimizer: OptimizerName, rates: int) -> tuple[float, ...]:
    """Return the middles of `rates` equal parts of an optimiser's range on a log scale, rising.

    So each rate stands for an equal part of the range, and none is spent on its very ends. They are rounded to six
    digits, so that every machine trains the same ones.

    Raises:
        InputError: If the range is too narrow for so many.
    """
    low, high = recipes.range_of(optimizer).learning_rate
    step = math.log(high / low) / rates
    middles = (low * math.exp(step * (index + 0.5)) for index in range(rates))
    found = tuple(min(max(float(f"{one:.6g}"), low), high) for one in middles)
    if len(set(found)) < rates:
        rule = f"the study's range of {NAMES[optimizer]}'s learning rate, {low:g} to {high:g}, does not hold so many"
        raise InputError("--rates", rates, rule, "use --rates 1")
    return found


def _architectures(specification: StudySpecification, wanted: int, seed: int) -> list[tuple[str, Architecture]]:
    space, inputs, budget = specification.space, specification.inputs, specification.budget
    space.require_feasible(inputs, budget)
    shape = {"in_channels": inputs.in_channels, "size": inputs.size, "classes": inputs.classes}
    seeds = {name: named(name, **shape) for name in _SEED_NETWORKS}
    chosen = {one: name for name, one in seeds.items() if budget.fits(one) and space.params_of(one) is not None}
    generator, drawn = random.Random(f"compare {seed}"), 0
    for _ in range(wanted * _DRAWS_EACH):
        if len(chosen) >= wanted:
            break
        one = space.architecture(space.draw_feasible(inputs, budget, generator), inputs)
        if one not in chosen:
            drawn += 1
            chosen[one] = f"drawn {drawn}"
    if len(chosen) < wanted:
        rule = f"the study's space has only {len(chosen)} architectures within {budget} that were found"
        raise InputError("--architectures", wanted, rule, "ask for fewer")
    return [(name, one) for one, name in chosen.items()][:wanted]


def _entrant(name: str, architecture: Architecture, seed: int) -> Entrant:
    """Return an entrant, its training seeds its own: no two architectures share an order of images by design."""
    generator = random.Random(f"compare {seed} {architecture.digest}")
    tried, fresh = generator.sample(range(2**31), 2)
    return Entrant(name, architecture, count(architecture).params, tried, fresh)


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as values that JSON holds; accuracies and differences are shares of 1."""
    design, interval = comparison.design, comparison.interval
    return {
        "finished": comparison.finished,
        "epochs": design.recipes.epochs,
        "batch": design.recipes.batch,
        "rates": {one: list(design.rates(one)) for one in OPTIMIZERS},
        "weight_decay": dict(WEIGHT_DECAY),
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
        **{one: _side_dict(pair.side(one)) for one in OPTIMIZERS},
        "difference": pair.difference,
        "dropped": pair.why_dropped or None,
    }


def _side_dict(side: Side) -> dict[str, Any]:
    return {
        "best_rate": side.best.rate if side.best else None,
        "tried_accuracy": side.best.accuracy if side.best else None,
        "accuracy": side.accuracy,
        "tried": [asdict(one) for one in side.attempts],
        "again": asdict(side.again) if side.again else None,
    }


def conclusion(comparison: Comparison) -> Sequence[str]:
    """Return what a comparison says, in sentences."""
    interval, spread, n = comparison.interval, comparison.spread, len(comparison.differences)
    if not comparison.finished:
        done, wanted = len(comparison.pairs), len(comparison.design.entrants)
        return (f"{done} of {wanted} architectures are trained; there is no interval before all are.",)
    if interval is None or spread is None:
        return (f"{n} pair{'' if n == 1 else 's'} left: no interval, which needs at least 2.",)
    low, high = 100 * interval.low, 100 * interval.high
    sentences = [
        f"SGD less Adam: {100 * interval.estimate:+.2f} points of validation accuracy on average, 95 % interval "
        f"{low:+.2f} to {high:+.2f}, {high - low:.2f} points wide (Student, n = {n} architectures; their differences "
        f"have a standard deviation of {100 * spread:.2f} points).",
        "Were this done again with other such architectures and seeds, 95 in 100 such intervals would hold the mean "
        "difference. It speaks of this study's data, budget and epochs, these ranges of rates, and nothing else.",
    ]
    if interval.low <= 0 <= interval.high:
        sentences.append("It includes 0: this comparison does not tell which of the two is better here.")
    else:
        better = "SGD" if interval.estimate > 0 else "Adam"
        sentences.append(f"It does not include 0: here {better} is the better one on average.")
    edges = [(NAMES[one], comparison.edges(one)) for one in OPTIMIZERS if comparison.edges(one)]
    if edges:
        told = " and ".join(f"{number} of {len(comparison.pairs)} architectures for {name}" for name, number in edges)
        sentences.append(
            f"The best rate was the lowest or highest tried in {told}: more rates, or another range, may change this."
        )
    return tuple(sentences)
