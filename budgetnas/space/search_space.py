"""The search space: ranges of every parameter of a trial, and the way from drawn values to a candidate.

All parameters are whole numbers, rates or choices with a fixed range. Those of the architecture are flat and
unconditional, so that a model-based sampler sees every one of them in every trial. So are the extras of the recipe
that are searched; those of the optimiser that was chosen exist only in its trials.
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
"""Channel counts, four to an octave: evenly spaced on a log scale, as widths act on cost and accuracy."""


@dataclass(frozen=True, slots=True)
class WholeRange:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    @property
    def only(self) -> Value | None:
        """The value, if there is but one."""
        return self.low if self.low == self.high else None


@dataclass(frozen=True, slots=True)
class LogRange:
    """Numbers from `low` to `high`, drawn on a log scale."""

    low: float
    high: float

    @property
    def only(self) -> Value | None:
        """The value, if there is but one."""
        return self.low if self.low == self.high else None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values without an order."""

    values: tuple[Value, ...]

    @property
    def only(self) -> Value | None:
        """The value, if there is but one."""
        return self.values[0] if len(self.values) == 1 else None


Range = WholeRange | LogRange | Choice


class InputShape(Frozen):
    """What the data decide about a network: channels, side in pixels, number of classes."""

    in_channels: int = Field(ge=1)
    size: int = Field(ge=1)
    classes: int = Field(ge=1)


class SearchSpace(Frozen):
    """The architectures that a search may propose.

    Attributes:
        block: Kind of block in every stage.
        blocks: Fewest and most blocks of each stage; its length is the number of stages.
        widths: The table of channel counts that each stage's width is drawn from, rising.
        stem_width: Channels of the stem; nothing: the width of the first stage, as in the classic CIFAR ResNets.
        stem_kernel: Side of the stem's convolution, odd.
        strides: Stride of each stage; nothing: 1, then 2 for every later stage.
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
            raise ValueError("widths must rise, each named once")
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
        """Return the range of each parameter: ``blocks_1``, ``width_1``, ... (an index into the table)."""
        ranges: dict[str, WholeRange] = {}
        for stage, (low, high) in enumerate(self.blocks, start=1):
            ranges[f"blocks_{stage}"] = WholeRange(low, high)
            ranges[f"width_{stage}"] = WholeRange(0, len(self.widths) - 1)
        return ranges

    def size(self) -> int:
        """Return the number of architectures in the space."""
        return prod(one.high - one.low + 1 for one in self.ranges().values())

    def architecture(self, params: Mapping[str, Value], inputs: InputShape) -> Architecture:
        """Return the architecture that these parameters name, for images of that shape."""
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
        """Return the parameters that name `architecture`, or nothing if the space does not hold it."""
        if architecture.num_stages != self.num_stages or not set(architecture.widths) <= set(self.widths):
            return None
        params: Params = {}
        for stage, (blocks, width) in enumerate(zip(architecture.blocks, architecture.widths, strict=True), start=1):
            params[f"blocks_{stage}"] = blocks
            params[f"width_{stage}"] = self.widths.index(width)
        inputs = InputShape(in_channels=architecture.in_channels, size=architecture.size, classes=architecture.classes)
        held = all(one.low <= int(params[name]) <= one.high for name, one in self.ranges().items())
        return params if held and self.architecture(params, inputs) == architecture else None

    def smallest(self, inputs: InputShape) -> Architecture:
        """Return the architecture with every parameter at its lowest."""
        return self.architecture({name: one.low for name, one in self.ranges().items()}, inputs)

    def draw(self, generator: random.Random) -> Params:
        """Return parameters drawn evenly from all ranges, whether they fit a budget or not."""
        return {name: generator.randint(one.low, one.high) for name, one in self.ranges().items()}

    def floors(self, inputs: InputShape) -> tuple[Architecture, ...]:
        """Return networks of which one has at most the counts of any given network of the space, in all three at once.

        Narrower and shallower is less in parameters, multiply-accumulates and activations alike, with one exception:
        a block of stride 1 that puts out as many channels as come in needs no projection, so that a stage as wide as a
        stem of fixed width can cost less than a narrower one. The first floor has every parameter at its lowest; each
        of the others keeps one stage more, from the first on, as wide as the stem.
        """
        return tuple(self.architecture(params, inputs) for params in self._floors())

    def draw_feasible(self, inputs: InputShape, budget: Budget, generator: random.Random) -> Params:
        """Return parameters whose architecture keeps all of `budget`, by construction.

        It begins with a floor that fits. The parameters are fixed one after the other in random order, each evenly
        among the values with which the network still fits when all that are left stand where the floor has them. Some
        value always does: the one that the previous step counted.

        Raises:
            InputError: If nothing in the space fits.
        """
        self.require_feasible(inputs, budget)
        ranges = self.ranges()
        params = next(one for one in self._floors() if budget.fits(self.architecture(one, inputs)))
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
            InputError: If nothing does; it names the network that comes nearest, and each limit that this one breaks.
        """
        broken = [(one, budget.excesses(count(one))) for one in self.floors(inputs)]
        if any(not excesses for _, excesses in broken):
            return
        smallest, excesses = min(broken, key=lambda one: max(excess.count / excess.limit for excess in one[1]))
        limits = {limit.quantity: limit for limit in budget.limits}
        found = ", ".join(f"{one.count:,} {limits[one.quantity].words}" for one in excesses)
        raise InputError(
            limits[excesses[0].quantity].flag,
            format_count(excesses[0].limit),
            f"nothing in the space fits: its smallest network ({smallest.describe()}) has {found}",
            f"allow at least {_allowances(excesses)}, or add smaller widths to the space",
        )

    def _floors(self) -> list[Params]:
        lowest: Params = {name: one.low for name, one in self.ranges().items()}
        as_wide_as_the_stem = None if self.stem_width is None else self.stem_width / BLOCKS[self.block].expansion
        if as_wide_as_the_stem not in self.widths:
            return [lowest]
        index = self.widths.index(int(as_wide_as_the_stem))
        kept = ({f"width_{stage}": index for stage in range(1, last + 1)} for last in range(self.num_stages + 1))
        return [lowest | one for one in kept] if index else [lowest]

    def _stem(self, widths: tuple[int, ...]) -> int:
        return widths[0] if self.stem_width is None else self.stem_width


def _allowances(excesses: tuple[Excess, ...]) -> str:
    """Return the limits that would be kept; alone, a limit was named already."""
    if len(excesses) == 1:
        return f"{excesses[0].count:,}"
    return " and ".join(f"{FLAGS[one.quantity]} {one.count:,}" for one in excesses)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture and a recipe: what one training is given, beside its data and seed."""

    architecture: Architecture
    recipe: Recipe

    @property
    def key(self) -> tuple[str, str]:
        """Digests of architecture and recipe: equal for equal candidates."""
        return self.architecture.digest, self.recipe.digest


@dataclass(frozen=True, slots=True)
class CandidateSpace:
    """Everything a trial draws: an architecture from `space` and a recipe from `recipes`."""

    space: SearchSpace
    recipes: RecipeSpace
    inputs: InputShape

    def ranges(self) -> dict[str, Range]:
        """Return the range of every parameter a trial can have, architecture first."""
        ranges: dict[str, Range] = {**self.space.ranges(), "optimizer": Choice(self.recipes.optimizers)}
        choices = self.recipes.extras()
        for optimizer in self.recipes.optimizers:
            one = self.recipes.range_of(optimizer)
            ranges |= {name: Choice(choices[extra]) for extra, name in self._searched(optimizer).items()}
            ranges[f"{optimizer}_learning_rate"] = LogRange(*one.learning_rate)
            ranges[f"{optimizer}_weight_decay"] = Choice(one.weight_decay)
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
        """Return the candidate that these parameters name."""
        optimizer = params["optimizer"]
        recipe = self.recipes.recipe(
            "sgd" if optimizer == "sgd" else "adam",
            learning_rate=float(params[f"{optimizer}_learning_rate"]),
            weight_decay=float(params[f"{optimizer}_weight_decay"]),
            chosen={extra: params[name] for extra, name in self._searched(optimizer).items()},
        )
        return Candidate(self.space.architecture(params, self.inputs), recipe)

    def params_of(self, candidate: Candidate) -> Params | None:
        """Return the parameters that name `candidate`, or nothing if the space does not hold it."""
        params = self.space.params_of(candidate.architecture)
        recipe = candidate.recipe
        if params is None or recipe.optimizer not in self.recipes.optimizers:
            return None
        one = self.recipes.range_of(recipe.optimizer)
        low, high = one.learning_rate
        if not low <= recipe.learning_rate <= high or recipe.weight_decay not in one.weight_decay:
            return None
        extras = self._searched(recipe.optimizer)
        params |= {
            "optimizer": recipe.optimizer,
            **{name: recipe.extra(extra) for extra, name in extras.items()},
            f"{recipe.optimizer}_learning_rate": recipe.learning_rate,
            f"{recipe.optimizer}_weight_decay": recipe.weight_decay,
        }
        choices = self.recipes.extras()
        held = all(recipe.extra(extra) in choices[extra] for extra in extras)
        return params if held and self.candidate(params) == candidate else None

    def _searched(self, optimizer: Value) -> dict[str, str]:
        """Return the extras that a trial with `optimizer` chooses, each with the name of its parameter."""
        return {
            extra: f"sgd_{extra}" if extra in SGD_EXTRAS else extra
            for extra, choices in self.recipes.extras().items()
            if len(choices) > 1 and (optimizer == "sgd" or extra not in SGD_EXTRAS)
        }
