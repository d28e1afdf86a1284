"""How much of a space fits, and of each value in it: counted or drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import Architecture
from budgetnas.stats import share_interval


@dataclass(frozen=True, slots=True)
class Share:
    """How many networks fit, of so many.

    Attributes:
        fits: Networks that fit.
        of: Networks looked at.
        counted: Whether these are all there are; else they were drawn evenly.
    """

    fits: int
    of: int
    counted: bool

    @property
    def estimate(self) -> float:
        """The share that fits; 0 where none was looked at."""
        return self.fits / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share; where it was counted, the share itself."""
        if self.counted:
            return self.estimate, self.estimate
        if not self.of:
            return 0.0, 1.0
        found = share_interval(self.fits, self.of)
        return found.low, found.high


@dataclass(frozen=True, slots=True)
class ValueShare:
    """How many networks with one value of a parameter fit.

    Attributes:
        value: The value, for a width its index in the table.
        share: How many of the networks with it fit.
        possible: False where it is proved that none can.
    """

    value: int
    share: Share
    possible: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A network at an end of the space.

    Attributes:
        architecture: The network.
        certain: Whether no other network goes further; else it is the furthest of those seen.
    """

    architecture: Architecture
    certain: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """What fits of a space.

    Attributes:
        share: How much of all of it.
        values: How much for each value of each parameter.
        smallest: The network with the fewest parameters.
        largest: The one with the most.
        largest_fitting: The one with the most among those that fit; nothing if none was seen.
        fitting: What was drawn and fits, draw x parameter in the order of the ranges; nothing where it was counted.
    """

    share: Share
    values: Mapping[str, tuple[ValueShare, ...]]
    smallest: Found
    largest: Found
    largest_fitting: Found | None
    fitting: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)
