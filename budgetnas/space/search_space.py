"""The search space: the range of every parameter of a trial, and the candidate that parameters define.

All parameters are whole numbers, rates or choices with a fixed range. Those of the architecture and the searched extras
of the recipe exist in every trial, so that a model-based sampler always sees them. Those of an optimiser exist only in
trials that use it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from budgetnas.architecture import BLOCKS, Architecture, count, default_strides
from budgetnas.architecture.budget import FLAGS, Budget, Excess, format_count
from budgetnas.errors import InputError
from budgetnas.space.recipe import SGD_EXTRAS, Frozen, Recipe, RecipeSpace

Value = int | float | str
Params = dict[str, Value]
Width = Annotated[int, Field(ge=1, le=4096)]

DEFAULT_WIDTHS: Final = (
    *(8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128),
    *(160, 192, 224, 256, 320, 384, 448, 512),
)
"""Channel counts, four per octave: evenly spaced on a log scale, as widths act on cost and accuracy."""


@dataclass(frozen=True, slots=True)
class WholeRange:
    """Whole numbers from `low` to `high`, inclusive."""

    low: int
    high: int

    @property
    def only(self) -> Value | None:
        """The value, if there is a single value."""
        return self.low if self.low == self.high else None


@dataclass(frozen=True, slots=True)
class LogRange:
    """Numbers from `low` to `high`, drawn on a log scale."""

    low: float
    high: float

    @property
    def only(self) -> Value | None:
        """The value, if there is a single value."""
        return self.low if self.low == self.high else None


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice among several values without an order."""

    values: tuple[Value, ...]

    @property
    def only(self) -> Value | None:
        """The value, if there is a single value."""
        return self.values[0] if len(self.values) == 1 else None


Range = WholeRange | LogRange | Choice


class InputShape(Frozen):
    """The shape of the data: channels, side in pixels, number of classes."""

    in_channels: int = Field(ge=1)
    size: int = Field(ge=1)
    classes: int = Field(ge=1)


class SearchSpace(Frozen):
    """The architectures that a search can propose.

    Attributes:
        block: Kind of block in every stage.
        blocks: Fewest and most blocks of each stage; its length is the number of stages.
        widths: Table of channel counts for the stages' widths, ascending.
        stem_width: Channels of the stem, or None for the first stage's width as in the classic CIFAR ResNets.
        stem_kernel: Side of the stem's convolution, odd.
        strides: Stride of each stage, or None for 1, then 2 in every later stage.
    """

    block: Literal["basic", "bottleneck"] = "basic"
    blocks: tuple[tuple[int, int], ...] = Field(default=((1, 3),) * 4, min_length=1, max_length=5)
    widths: tuple[Width, ...] = Field(default=DEFAULT_WIDTHS, min_length=1)
    stem_width: Width | None = None
    stem_kernel: int = Field(default=3, ge=1, le=15)
    strides: tuple[Literal[1, 2], ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for low, high in self.blocks:
            if not 1 <= low <= high <= 200:
                raise ValueError(f"blocks must be [fewest, most] within 1 to 200, not [{low}, {high}]")
        if list(self.widths) != sorted(set(self.widths)):
            raise ValueError("widths must be ascending, without duplicates")
        if self.strides is not None and len(self.strides) != len(self.blocks):
            raise ValueError(f"strides must have {len(self.blocks)} numbers, one for each stage")
        if self.stem_kernel % 2 == 0:
            raise ValueError("stem_kernel must be odd")
        return self

    @property
    def num_stages(self) -> int:
        """Number of stages."""
        return len(self.blocks)

    def ranges(self) -> dict[str, WholeRange]:
        """Return the range of each parameter: ``blocks_1``, ``width_1`` (an index into the table), and so on."""
        ranges: dict[str, WholeRange] = {}
        for stage, (low, high) in enumerate(self.blocks, start=1):
            ranges[f"blocks_{stage}"] = WholeRange(low, high)
            ranges[f"width_{stage}"] = WholeRange(0, len(self.widths) - 1)
        return ranges

    def size(self) -> int:
        """Return the number of architectures in the space."""
        return prod(values.high - values.low + 1 for values in self.ranges().values())

    def architecture(self, params: Mapping[str, Value], inputs: InputShape) -> Architecture:
        """Return the architecture that the parameters define, for images of that shape."""
        stages = range(1, self.num_stages + 1)
        widths = tuple(self.widths[int(params[f"width_{stage}"])] for stage in stages)
        return Architecture(
            blocks=tuple(int(params[f"blocks_{stage}"]) for stage in stages),
            widths=widths,
            strides=self.strides or default_strides(self.num_stages),
            block=self.block,
            stem_width=self._stem(widths),
            stem_kernel=self.stem_kernel,
            in_channels=inputs.in_channels,
            size=inputs.size,
            classes=inputs.classes,
        )

    def params_of(self, architecture: Architecture) -> Params | None:
        """Return the parameters that define `architecture`, or None if it is not in the space."""
        if architecture.num_stages != self.num_stages or not set(architecture.widths) <= set(self.widths):
            return None
        params: Params = {}
        for stage, (blocks, width) in enumerate(zip(architecture.blocks, architecture.widths, strict=True), start=1):
            params[f"blocks_{stage}"] = blocks
            params[f"width_{stage}"] = self.widths.index(width)
        inputs = InputShape(in_channels=architecture.in_channels, size=architecture.size, classes=architecture.classes)
        inside = all(values.low <= int(params[name]) <= values.high for name, values in self.ranges().items())
        return params if inside and self.architecture(params, inputs) == architecture else None

    def smallest(self, inputs: InputShape) -> Architecture:
        """Return the architecture with every parameter at its lowest value."""
        return self.architecture({name: values.low for name, values in self.ranges().items()}, inputs)

    def draw(self, generator: random.Random) -> Params:
        """Return parameters drawn evenly from all ranges, without a budget."""
        return {name: generator.randint(values.low, values.high) for name, values in self.ranges().items()}

    def floors(self, inputs: InputShape) -> tuple[Architecture, ...]:
        """Return the floors: every network of the space costs at least as much as one of them, in all three counts.

        Narrower and shallower networks have lower counts, with an exception: a block of stride 1 with as many output as
        input channels needs no projection, so a stage as wide as a stem of fixed width can cost less than a narrower
        stage. The first floor has every parameter at its lowest value. In the next floors the first stage, the first
        two stages, and so on are as wide as the stem.
        """
        return tuple(self.architecture(params, inputs) for params in self._floors())

    def draw_feasible(self, inputs: InputShape, budget: Budget, generator: random.Random) -> Params:
        """Return parameters whose architecture is within `budget`, by construction.

        The parameters start at the values of a floor that fits, and are drawn in random order. Each is drawn evenly
        from the values with which the network fits while the parameters not yet drawn keep the floor's values. At least
        the floor's own value always fits.

        Raises:
            InputError: If nothing in the space fits.
        """
        self.require_feasible(inputs, budget)
        ranges = self.ranges()
        params = next(floor for floor in self._floors() if budget.fits(self.architecture(floor, inputs)))
        order = list(ranges)
        generator.shuffle(order)
        for name in order:
            fitting = [
                value
                for value in range(ranges[name].low, ranges[name].high + 1)
                if budget.fits(self.architecture({**params, name: value}, inputs))
            ]
            params[name] = generator.choice(fitting)
        return params

    def require_feasible(self, inputs: InputShape, budget: Budget) -> None:
        """Check that something in the space fits.

        Raises:
            InputError: If nothing fits; it names the nearest network and the limits that it exceeds.
        """
        floors = [(floor, budget.excesses(count(floor))) for floor in self.floors(inputs)]
        if any(not excesses for _, excesses in floors):
            return
        smallest, excesses = min(floors, key=lambda floor: max(excess.count / excess.limit for excess in floor[1]))
        limits = {limit.quantity: limit for limit in budget.limits}
        counts = ", ".join(f"{excess.count:,} {limits[excess.quantity].words}" for excess in excesses)
        raise InputError(
            limits[excesses[0].quantity].flag,
            format_count(excesses[0].limit),
            f"nothing in the space fits: its smallest network ({smallest.describe()}) has {counts}",
            f"allow at least {_allowances(excesses)}, or add smaller widths to the space",
        )

    def _floors(self) -> list[Params]:
        lowest: Params = {name: values.low for name, values in self.ranges().items()}
        as_wide_as_the_stem = None if self.stem_width is None else self.stem_width / BLOCKS[self.block].expansion
        if as_wide_as_the_stem not in self.widths:
            return [lowest]
        index = self.widths.index(int(as_wide_as_the_stem))
        kept = ({f"width_{stage}": index for stage in range(1, last + 1)} for last in range(self.num_stages + 1))
        return [lowest | widths for widths in kept] if index else [lowest]

    def _stem(self, widths: tuple[int, ...]) -> int:
        return widths[0] if self.stem_width is None else self.stem_width


def _allowances(excesses: tuple[Excess, ...]) -> str:
    """Return the limits that would suffice. A single limit is not named: the message names it already."""
    if len(excesses) == 1:
        return f"{excesses[0].count:,}"
    return " and ".join(f"{FLAGS[excess.quantity]} {excess.count:,}" for excess in excesses)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture and a recipe; with data and a seed they define a training."""

    architecture: Architecture
    recipe: Recipe

    @property
    def key(self) -> tuple[str, str]:
        """Digests of architecture and recipe, equal for equal candidates."""
        return self.architecture.digest, self.recipe.digest


@dataclass(frozen=True, slots=True)
class CandidateSpace:
    """The search space of candidates: architectures from `space` and recipes from `recipes`."""

    space: SearchSpace
    recipes: RecipeSpace
    inputs: InputShape

    def ranges(self) -> dict[str, Range]:
        """Return the range of every parameter that a trial can have, architecture first."""
        ranges: dict[str, Range] = {**self.space.ranges(), "optimizer": Choice(self.recipes.optimizers)}
        choices = self.recipes.extras()
        for optimizer in self.recipes.optimizers:
            rates = self.recipes.range_of(optimizer)
            ranges |= {name: Choice(choices[extra]) for extra, name in self._searched(optimizer).items()}
            ranges[f"{optimizer}_learning_rate"] = LogRange(*rates.learning_rate)
            ranges[f"{optimizer}_weight_decay"] = Choice(rates.weight_decay)
        return ranges

    def joint_names(self) -> tuple[str, ...]:
        """Return the names of the parameters that every trial has."""
        shared = (name for extra, name in self._searched("sgd").items() if extra not in SGD_EXTRAS)
        return (*self.space.ranges(), "optimizer", *shared)

    def names_for(self, optimizer: Value) -> tuple[str, ...]:
        """Return the names of the parameters that exist only when `optimizer` is chosen."""
        own = (name for extra, name in self._searched(optimizer).items() if extra in SGD_EXTRAS)
        return f"{optimizer}_learning_rate", f"{optimizer}_weight_decay", *own

    def candidate(self, params: Mapping[str, Value]) -> Candidate:
        """Return the candidate that the parameters define."""
        optimizer = params["optimizer"]
        recipe = self.recipes.recipe(
            "sgd" if optimizer == "sgd" else "adam",
            learning_rate=float(params[f"{optimizer}_learning_rate"]),
            weight_decay=float(params[f"{optimizer}_weight_decay"]),
            chosen={extra: params[name] for extra, name in self._searched(optimizer).items()},
        )
        return Candidate(self.space.architecture(params, self.inputs), recipe)

    def params_of(self, candidate: Candidate) -> Params | None:
        """Return the parameters that define `candidate`, or None if it is not in the space."""
        params = self.space.params_of(candidate.architecture)
        recipe = candidate.recipe
        if params is None or recipe.optimizer not in self.recipes.optimizers:
            return None
        rates = self.recipes.range_of(recipe.optimizer)
        low, high = rates.learning_rate
        if not low <= recipe.learning_rate <= high or recipe.weight_decay not in rates.weight_decay:
            return None
        extras = self._searched(recipe.optimizer)
        params |= {
            "optimizer": recipe.optimizer,
            **{name: recipe.extra(extra) for extra, name in extras.items()},
            f"{recipe.optimizer}_learning_rate": recipe.learning_rate,
            f"{recipe.optimizer}_weight_decay": recipe.weight_decay,
        }
        choices = self.recipes.extras()
        inside = all(recipe.extra(extra) in choices[extra] for extra in extras)
        return params if inside and self.candidate(params) == candidate else None

    def _searched(self, optimizer: Value) -> dict[str, str]:
        """Return the searched extras of trials with `optimizer`, each with the name of its parameter."""
        return {
            extra: f"sgd_{extra}" if extra in SGD_EXTRAS else extra
            for extra, choices in self.recipes.extras().items()
            if len(choices) > 1 and (optimizer == "sgd" or extra not in SGD_EXTRAS)
        }
