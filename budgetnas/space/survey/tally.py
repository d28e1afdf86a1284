"""How much of a space fits, in total and by value of each parameter: counted or from draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import Budget
from budgetnas.metrics import share_interval
from budgetnas.space.search_space import InputShape, SearchSpace


@dataclass(frozen=True, slots=True)
class Share:
    """A share of proposals that fit, if each range is drawn from evenly, the number of stages included."""

    # For each part of the space, the number of networks that fit and the number of networks examined. A part has a
    # single number of stages, with or without squeeze-and-excitation; all parts are equally likely.
    groups: tuple[tuple[int, int], ...]
    counted: bool  # whether all networks were examined; otherwise they were drawn evenly

    @property
    def fits(self) -> int:
        """Number of networks that fit."""
        return sum(fits for fits, _ in self.groups)

    @property
    def of(self) -> int:
        """Number of networks examined."""
        return sum(of for _, of in self.groups)

    @property
    def estimate(self) -> float:
        """The share that fits; 0 if no network was examined."""
        if self.counted:
            return sum(fits / of for fits, of in self.groups) / len(self.groups)
        return self.fits / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share; the share itself if it was counted."""
        if self.counted:
            return self.estimate, self.estimate
        if not self.of:
            return 0.0, 1.0
        interval = share_interval(self.fits, self.of)
        return interval.low, interval.high


@dataclass(frozen=True, slots=True)
class ValueShare:
    """The share of proposals with a value of a parameter that fit."""

    value: int
    share: Share  # the share of the proposals with it that fit
    weight: float  # the share of all evenly drawn proposals that have it
    possible: bool  # False if it is proved that no network with it fits


@dataclass(frozen=True, slots=True)
class End:
    """A network at an end of the space."""

    architecture: Architecture
    certain: bool  # whether it is the extreme of the whole space; otherwise of the examined networks


@dataclass(frozen=True, slots=True)
class Tally:
    """How much of a space fits."""

    share: Share  # the share of the whole space
    values: Mapping[str, tuple[ValueShare, ...]]  # the shares for each value of each parameter
    smallest: End  # the network with the fewest parameters
    largest: End  # the network with the most parameters
    largest_fitting: End | None  # the network with the most parameters among those that fit; None if none was found
    # The draws that fit; for each part of the space draw x parameter (`blocks_1`, `width_1`, ...). None if the space
    # was counted.
    fitting: tuple[NDArray[np.int64], ...] | None = field(default=None, compare=False, repr=False)


def merged(space: SearchSpace, tallies: Sequence[Tally], inputs: InputShape, budget: Budget) -> Tally:
    """Return the tally of a space from those of its parts."""
    parts = list(zip(space.parts(), tallies, strict=True))
    fits = [any(budget.fits(floor) for floor in part.floors(inputs)) for part, _ in parts]
    chosen = [space.choices_of(part) for part, _ in parts]
    values: dict[str, tuple[ValueShare, ...]] = {}
    for name, options in space.ranges().items():
        if name in tallies[-1].values:  # the last part has the most stages
            own = [tally.values[name] for tally in tallies if name in tally.values]
            values[name] = tuple(_over_parts(shares, len(tallies)) for shares in zip(*own, strict=True))
        else:
            places = {
                value: [at for at, params in enumerate(chosen) if params[name] == value] for value in options.values
            }
            values[name] = tuple(_over_choice(int(value), places[value], tallies, fits) for value in options.values)
    fitting = [tally.largest_fitting for tally in tallies if tally.largest_fitting is not None]
    drawn = [rows for tally in tallies for rows in tally.fitting or ()]
    return Tally(
        share=_together(tally.share for tally in tallies),
        values=values,
        smallest=min((tally.smallest for tally in tallies), key=_params),
        largest=max((tally.largest for tally in tallies), key=_params),
        largest_fitting=max(fitting, key=_params, default=None),
        fitting=tuple(drawn) if tallies[0].fitting is not None else None,
    )


def _over_choice(value: int, places: Sequence[int], tallies: Sequence[Tally], fits: Sequence[bool]) -> ValueShare:
    return ValueShare(
        value=value,
        share=_together(tallies[at].share for at in places),
        weight=len(places) / len(tallies),
        possible=any(fits[at] for at in places),
    )


def _over_parts(shares: Sequence[ValueShare], parts: int) -> ValueShare:
    return ValueShare(
        value=shares[0].value,
        share=_together(share.share for share in shares),
        weight=sum(share.weight for share in shares) / parts,
        possible=any(share.possible for share in shares),
    )


def _together(shares: Iterable[Share]) -> Share:
    every = list(shares)
    return Share(tuple(group for share in every for group in share.groups), every[0].counted)


def _params(end: End) -> int:
    return count(end.architecture).params
