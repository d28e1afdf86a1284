"""What is searched: the networks of a table, under a limit on parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution

from budgetnas.benchmarks.table import Networks
from budgetnas.errors import InputError


class Problem:
    """The networks of a table under a limit.

    Every sampler is given the same distributions: for each column a whole number, the place of its value among those
    of the table. So values are in order, and evenly far from each other where the table has them evenly or log-spaced.

    Args:
        networks: The table.
        limit: The most parameters.

    Raises:
        InputError: If no network keeps the limit.
    """

    def __init__(self, networks: Networks, limit: int) -> None:
        self.limit = limit
        self._networks = networks
        self._within = np.flatnonzero(networks.params <= limit)
        if not len(self._within):
            told = f"the smallest has {networks.params.min():,.0f} parameters"
            raise InputError("--limit", f"{limit:,}", "no network of the table keeps it", told)
        self._least = float(networks.errors[self._within].min())

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What each parameter of a trial can be."""
        return {name: IntDistribution(0, len(values) - 1) for name, values in self._networks.levels.items()}

    @property
    def within(self) -> int:
        """How many networks keep the limit."""
        return len(self._within)

    def network(self, params: Mapping[str, Any]) -> int | None:
        """Return which network has these parameters, if any has."""
        return self._networks.rows.get(tuple(int(params[name]) for name in self._networks.levels))

    def cost(self, params: Mapping[str, Any]) -> float:
        """Return the number of parameters of that network; infinite if the table does not have it."""
        network = self.network(params)
        return math.inf if network is None else float(self._networks.params[network])

    def fits(self, params: Mapping[str, Any]) -> bool:
        """Return whether that network is in the table and keeps the limit."""
        return self.cost(params) <= self.limit

    def draw(self, generator: np.random.Generator) -> dict[str, int]:
        """Return the parameters of a network drawn evenly from those that keep the limit."""
        key = self._keys[int(generator.choice(self._within))]
        return dict(zip(self._networks.levels, key, strict=True))

    def train(self, network: int, generator: np.random.Generator) -> float:
        """Return the error of one training, in percent."""
        return float(self._networks.errors[network] + generator.normal(0, self._networks.noise))

    def regret(self, network: int) -> float:
        """Return by how much the network is worse than the best within the limit, in points."""
        return float(self._networks.errors[network]) - self._least

    @cached_property
    def _keys(self) -> list[tuple[int, ...]]:
        return sorted(self._networks.rows, key=self._networks.rows.__getitem__)
