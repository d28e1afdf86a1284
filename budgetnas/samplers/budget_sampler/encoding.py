"""From parameters to numbers: which parameters a candidate has, their codes, and the terms of the regression."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Floats = NDArray[np.float64]
Params = dict[str, Any]
Condition = tuple[str, Collection[Any]]
"""Name of a parameter, and the values of it for which another parameter exists."""
CONSTANT: Final = -1
GROUPS: Final = ("common", "linear", "curved", "paired")
"""Groups of terms; the terms of a group are assumed to matter about equally."""
_MISSING: Final = object()
_EXPECTED: Final = 0.5
"""Size of the weights that are expected before any training, in standard deviations of the results."""
_LOG_RATIO: Final = 2.0
"""Positive ranges with at least this ratio of their ends are coded on a log scale: sizes and rates act by ratio."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Parameters with their distributions.

    Raises:
        ValueError: If a condition names a parameter that is not in `distributions`.
    """

    distributions: Mapping[str, BaseDistribution]  # by name
    # For each conditional parameter, the condition under which a candidate has it.
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    # The names for each combination of the values that conditions depend on: proposals ask thousands of times.
    _known: dict[tuple[Any, ...], tuple[str, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    parents: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)  # parameters in conditions

    def __post_init__(self) -> None:
        for name, (parent, _) in self.conditions.items():
            for parameter in (name, parent):
                if parameter not in self.distributions:
                    raise ValueError(f"conditions: {parameter!r} must be a parameter of the search space")
        object.__setattr__(self, "parents", tuple({parent: None for parent, _ in self.conditions.values()}))

    def names(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the parameters that a candidate with these values has."""
        key = tuple(params.get(parent, _MISSING) for parent in self.parents)
        if key not in self._known:
            self._known[key] = tuple(name for name in self.distributions if self._exists(params, name))
        return self._known[key]

    def of(self, params: Mapping[str, Any]) -> Params:
        """Return the parameters that the candidate has, and drop all others."""
        return {name: params[name] for name in self.names(params) if name in params}

    def complete(self, params: Mapping[str, Any]) -> bool:
        """Return whether every parameter that the candidate has is given."""
        return all(name in params for name in self.names(params))

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Return whether every parameter that the candidate has is given, and within its distribution."""
        return self.complete(params) and all(
            _is_within(self.distributions[name], params[name]) for name in self.names(params)
        )

    def _exists(self, params: Mapping[str, Any], name: str) -> bool:
        condition = self.conditions.get(name)
        if condition is None:
            return True
        parent, values = condition
        return parent in params and params[parent] in values and self._exists(params, parent)


@dataclass(frozen=True, slots=True)
class Scale:
    """An ordered parameter: one column, -1 at the low end and 1 at the high end."""

    low: float
    high: float
    log: bool

    @property
    def width(self) -> int:
        """Number of columns."""
        return 1

    def code(self, values: Sequence[Any]) -> Floats:
        """Return the column of `values`, one row each."""
        low, high = self._read([self.low, self.high])
        column: Floats = 2.0 * (self._read(values) - low) / (high - low) - 1.0
        return column[:, None]

    def _read(self, values: Sequence[Any]) -> Floats:
        read = math.log if self.log else float
        return np.array([read(value) for value in values], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Labels:
    """An unordered parameter: a column per choice, or a single column for two choices."""

    choices: tuple[Any, ...]

    @property
    def width(self) -> int:
        """Number of columns."""
        return 1 if len(self.choices) == 2 else len(self.choices)

    def code(self, values: Sequence[Any]) -> Floats:
        """Return the columns of `values`, one row each."""
        number = len(self.choices)
        table = np.array([[-1.0], [1.0]]) if number == 2 else 2.0 * np.eye(number) - 2.0 / number
        rows: Floats = table[[self.choices.index(value) for value in values]]
        return rows


@dataclass(frozen=True, slots=True)
class Encoding:
    """Codes the parameters of a search space as numbers from -1 to 1."""

    scales: Mapping[str, Scale | Labels]

    @classmethod
    def of(cls, space: Mapping[str, BaseDistribution]) -> Encoding:
        """Return the encoding of a search space; a parameter with a single value has no column."""
        varying = {name: distribution for name, distribution in sorted(space.items()) if not distribution.single()}
        return cls({name: _scale(distribution) for name, distribution in varying.items()})

    @property
    def columns(self) -> int:
        """Number of columns in total."""
        return sum(scale.width for scale in self.scales.values())

    def ordered(self) -> NDArray[np.bool_]:
        """Return which columns belong to ordered parameters."""
        scales = self.scales.values()
        return np.array([isinstance(scale, Scale) for scale in scales for _ in range(scale.width)], dtype=bool)

    def columns_of(self, names: Collection[str]) -> NDArray[np.bool_]:
        """Return which columns belong to these parameters."""
        return np.array([name in names for name, scale in self.scales.items() for _ in range(scale.width)], dtype=bool)

    def code(self, candidates: Sequence[Mapping[str, Any]]) -> Floats:
        """Return one row per candidate; a parameter that a candidate does not have is 0 in all its columns."""
        codes = np.zeros((len(candidates), self.columns))
        column = 0
        for name, scale in self.scales.items():
            rows = [row for row, params in enumerate(candidates) if name in params]
            if rows:
                codes[rows, column : column + scale.width] = scale.code([candidates[row][name] for row in rows])
            column += scale.width
        return codes


def _is_within(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # none of the choices
        return False


def _scale(distribution: BaseDistribution) -> Scale | Labels:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        numbers = [choice for choice in choices if isinstance(choice, int | float) and not isinstance(choice, bool)]
        if len(choices) < 3 or len(numbers) < len(choices):
            return Labels(tuple(choices))
        return _ordered(float(min(numbers)), float(max(numbers)), log=False)
    if isinstance(distribution, IntDistribution | FloatDistribution):
        return _ordered(float(distribution.low), float(distribution.high), log=distribution.log)
    raise ValueError(f"distribution {distribution!r} must be an int, float or categorical distribution")


def _ordered(low: float, high: float, *, log: bool) -> Scale:
    return Scale(low, high, log or (low > 0 and high / low >= _LOG_RATIO))


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of the regression: a candidate's value is modelled as their weighted sum.

    The common term measures size: it is the sum of all parameters, each signed so that it grows with the size. Larger
    networks tend to be better, or worse, as a whole, and a few trainings show which. Further terms are each parameter,
    its square, and the products of all pairs.
    """

    direction: Floats  # for each column 1, -1 or 0: the size rises with it, falls with it, or does not depend on it
    ordered: NDArray[np.bool_]  # which columns are ordered, and so have a square

    def groups(self) -> NDArray[np.intp]:
        """Return the group of each term, as an index into `GROUPS`; `CONSTANT` for the first term."""
        columns = len(self.direction)
        sizes = (1, columns, int(self.ordered.sum()), columns * (columns - 1) // 2)
        return np.concatenate([[CONSTANT], np.repeat(np.arange(len(GROUPS)), sizes)]).astype(np.intp)

    def expected_weights(self, *, size: bool = False) -> Floats:
        """Return the expected weight of each term before any training, in standard deviations of the results.

        A parameter without effect on the size, such as a rate, is expected to be best inside its range: its square has
        a positive weight, which counts against a candidate. With `size`, larger candidates are expected to be better.
        Nothing is expected of the other terms.
        """
        groups = self.groups()
        weights = np.zeros(len(groups))
        weights[groups == GROUPS.index("curved")] = np.where(self.direction[self.ordered] == 0, _EXPECTED, 0.0)
        if size:
            weights[groups == GROUPS.index("common")] = -_EXPECTED
        return weights

    def of(self, codes: Floats) -> Floats:
        """Return one row of terms per row of codes."""
        columns = codes.shape[1]
        sized = max(int(np.count_nonzero(self.direction)), 1)
        first, second = np.triu_indices(columns, 1)
        parts = (
            np.ones((len(codes), 1)),
            (codes @ self.direction)[:, None] * np.sqrt(2.0 / sized),
            codes,
            1.5 * codes[:, self.ordered] ** 2 - 0.5,
            codes[:, first] * codes[:, second] / np.sqrt(max(columns, 1)),
        )
        return np.concatenate(parts, axis=1)
