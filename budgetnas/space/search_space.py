"""The search space of architectures: the range of every parameter, and the architecture that parameters define.

Parameters are read as a user thinks: ``width_1`` is 40 channels, ``blocks_3`` is 9 blocks. Those of a fourth stage
exist only in trials with four stages.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from budgetnas.architecture import BLOCKS, Architecture, count, default_stem_stride, default_strides
from budgetnas.architecture.budget import Budget, Excess
from budgetnas.errors import InputError
from budgetnas.space.ranges import Choice, Condition, Params, Steps, Value, existing
from budgetnas.space.recipe import Choices, Frozen

Width = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=1, le=200)]

DEFAULT_WIDTHS: Final = (
    *(8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128),
    *(160, 192, 224, 256, 320, 384, 448, 512),
)
"""Channel counts, four per octave: evenly spaced on a log scale, as widths act on cost and accuracy."""
DEFAULT_DEPTHS: Final = (1, 2, 3, 4, 5, 7, 9)
"""Numbers of blocks: each up to 5, then those of ResNet-44 and ResNet-56 (He et al. 2016)."""
_DEFAULT: Final[Mapping[str, Any]] = {"stages": (3, 4), "depths": DEFAULT_DEPTHS, "se": (False, True)}
"""What a space without ranges of blocks has; a space with its own ranges has only what it names."""


class InputShape(Frozen):
    """The shape of the data: channels, side in pixels, number of classes."""

    in_channels: int = Field(ge=1)
    size: int = Field(ge=1)
    classes: int = Field(ge=1)


class SearchSpace(Frozen):
    """The architectures that a search can propose.

    Without `blocks` it is the default space, with 3 or 4 stages and squeeze-and-excitation as a choice. With `blocks`,
    `stages`, `depths` and `se` are off unless they are given.
    """

    added_later: ClassVar[tuple[str, ...]] = ("stages", "depths", "se", "stem_stride")

    block: Literal["basic", "bottleneck"] = "basic"  # kind of block in every stage
    # Fewest and most blocks of each stage; its length is the largest number of stages.
    blocks: tuple[tuple[int, int], ...] = Field(default=((1, 9),) * 4, min_length=1, max_length=5)
    # Table of channel counts for the stages' widths, ascending.
    widths: tuple[Width, ...] = Field(default=DEFAULT_WIDTHS, min_length=1)
    # Channels of the stem, or None for the first stage's width as in the classic CIFAR ResNets.
    stem_width: Width | None = None
    stem_kernel: int = Field(default=3, ge=1, le=15)  # side of the stem's convolution, odd
    strides: tuple[Literal[1, 2], ...] | None = None  # stride of each stage, or None for 1, then 2 in every later stage
    stages: tuple[int, int] | None = None  # fewest and most stages, or None for as many as `blocks` has
    # Table of numbers of blocks, ascending, or None for every number from the fewest to the most.
    depths: tuple[Depth, ...] | None = Field(default=None, min_length=1)
    se: Choices[bool] = (False,)  # whether blocks have squeeze-and-excitation; with two values each network chooses
    # Factor by which the stem reduces the sides of an image; None for 1 up to 48 pixels, then 2 or 4.
    stem_stride: Literal[1, 2, 4] | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_space(cls, values: Any) -> Any:
        return {**_DEFAULT, **values} if isinstance(values, Mapping) and "blocks" not in values else values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for low, high in self.blocks:
            if not 1 <= low <= high <= 200:
                raise ValueError(f"blocks must be [fewest, most] within 1 to 200, not [{low}, {high}]")
        for name, table in (("widths", self.widths), ("depths", self.depths or ())):
            if list(table) != sorted(set(table)):
                raise ValueError(f"{name} must be ascending, without duplicates")
        if self.strides is not None and len(self.strides) != len(self.blocks):
            raise ValueError(f"strides must have {len(self.blocks)} numbers, one for each stage")
        if self.stem_kernel % 2 == 0:
            raise ValueError("stem_kernel must be odd")
        if len(set(self.se)) != len(self.se):
            raise ValueError("se names a value twice")
        return self

    @model_validator(mode="after")
    def _whole_stages(self) -> Self:
        low, high = self.stages or (len(self.blocks), len(self.blocks))
        if not 1 <= low <= high == len(self.blocks):
            raise ValueError(
                f"stages must be [fewest, most] with the most {len(self.blocks)}, as many as blocks has ranges, "
                f"not [{low}, {high}]"
            )
        for stage, (fewest, most) in enumerate(self.blocks, start=1):
            if not self.depths_of(stage):
                raise ValueError(f"depths must have a number from {fewest} to {most}, the blocks of stage {stage}")
        return self

    @property
    def stage_numbers(self) -> tuple[int, ...]:
        """The possible numbers of stages, ascending."""
        most = len(self.blocks)
        return tuple(range(self.stages[0] if self.stages else most, most + 1))

    def depths_of(self, stage: int) -> tuple[int, ...]:
        """Return the possible numbers of blocks of a stage, from 1, ascending."""
        low, high = self.blocks[stage - 1]
        every = range(low, high + 1)
        return tuple(every) if self.depths is None else tuple(depth for depth in self.depths if depth in every)

    def ranges(self) -> dict[str, Steps | Choice]:
        """Return the range of each parameter: ``stages`` and ``se`` if searched, ``blocks_1``, ``width_1``, ..."""
        ranges: dict[str, Steps | Choice] = {}
        if len(self.stage_numbers) > 1:
            ranges["stages"] = Choice(self.stage_numbers)
        if len(self.se) > 1:
            ranges["se"] = Choice(self.se)
        return ranges | self.stage_ranges()

    def stage_ranges(self) -> dict[str, Steps]:
        """Return the ranges of the blocks and the width of every stage."""
        ranges: dict[str, Steps] = {}
        for stage in range(1, len(self.blocks) + 1):
            ranges |= {f"blocks_{stage}": Steps(self.depths_of(stage)), f"width_{stage}": Steps(self.widths)}
        return ranges

    def conditions(self) -> dict[str, Condition]:
        """Return for each parameter that only some networks have: the parameter and values on which it depends."""
        numbers = self.stage_numbers
        return {
            f"{kind}_{stage}": ("stages", tuple(number for number in numbers if number >= stage))
            for stage in numbers[1:]
            for kind in ("blocks", "width")
        }

    def names(self, params: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the names of the parameters of a network with the number of stages in `params`."""
        return existing(self.ranges(), params, self.conditions())

    def describe(self) -> str:
        """Return a short line, e.g. ``3 or 4 stages of 1 to 9 basic blocks, squeeze-and-excitation on or off``."""
        depths = [self.depths_of(stage) for stage in range(1, len(self.blocks) + 1)]
        spans = [f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0]) for numbers in depths]
        blocks = spans[0] if len(set(depths)) == 1 else ", ".join(spans)
        gated = " on or off" if len(self.se) > 1 else ""
        stages = "stage" if self.stage_numbers == (1,) else "stages"
        noun = "block" if set(depths) == {(1,)} else "blocks"
        return (
            f"{' or '.join(map(str, self.stage_numbers))} {stages} of {blocks} {self.block} {noun}"
            f"{f', squeeze-and-excitation{gated}' if any(self.se) else ''}"
        )

    def size(self) -> int:
        """Return the number of architectures in the space."""
        return sum(prod(len(values.values) for values in part.stage_ranges().values()) for part in self.parts())

    def parts(self) -> tuple[SearchSpace, ...]:
        """Return the parts of the space in which the number of stages and squeeze-and-excitation are fixed.

        Fewer stages come first, then networks without squeeze-and-excitation.
        """
        return tuple(
            self.model_copy(
                update={
                    "blocks": self.blocks[:stages],
                    "strides": None if self.strides is None else self.strides[:stages],
                    "stages": None,
                    "se": (se,),
                }
            )
            for stages, se in product(self.stage_numbers, sorted(self.se))
        )

    def choices_of(self, part: SearchSpace) -> Params:
        """Return the parameters of the space that are fixed in one of its parts."""
        fixed: Params = {"stages": len(part.blocks), "se": part.se[0]}
        return {name: value for name, value in fixed.items() if name in self.ranges()}

    def architecture(self, params: Mapping[str, Value], inputs: InputShape) -> Architecture:
        """Return the architecture that the parameters define, for images of that shape."""
        stages = range(1, int(params.get("stages", len(self.blocks))) + 1)
        widths = tuple(int(params[f"width_{stage}"]) for stage in stages)
        return Architecture(
            blocks=tuple(int(params[f"blocks_{stage}"]) for stage in stages),
            widths=widths,
            strides=default_strides(len(stages)) if self.strides is None else self.strides[: len(stages)],
            block=self.block,
            stem_width=self._stem(widths),
            stem_kernel=self.stem_kernel,
            in_channels=inputs.in_channels,
            size=inputs.size,
            classes=inputs.classes,
            se=bool(params.get("se", self.se[0])),
            stem_stride=self.stem_stride or default_stem_stride(inputs.size),
        )

    def params_of(self, architecture: Architecture) -> Params | None:
        """Return the parameters that define `architecture`, or None if it is not in the space."""
        if architecture.num_stages not in self.stage_numbers or architecture.se not in self.se:
            return None
        chosen: Params = {"stages": architecture.num_stages, "se": architecture.se}
        for stage, (blocks, width) in enumerate(zip(architecture.blocks, architecture.widths, strict=True), start=1):
            chosen |= {f"blocks_{stage}": blocks, f"width_{stage}": width}
        ranges = self.ranges()
        params = {name: chosen[name] for name in self.names(chosen)}
        inputs = InputShape(in_channels=architecture.in_channels, size=architecture.size, classes=architecture.classes)
        inside = all(ranges[name].problem(value) is None for name, value in params.items())
        return params if inside and self.architecture(params, inputs) == architecture else None

    def smallest(self, inputs: InputShape) -> Architecture:
        """Return the architecture with the fewest stages and every parameter at its lowest value."""
        return self.floors(inputs)[0]

    def draw(self, generator: random.Random) -> Params:
        """Return parameters drawn evenly from all ranges, without a budget."""
        params: Params = {name: generator.choice(values.values) for name, values in self.ranges().items()}
        return {name: params[name] for name in existing(params, params, self.conditions())}

    def floors(self, inputs: InputShape) -> tuple[Architecture, ...]:
        """Return the floors: every network of the space costs at least as much as one of them, in all counts.

        Narrower and shallower networks have lower counts, with an exception: a block of stride 1 with as many output as
        input channels needs no projection, so a stage as wide as a stem of fixed width can cost less than a narrower
        stage. The first floor of a part of the space has every parameter at its lowest value. In the next floors the
        first stage, the first two stages, and so on are as wide as the stem.
        """
        return tuple(part.architecture(params, inputs) for part in self.parts() for params in part._floors())

    def draw_feasible(self, inputs: InputShape, budget: Budget, generator: random.Random) -> Params:
        """Return parameters whose architecture is within `budget`, by construction.

        The number of stages and squeeze-and-excitation are drawn from those with which anything fits. The other
        parameters start at the values of a floor that fits, and are drawn in random order. Each is drawn evenly from
        the values with which the network fits while the parameters not yet drawn keep the floor's values. At least the
        floor's own value always fits.

        Raises:
            InputError: If nothing in the space fits.
        """
        self.require_feasible(inputs, budget)
        fitting = [(part, floor) for part in self.parts() if (floor := part._fitting_floor(inputs, budget)) is not None]
        part, params = generator.choice(fitting)
        ranges = part.stage_ranges()
        order = list(ranges)
        generator.shuffle(order)
        for name in order:
            values = [
                value
                for value in ranges[name].values
                if budget.fits(part.architecture({**params, name: value}, inputs))
            ]
            params[name] = generator.choice(values)
        return self.choices_of(part) | params

    def require_feasible(self, inputs: InputShape, budget: Budget) -> None:
        """Check that something in the space fits.

        Raises:
            InputError: If nothing fits; it names the nearest network and the limits that it exceeds.
        """
        floors = [(floor, budget.excesses(count(floor))) for floor in self.floors(inputs)]
        if any(not excesses for _, excesses in floors):
            return
        smallest, excesses = min(floors, key=lambda floor: max(excess.count / excess.limit for excess in floor[1]))
        counts = ", ".join(excess.counted for excess in excesses)
        raise InputError(
            excesses[0].flag,
            excesses[0].asked,
            f"nothing in the space fits: its smallest network ({smallest.describe()}) has {counts}",
            f"allow at least {_allowances(excesses)}, or add smaller widths to the space",
        )

    def _fitting_floor(self, inputs: InputShape, budget: Budget) -> Params | None:
        return next((floor for floor in self._floors() if budget.fits(self.architecture(floor, inputs))), None)

    def _floors(self) -> list[Params]:
        """Return the floors of a part of the space."""
        lowest: Params = {name: values.values[0] for name, values in self.stage_ranges().items()}
        as_wide_as_the_stem = None if self.stem_width is None else self.stem_width / BLOCKS[self.block].expansion
        if as_wide_as_the_stem not in self.widths[1:]:
            return [lowest]
        width, stages = int(as_wide_as_the_stem), len(self.blocks)
        return [lowest | {f"width_{stage}": width for stage in range(1, last + 1)} for last in range(stages + 1)]

    def _stem(self, widths: tuple[int, ...]) -> int:
        return widths[0] if self.stem_width is None else self.stem_width


def _allowances(excesses: tuple[Excess, ...]) -> str:
    """Return the limits that would suffice. A single limit is not named: the message names it already."""
    if len(excesses) == 1:
        return excesses[0].needed
    return " and ".join(f"{excess.flag} {excess.needed}" for excess in excesses)
