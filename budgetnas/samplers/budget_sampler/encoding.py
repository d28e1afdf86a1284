"""Parameters as numbers between -1 and 1, in which values act about evenly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Floats = NDArray[np.float64]
_LOG_RATIO: Final = 2.0
"""From this ratio of the ends on, positive numbers are read on a log scale: sizes and rates act by their ratio."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A parameter with an order: one column, -1 at the low end and 1 at the high end."""

    low: float
    high: float
    log: bool

    @property
    def width(self) -> int:
        """Number of columns."""
        return 1

    def code(self, values: Sequence[Any]) -> Floats:
        """Return the column for values, one row for each."""
        low, high = self._read([self.low, self.high])
        column: Floats = 2.0 * (self._read(values) - low) / (high - low) - 1.0
        return column[:, None]

    def _read(self, values: Sequence[Any]) -> Floats:
        read = math.log if self.log else float
        return np.array([read(one) for one in values], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Labels:
    """A parameter without an order: a column for each of its choices; two choices share one."""

    choices: tuple[Any, ...]

    @property
    def width(self) -> int:
        """Number of columns."""
        return 1 if len(self.choices) == 2 else len(self.choices)

    def code(self, values: Sequence[Any]) -> Floats:
        """Return the columns for values, one row for each."""
        number = len(self.choices)
        table = np.array([[-1.0], [1.0]]) if number == 2 else 2.0 * np.eye(number) - 2.0 / number
        rows: Floats = table[[self.choices.index(one) for one in values]]
        return rows


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the parameters of a search space are coded, one after the other.

    Attributes:
        scales: How each is, by name.
    """

    scales: Mapping[str, Scale | Labels]

    @classmethod
    def of(cls, space: Mapping[str, BaseDistribution]) -> Encoding:
        """Return the encoding of a search space; what has but one value has no column."""
        return cls({name: _scale(one) for name, one in sorted(space.items()) if not one.single()})

    @property
    def columns(self) -> int:
        """Number of columns in all."""
        return sum(one.width for one in self.scales.values())

    def ordered(self) -> NDArray[np.bool_]:
        """Return which columns belong to parameters with an order."""
        return np.array([isinstance(one, Scale) for one in self.scales.values() for _ in range(one.width)], dtype=bool)

    def code(self, candidates: Sequence[Mapping[str, Any]]) -> Floats:
        """Return one row for each candidate. What a candidate does not have counts nothing: 0 in all its columns."""
        codes = np.zeros((len(candidates), self.columns))
        at = 0
        for name, one in self.scales.items():
            having = [place for place, params in enumerate(candidates) if name in params]
            if having:
                codes[having, at : at + one.width] = one.code([candidates[place][name] for place in having])
            at += one.width
        return codes


def _scale(distribution: BaseDistribution) -> Scale | Labels:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        numbers = [one for one in choices if isinstance(one, int | float) and not isinstance(one, bool)]
        if len(choices) < 3 or len(numbers) < len(choices):
            return Labels(tuple(choices))
        return _ordered(float(min(numbers)), float(max(numbers)), log=False)
    if isinstance(distribution, IntDistribution | FloatDistribution):
        return _ordered(float(distribution.low), float(distribution.high), log=distribution.log)
    raise ValueError(f"distribution {distribution!r} must be of whole numbers, of numbers or categorical")


def _ordered(low: float, high: float, *, log: bool) -> Scale:
    return Scale(low, high, log or (low > 0 and high / low >= _LOG_RATIO))
