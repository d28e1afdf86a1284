"""Hard limits on a network's static counts: parsing them, and checking architectures against them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from typing import Any, Final, Literal

from budgetnas.architecture import Architecture, Counts, Part, count, count_parts
from budgetnas.errors import InputError

Quantity = Literal["params", "macs", "activations", "weight_bytes", "ram_bytes"]
QUANTITIES: Final[tuple[Quantity, ...]] = ("params", "macs", "activations", "weight_bytes", "ram_bytes")
BYTES: Final[tuple[Quantity, ...]] = ("weight_bytes", "ram_bytes")
"""Quantities in bytes; a user sets their limits in KB of 1,024 bytes."""
PEAKS: Final[tuple[Quantity, ...]] = ("ram_bytes",)
"""Quantities of which a network has the largest of its parts; of the others it has the sum."""
WORDS: Final[dict[Quantity, str]] = {
    "params": "parameters",
    "macs": "multiply-accumulates",
    "activations": "activations",
    "weight_bytes": "bytes of int8 weights",
    "ram_bytes": "bytes of activation RAM",
}
"""The name of each quantity in sentences."""
FLAGS: Final[dict[Quantity, str]] = {
    "params": "--budget",
    "macs": "--max-macs",
    "activations": "--max-activations",
    "weight_bytes": "--max-weights-kb",
    "ram_bytes": "--max-ram-kb",
}
"""The option that limits each quantity."""
KB: Final = 1024
"""Bytes in a KB, which output calls KiB."""

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
        InputError: If it is not a whole number from 1 to 1e18, or for bytes a number of KB above zero.
    """
    if text is None:
        return None
    return (
        _parse_kilobytes(text, FLAGS[quantity]) if quantity in BYTES else parse_budget(text, argument=FLAGS[quantity])
    )


def _parse_kilobytes(text: str, flag: str) -> int:
    """Return the whole bytes within a number of KB: 131,072 for ``128``, 78,745 for ``76.9``."""
    match = _NUMBER.fullmatch(text.strip())
    number = Fraction(match[1].replace("_", "").replace("+", "")) * KB if match and not match[2] else Fraction(0)
    if not 1 <= number <= MAX_BUDGET:
        raise InputError(flag, text, "must be a number of KB (1,024 bytes) above zero", "write it as 64 or 76.5")
    return math.floor(number)


def in_kilobytes(value: int) -> str:
    """Return bytes in KB of 1,024, rounded up to two decimals: ``128``, ``76.9``."""
    hundredths = (Decimal(100 * value) / KB).to_integral_value(ROUND_CEILING)
    return f"{(hundredths / 100).normalize():f}"


def amount(quantity: Quantity, value: int) -> str:
    """Return a count for a table: ``1,234``, or of bytes ``76.9 KiB``."""
    return f"{Decimal(in_kilobytes(value)):,f} KiB" if quantity in BYTES else f"{value:,}"


def heading(quantity: Quantity) -> str:
    """Return the name of a quantity for a column of `amount`: ``parameters``, ``int8 weights``."""
    return WORDS[quantity].removeprefix("bytes of ")


def kib_note(quantity: Quantity, *values: int) -> str:
    """Return bytes in KiB in brackets, with a leading space: `` (76.9 of 128 KiB)``; empty for other counts."""
    return f" ({' of '.join(map(in_kilobytes, values))} KiB)" if quantity in BYTES else ""


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
        number: int = getattr(counts, self.quantity)
        return number

    def share(self, counts: Counts) -> float:
        """Return the limited quantity as a share of the limit."""
        return self.count(counts) / self.value

    @property
    def short(self) -> str:
        """The limit in short form if that is exact, such as ``600M``; otherwise ``1,000,000,001``; ``128 KiB``."""
        written = format_count(self.value)
        return amount(self.quantity, self.value) if self.quantity in BYTES or written.isdigit() else written

    @property
    def exact(self) -> str:
        """The limit with all digits: ``600,000,000 multiply-accumulates``."""
        return f"{self.value:,} {self.words}{kib_note(self.quantity, self.value)}"

    def __str__(self) -> str:
        of = " of" if self.quantity in BYTES else ""
        return f"{self.short}{of} {heading(self.quantity)}"


def plain_limits(budget: Budget | None) -> dict[str, int | None]:
    """Return the limit on every quantity as plain JSON; None where there is none."""
    others = (f"max_{quantity}" for quantity in QUANTITIES if quantity != "params")
    return {
        "budget": None if budget is None else budget.max_params,
        **{name: getattr(budget, name, None) for name in others},
    }


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

    @property
    def asked(self) -> str:
        """The limit as a user may have written it, in short form: ``5M``; for bytes in KB."""
        return in_kilobytes(self.limit) if self.quantity in BYTES else format_count(self.limit)

    @property
    def needed(self) -> str:
        """The lowest limit that the count keeps, as its option takes it: ``5,000,001``; for bytes in KB."""
        return in_kilobytes(self.count) if self.quantity in BYTES else f"{self.count:,}"

    @property
    def flag(self) -> str:
        """The option that sets the limit."""
        return FLAGS[self.quantity]

    @property
    def counted(self) -> str:
        """The count with its name: ``5,000,001 parameters``."""
        return Limit(self.quantity, self.count).exact

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"quantity": self.quantity, "count": self.count, "most": self.limit, "over": self.amount}

    def sentence(self) -> str:
        """Return it in words: the count, the limit and the excess."""
        note = kib_note(self.quantity, self.count, self.limit)
        return (
            f"{self.count:,} of {self.limit:,} {WORDS[self.quantity]}{note}, "
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

    def share(self, params: int) -> float:
        """Return `params` as a share of the limit on parameters."""
        return params / self.budget.max_params

    def sentence(self) -> str:
        """Return the verdict in a line: every limit if the architecture fits, otherwise every exceeded limit."""
        if self.fits:
            counts = ((limit.count(self.counts), limit) for limit in self.budget.limits)
            return "fits: " + "; ".join(
                f"{used:,} of {limit.value:,} {limit.words}{kib_note(limit.quantity, used, limit.value)}, "
                f"{limit.value - used:,} to spare"
                for used, limit in counts
            )
        return "over the budget: " + "; ".join(excess.sentence() for excess in self.excesses)


@dataclass(frozen=True, slots=True)
class Budget:
    """Hard limits on an architecture's static counts, per image.

    Args:
        max_params: Limit on trainable parameters.
        max_macs: Limit on multiply-accumulates of a forward pass, or None for no limit.
        max_activations: Limit on output elements of all convolutions, or None for no limit.
        max_weight_bytes: Limit on the bytes of int8 weights, or None for no limit.
        max_ram_bytes: Limit on the bytes of int8 activations alive at once, or None for no limit.
    """

    max_params: int
    max_macs: int | None = None
    max_activations: int | None = None
    max_weight_bytes: int | None = None
    max_ram_bytes: int | None = None

    def __post_init__(self) -> None:
        _ = self.limits  # checks each limit

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits that are set, in the order of `QUANTITIES`."""
        values = ((quantity, getattr(self, f"max_{quantity}")) for quantity in QUANTITIES)
        return tuple(Limit(quantity, value) for quantity, value in values if value is not None)

    def excesses(self, counts: Counts) -> tuple[Excess, ...]:
        """Return the limits that `counts` exceed."""
        used = ((limit, limit.count(counts)) for limit in self.limits)
        return tuple(Excess(limit.quantity, number, limit.value) for limit, number in used if number > limit.value)

    def fits(self, architecture: Architecture) -> bool:
        """Return whether `architecture` is within every limit."""
        counts = count(architecture)
        return (
            counts.params <= self.max_params
            and (self.max_macs is None or counts.macs <= self.max_macs)
            and (self.max_activations is None or counts.activations <= self.max_activations)
            and (self.max_weight_bytes is None or counts.weight_bytes <= self.max_weight_bytes)
            and (self.max_ram_bytes is None or counts.ram_bytes <= self.max_ram_bytes)
        )

    def verdict(self, architecture: Architecture) -> Verdict:
        """Return the verdict on `architecture`, with the counts of its parts."""
        return Verdict(count(architecture), self, count_parts(architecture))

    def __str__(self) -> str:
        """Return ``5M``; with further limits ``5M parameters, 600M multiply-accumulates``."""
        limits = self.limits
        return format_count(self.max_params) if len(limits) == 1 else ", ".join(map(str, limits))
