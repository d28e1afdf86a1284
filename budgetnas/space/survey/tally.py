"""How much of a space fits, in total and by value of each parameter: counted or from draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from budgetnas.architecture import Architecture
from budgetnas.stats import share_interval


@dataclass(frozen=True, slots=True)
class Share:
    """A share of networks that fit.

    Attributes:
        fits: Number of networks that fit.
        of: Number of networks examined.
        counted: Whether all networks were examined; otherwise they were drawn evenly.
    """

    fits: int
    of: int
    counted: bool

    @property
    def estimate(self) -> float:
        """The share that fits; 0 if no network was examined."""
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
    """The share of networks with a value of a parameter that fit.

    Attributes:
        value: The value; for a width its index in the table.
        share: The share of the networks with it that fit.
        possible: False if it is proved that no network with it fits.
    """

    value: int
    share: Share
    possible: bool


@dataclass(frozen=True, slots=True)
class End:
    """A network at an end of the space.

    Attributes:
        architecture: The network.
        certain: Whether it is the extreme of the whole space; otherwise of the examined networks.
    """

    architecture: Architecture
    certain: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """How much of a space fits.

    Attributes:
        share: The share of the whole space.
        values: The shares for each value of each parameter.
        smallest: The network with the fewest parameters.
        largest: The network with the most parameters.
        largest_fitting: The network with the most parameters among those that fit; None if none was found.
        fitting: The draws that fit, draw x parameter in the order of the ranges; None if the space was counted.
    """

    share: Share
    values: Mapping[str, tuple[ValueShare, ...]]
    smallest: End
    largest: End
    largest_fitting: End | None
    fitting: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)
