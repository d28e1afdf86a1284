"""The hard limit on parameters: how it is written, and whether an architecture keeps it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from budgetnas.architecture import Architecture, Part, count, count_parts
from budgetnas.errors import InputError

_SUFFIXES: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_NUMBER: Final = re.compile(
    r"([+-]?(?:\d+(?:_\d+)*(?:\.\d+)?|\.\d+)(?:e[+-]?\d{1,3})?)\s*([kmgb]?)", re.IGNORECASE | re.ASCII
)
MAX_BUDGET: Final = 10**18
"""So that a limit, and by how much it was missed, can be stored in 64 bits."""
_WAYS: Final = "write it as 5e6, 5M or 5_000_000"


def parse_budget(text: str | int | float, *, argument: str = "--budget") -> int:
    """Return the parameters that `text` allows: ``5e6``, ``5M``, ``300k`` or ``5_000_000``.

    Args:
        text: The limit as a user writes it.
        argument: What an error calls it.

    Raises:
        InputError: If it is no whole number from 1 to 1e18.
    """
    if isinstance(text, float) and not math.isfinite(text):
        raise InputError(argument, text, "must be a finite number of parameters", _WAYS)
    written = str(text).strip()
    if written.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise InputError(argument, written, "must be a finite number of parameters", _WAYS)
    match = _NUMBER.fullmatch(written)
    if match is None:
        raise InputError(argument, written, "is not a number of parameters", _WAYS)
    value = Fraction(match[1].replace("_", "").replace("+", "")) * _SUFFIXES[match[2].lower()]
    if value.denominator != 1 or not 1 <= value <= MAX_BUDGET:
        raise InputError(argument, written, "must be a whole number of parameters, from 1 to 1e18", _WAYS)
    return int(value)


def format_count(value: int) -> str:
    """Return a count as people write it where that is exact: ``5M``, ``300k``, else the digits."""
    for suffix, unit in (("M", 10**6), ("k", 10**3)):
        if unit <= value < 1000 * unit and value * 10 % unit == 0:
            return f"{value / unit:g}{suffix}"
    return str(value)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an architecture keeps a budget.

    Attributes:
        params: Its parameters.
        max_params: The limit. It is a maximum: equal to it fits.
        parts: Counts of its parts, in order.
    """

    params: int
    max_params: int
    parts: tuple[Part, ...]

    @property
    def fits(self) -> bool:
        """True if the parameters are at most the limit."""
        return self.params <= self.max_params

    @property
    def overshoot(self) -> int:
        """Parameters over the limit; 0 if it fits."""
        return max(0, self.params - self.max_params)

    def share(self, params: int) -> float:
        """Return `params` as a share of the budget, 1.0 being all of it."""
        return params / self.max_params

    def sentence(self) -> str:
        """Return the verdict in words."""
        if self.fits:
            left = self.max_params - self.params
            return f"fits: {self.params:,} of {self.max_params:,} parameters, {left:,} to spare"
        return (
            f"over the budget: {self.params:,} of {self.max_params:,} parameters, "
            f"{self.overshoot:,} too many ({self.share(self.params):.2f} x)"
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard limit on an architecture's static counts.

    Args:
        max_params: The most trainable parameters that a network may have.
    """

    max_params: int

    def __post_init__(self) -> None:
        if self.max_params < 1:
            raise InputError("--budget", self.max_params, "must be at least 1", _WAYS)

    def fits(self, architecture: Architecture) -> bool:
        """Return whether `architecture` keeps the budget."""
        return count(architecture).params <= self.max_params

    def verdict(self, architecture: Architecture) -> Verdict:
        """Return the verdict on `architecture`, with the counts of its parts."""
        return Verdict(count(architecture).params, self.max_params, count_parts(architecture))

    def __str__(self) -> str:
        return format_count(self.max_params)
