"""The hard limits on a network's static counts: how they are written, and whether an architecture keeps them."""

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
"""What each quantity is called in sentences."""
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
MAX_BUDGET: Final = 10**18
"""So that a limit, and by how much it was missed, can be stored in 64 bits."""
_WAYS: Final = "write it as 5e6, 5M or 5_000_000"


def parse_budget(text: str | int | float, *, argument: str = "--budget") -> int:
    """Return the limit that `text` sets: ``5e6``, ``5M``, ``300k`` or ``5_000_000``.

    Args:
        text: The limit as a user writes it.
        argument: What an error calls it. By it an error also knows what is limited: parameters, or with
            ``--max-macs`` multiply-accumulates, with ``--max-activations`` activations.

    Raises:
        InputError: If it is no whole number from 1 to 1e18.
    """
    unit = next((WORDS[quantity] for quantity, flag in FLAGS.items() if flag == argument), WORDS["params"])
    if isinstance(text, float) and not math.isfinite(text):
        raise InputError(argument, text, f"must be a finite number of {unit}", _WAYS)
    written = str(text).strip()
    if written.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise InputError(argument, written, f"must be a finite number of {unit}", _WAYS)
    match = _NUMBER.fullmatch(written)
    if match is None:
        raise InputError(argument, written, f"is not a number of {unit}", _WAYS)
    value = Fraction(match[1].replace("_", "").replace("+", "")) * _SUFFIXES[match[2].lower()]
    if value.denominator != 1 or not 1 <= value <= MAX_BUDGET:
        raise InputError(argument, written, f"must be a whole number of {unit}, from 1 to 1e18", _WAYS)
    return int(value)


def parse_limit(text: str | None, quantity: Quantity) -> int | None:
    """Return the limit on `quantity` that `text` sets, or nothing where there is none.

    Raises:
        InputError: If it is no whole number from 1 to 1e18.
    """
    return None if text is None else parse_budget(text, argument=FLAGS[quantity])


def format_count(value: int) -> str:
    """Return a count as people write it where that is exact: ``5M``, ``300k``, else the digits."""
    for suffix, unit in (("M", 10**6), ("k", 10**3)):
        if unit <= value < 1000 * unit and value * 10 % unit == 0:
            return f"{value / unit:g}{suffix}"
    return str(value)


@dataclass(frozen=True, slots=True)
class Limit:
    """The most of one quantity that a network may have.

    Attributes:
        quantity: What is limited.
        value: The limit; a network equal to it fits.
    """

    quantity: Quantity
    value: int

    def __post_init__(self) -> None:
        if self.value < 1:
            raise InputError(FLAGS[self.quantity], self.value, "must be at least 1", _WAYS)

    @property
    def words(self) -> str:
        """What is limited, in words: ``multiply-accumulates``."""
        return WORDS[self.quantity]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"quantity": self.quantity, "most": self.value}

    @property
    def flag(self) -> str:
        """The option that sets it."""
        return FLAGS[self.quantity]

    def count(self, counts: Counts) -> int:
        """Return how much of the limited quantity there is."""
        found: int = getattr(counts, self.quantity)
        return found

    def share(self, counts: Counts) -> float:
        """Return the limited quantity as a share of the limit, 1.0 being all of it."""
        return self.count(counts) / self.value

    @property
    def short(self) -> str:
        """The limit as people write it where that is exact: ``600M``, else ``1,000,000,000``."""
        written = format_count(self.value)
        return f"{self.value:,}" if written.isdigit() else written

    def __str__(self) -> str:
        return f"{self.short} {self.words}"


@dataclass(frozen=True, slots=True)
class Excess:
    """A limit that an architecture breaks.

    Attributes:
        quantity: What there is too much of.
        count: How much there is.
        limit: The limit.
    """

    quantity: Quantity
    count: int
    limit: int

    @property
    def amount(self) -> int:
        """The count minus the limit."""
        return self.count - self.limit

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"quantity": self.quantity, "count": self.count, "most": self.limit, "over": self.amount}

    def sentence(self) -> str:
        """Return it in words: the count, the limit, and by how much it is broken."""
        return (
            f"{self.count:,} of {self.limit:,} {WORDS[self.quantity]}, "
            f"{self.amount:,} too many ({self.count / self.limit:.2f} x)"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an architecture keeps a budget.

    Attributes:
        counts: Its static counts.
        budget: The limits.
        parts: Counts of its parts, in order.
    """

    counts: Counts
    budget: Budget
    parts: tuple[Part, ...]

    @property
    def fits(self) -> bool:
        """True if every limit is kept."""
        return not self.excesses

    @property
    def excesses(self) -> tuple[Excess, ...]:
        """The limits that are broken, in the order of `Budget.limits`."""
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
        """Return `params` as a share of the limit on parameters, 1.0 being all of it."""
        return params / self.max_params

    def sentence(self) -> str:
        """Return the verdict in one line: every limit if all are kept, else every one that is broken."""
        if self.fits:
            kept = ((limit.count(self.counts), limit) for limit in self.budget.limits)
            return "fits: " + "; ".join(
                f"{found:,} of {limit.value:,} {limit.words}, {limit.value - found:,} to spare" for found, limit in kept
            )
        return "over the budget: " + "; ".join(one.sentence() for one in self.excesses)


@dataclass(frozen=True, slots=True)
class Budget:
    """Hard limits on an architecture's static counts, for one image.

    Args:
        max_params: The most trainable parameters that a network may have.
        max_macs: The most multiply-accumulates of a forward pass; nothing: as many as it likes.
        max_activations: The most output elements of all convolutions; nothing: as many as it likes.
    """

    max_params: int
    max_macs: int | None = None
    max_activations: int | None = None

    def __post_init__(self) -> None:
        _ = self.limits  # each checks itself

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that are set: parameters, multiply-accumulates, activations."""
        most = (self.max_params, self.max_macs, self.max_activations)
        named = zip(QUANTITIES, most, strict=True)
        return tuple(Limit(quantity, limit) for quantity, limit in named if limit is not None)

    def excesses(self, counts: Counts) -> tuple[Excess, ...]:
        """Return the limits that `counts` break."""
        found = ((limit, limit.count(counts)) for limit in self.limits)
        return tuple(Excess(limit.quantity, amount, limit.value) for limit, amount in found if amount > limit.value)

    def fits(self, architecture: Architecture) -> bool:
        """Return whether `architecture` keeps every limit."""
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
