"""The parameters that are searched, and which of them a candidate has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution

Params = dict[str, Any]
Condition = tuple[str, Collection[Any]]
"""Name of a parameter, and those of its values with which another parameter exists."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Parameters with their distributions.

    Attributes:
        distributions: By name.
        conditions: By name of a parameter that not all candidates have, when they do.

    Raises:
        ValueError: If a condition is about a parameter that is not among the others.
    """

    distributions: Mapping[str, BaseDistribution]
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the conditions."""
        for name, (other, _) in self.conditions.items():
            for one in (name, other):
                if one not in self.distributions:
                    raise ValueError(f"conditions: {one!r} must be one of the search space's parameters")

    def names(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the parameters that a candidate with these parameters has."""
        return tuple(name for name in self.distributions if self._has(params, name))

    def of(self, params: Mapping[str, Any]) -> Params:
        """Return the parameters of a candidate, without what it does not have or is not searched."""
        return {name: params[name] for name in self.names(params) if name in params}

    def complete(self, params: Mapping[str, Any]) -> bool:
        """Return whether all parameters of a candidate are there."""
        return all(name in params for name in self.names(params))

    def _has(self, params: Mapping[str, Any], name: str) -> bool:
        condition = self.conditions.get(name)
        if condition is None:
            return True
        other, values = condition
        return other in params and params[other] in values and self._has(params, other)
