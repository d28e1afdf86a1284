"""The ranges of a trial's parameters, and which parameters exist only with some values of another."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, log
from typing import Final

from budgetnas.errors import listed

Value = int | float | str
Params = dict[str, Value]
Condition = tuple[str, tuple[Value, ...]]
"""Name of a parameter, and the values of it for which another parameter exists."""
_MAX_LISTED: Final = 30


@dataclass(frozen=True, slots=True)
class Steps:
    """Whole numbers of an ascending table, such as 8, 12, 16, 24: they act by their ratio.

    Optuna has no range with both steps and a log scale. So a sampler sees every whole number from the lowest to the
    highest on a log scale; its proposals are moved to the nearest number of the table.
    """

    values: tuple[int, ...]

    @property
    def only(self) -> Value | None:
        """The value, if there is a single value."""
        return self.values[0] if len(self.values) == 1 else None

    @property
    def middle(self) -> int:
        """The value nearest to the middle of the log scale."""
        return self.nearest((self.values[0] * self.values[-1]) ** 0.5)

    def nearest(self, value: float) -> int:
        """Return the value of the table with the smallest ratio to `value`, the lower of two."""
        above = bisect_left(self.values, value)
        if above in (0, len(self.values)):
            return self.values[min(above, len(self.values) - 1)]
        low, high = self.values[above - 1], self.values[above]
        return low if value * value <= low * high else high

    def problem(self, value: object) -> str | None:
        """Return why `value` is not allowed, or None."""
        if value in self.values:
            return None
        near = ""
        if isinstance(value, int | float) and self.values[0] < value < self.values[-1]:
            above = bisect_left(self.values, value)
            near = f"; the nearest are {self.values[above - 1]} and {self.values[above]}"
        return f"is not in the table {listed(map(str, self.values), limit=_MAX_LISTED)}{near}"


@dataclass(frozen=True, slots=True)
class LogRange:
    """Numbers from `low` to `high`, drawn on a log scale."""

    low: float
    high: float

    @property
    def only(self) -> Value | None:
        """The value, if there is a single value."""
        return self.low if self.low == self.high else None

    def problem(self, value: object) -> str | None:
        """Return why `value` is not allowed, or None."""
        inside = isinstance(value, int | float) and self.low <= value <= self.high
        return None if inside else f"must be from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice among unordered values."""

    values: tuple[Value, ...]

    @property
    def only(self) -> Value | None:
        """The value, if there is a single value."""
        return self.values[0] if len(self.values) == 1 else None

    def problem(self, value: object) -> str | None:
        """Return why `value` is not allowed, or None."""
        return None if value in self.values else f"must be one of {', '.join(map(str, self.values))}"


Range = Steps | LogRange | Choice


def draw_evenly(values: Range, generator: random.Random) -> Value:
    """Return a value drawn evenly from a range, on its scale; each number of a table is equally likely."""
    match values:
        case LogRange(low, high):
            return min(high, max(low, exp(generator.uniform(log(low), log(high)))))
        case Steps(choices) | Choice(choices):
            return generator.choice(choices)


def exists(name: str, params: Mapping[str, object], conditions: Mapping[str, Condition]) -> bool:
    """Return whether a candidate with `params` has the parameter `name`."""
    condition = conditions.get(name)
    return condition is None or params.get(condition[0]) in condition[1]


def existing(
    names: Iterable[str], params: Mapping[str, object], conditions: Mapping[str, Condition]
) -> tuple[str, ...]:
    """Return those of `names` that a candidate with `params` has."""
    return tuple(name for name in names if exists(name, params, conditions))


def in_tables(params: Mapping[str, Value], ranges: Mapping[str, Range]) -> Params:
    """Return `params` with each number that has a table moved to the nearest of its table."""
    return {
        name: values.nearest(float(value)) if isinstance(values := ranges.get(name), Steps) else value
        for name, value in params.items()
    }
