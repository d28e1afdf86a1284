"""Hard limits on a network's static counts: parsing them, and checking architectures against them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Literal

from budgetnas.architecture import Architecture, Counts, Part, count, count_parts
from budgetnas.errors import InputError

Quantity = Literal["params", "macs", "activations"]
QUANTITIES: Final[tuple[Quantity, ...]] = ("params", "macs", "activations")
WORDS: Final[dict[Quantity, str]] = {
    "params": "parameters",
    "macs": "multiply-accumulates",
    "activations": "activations",
}
"""The name of each quantity in sentences."""
FLAGS: Final[dict[Quantity, str]] = {
    "params": "--budget",
    "macs": "--max-macs",
    "activations": "--max-activations",
}
"""The option that limits each quantity."""

_SUFFIXES: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_NUMBER: Final = re.compile(
    r"([+-]?(?:\d+(?:_\d+)*(?:\.\d+)?|\.\d+)(?:e[+-]?\d{1,3})?)\s*([kmgb]?)", re.IGNORECASE | re.ASCII
)
_GROUPED: Final = re.compile(r"\d{1,3}(?:,\d{3})+", re.ASCII)
MAX_BUDGET: Final = 10**18
"""So that limits and excesses fit into 64 bits."""
_WAYS: Final = "write it as 5e6, 5M or 5_000_000"


def parse_budget(text: str | int | float, *, argument: str = "--budget") -> int:
    """Return the limit that `text` sets: ``5e6``, ``5M``, ``300k``, ``5_000_000`` or ``5,000,000``.

    Args:
        text: The limit as a user writes it.
        argument: Name of the argument in errors; it also names the limited quantity: multiply-accumulates for
            ``--max-macs``, activations for ``--max-activations``, otherwise parameters.

    Raises:
        InputError: If it is not a whole number from 1 to 1e18.
    """
    unit = next((WORDS[quantity] for quantity, flag in FLAGS.items() if flag == argument), WORDS["params"])
    if isinstance(text, float) and not math.isfinite(text):
        raise InputError(argument, text, f"must be a finite number of {unit}", _WAYS)
    written = str(text).strip()
    if written.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise InputError(argument, written, f"must be a finite number of {unit}", _WAYS)
    match = _NUMBER.fullmatch(written.replace(",", "") if _GROUPED.fullmatch(written) else written)
    if match is None:
        raise InputError(argument, written, f"is not a number of {unit}", _WAYS)
    value = Fraction(match[1].replace("_", "").replace("+", "")) * _SUFFIXES[match[2].lower()]
    if value.denominator != 1 or not 1 <= value <= MAX_BUDGET:
        raise InputError(argument, written, f"must be a whole number of {unit}, from 1 to 1e18", _WAYS)
    return int(value)


def parse_limit(text: str | None, quantity: Quantity) -> int | None:
    """Return the limit on `quantity` that `text` sets, or None without a text.

    Raises:
        InputError: If it is not a whole number from 1 to 1e18.
    """
    return None if text is None else parse_budget(text, argument=FLAGS[quantity])


def format_count(value: int) -> str:
    """Return a count in short form if that is exact, such as ``5M`` or ``300k``; otherwise its digits."""
    for suffix, unit in (("M", 10**6), ("k", 10**3)):
        if unit <= value < 1000 * unit and value * 10 % unit == 0:
            return f"{value / unit:g}{suffix}"
    return str(value)


@dataclass(frozen=True, slots=True)
class Limit:
    """A maximum of a single quantity."""

    quantity: Quantity
    value: int  # the maximum; a network equal to it fits

    def __post_init__(self) -> None:
        if self.value < 1:
            raise InputError(FLAGS[self.quantity], self.value, "must be at least 1", _WAYS)

    @property
    def words(self) -> str:
        """The name of the quantity: ``multiply-accumulates``."""
        return WORDS[self.quantity]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"quantity": self.quantity, "most": self.value}

    @property
    def flag(self) -> str:
        """The option that sets the limit."""
        return FLAGS[self.quantity]

    def count(self, counts: Counts) -> int:
        """Return the limited quantity."""
        amount: int = getattr(counts, self.quantity)
        return amount

    def share(self, counts: Counts) -> float:
        """Return the limited quantity as a share of the limit."""
        return self.count(counts) / self.value

    @property
    def short(self) -> str:
        """The limit in short form if that is exact, such as ``600M``; otherwise ``1,000,000,001``."""
        written = format_count(self.value)
        return f"{self.value:,}" if written.isdigit() else written

    def __str__(self) -> str:
        return f"{self.short} {self.words}"


@dataclass(frozen=True, slots=True)
class Excess:
    """A limit that an architecture exceeds."""

    quantity: Quantity
    count: int  # the architecture's count
    limit: int

    @property
    def amount(self) -> int:
        """The count minus the limit."""
        return self.count - self.limit

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"quantity": self.quantity, "count": self.count, "most": self.limit, "over": self.amount}

    def sentence(self) -> str:
        """Return it in words: the count, the limit and the excess."""
        return (
            f"{self.count:,} of {self.limit:,} {WORDS[self.quantity]}, "
            f"{self.amount:,} too many ({self.count / self.limit:.2f} x)"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an architecture is within a budget."""

    counts: Counts  # its static counts
    budget: Budget
    parts: tuple[Part, ...]  # counts of its parts, in order

    @property
    def fits(self) -> bool:
        """True if no limit is exceeded."""
        return not self.excesses

    @property
    def excesses(self) -> tuple[Excess, ...]:
        """The exceeded limits, in the order of `Budget.limits`."""
        return self.budget.excesses(self.counts)

    @property
    def params(self) -> int:
        """Its parameters."""
        return self.counts.params

    @property
    def max_params(self) -> int:
        """The limit on parameters."""
        return self.budget.max_params

    def share(self, params: int) -> float:
        """Return `params` as a share of the limit on parameters."""
        return params / self.max_params

    def sentence(self) -> str:
        """Return the verdict in a line: every limit if the architecture fits, otherwise every exceeded limit."""
        if self.fits:
            counts = ((limit.count(self.counts), limit) for limit in self.budget.limits)
            return "fits: " + "; ".join(
                f"{amount:,} of {limit.value:,} {limit.words}, {limit.value - amount:,} to spare"
                for amount, limit in counts
            )
        return "over the budget: " + "; ".join(excess.sentence() for excess in self.excesses)


@dataclass(frozen=True, slots=True)
class Budget:
    """Hard limits on an architecture's static counts, per image.

    Args:
        max_params: Limit on trainable parameters.
        max_macs: Limit on multiply-accumulates of a forward pass, or None for no limit.
        max_activations: Limit on output elements of all convolutions, or None for no limit.
    """

    max_params: int
    max_macs: int | None = None
    max_activations: int | None = None

    def __post_init__(self) -> None:
        _ = self.limits  # checks each limit

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that are set: parameters, multiply-accumulates, activations."""
        values = zip(QUANTITIES, (self.max_params, self.max_macs, self.max_activations), strict=True)
        return tuple(Limit(quantity, value) for quantity, value in values if value is not None)

    def excesses(self, counts: Counts) -> tuple[Excess, ...]:
        """Return the limits that `counts` exceed."""
        amounts = ((limit, limit.count(counts)) for limit in self.limits)
        return tuple(Excess(limit.quantity, amount, limit.value) for limit, amount in amounts if amount > limit.value)

    def fits(self, architecture: Architecture) -> bool:
        """Return whether `architecture` is within every limit."""
        counts = count(architecture)
        return (
            counts.params <= self.max_params
            and (self.max_macs is None or counts.macs <= self.max_macs)
            and (self.max_activations is None or counts.activations <= self.max_activations)
        )

    def verdict(self, architecture: Architecture) -> Verdict:
        """Return the verdict on `architecture`, with the counts of its parts."""
        return Verdict(count(architecture), self, count_parts(architecture))

    def __str__(self) -> str:
        """Return ``5M``; with further limits ``5M parameters, 600M multiply-accumulates``."""
        limits = self.limits
        return format_count(self.max_params) if len(limits) == 1 else ", ".join(map(str, limits))
