"""What is searched: the networks of a table, under a limit on parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from optuna.distributions import IntDistribution

from benchmarks.opponents.candidates import Candidates
from benchmarks.table import Networks
from budgetnas.errors import InputError


class Problem:
    """The networks of a table under a limit.

    Every sampler is given the same distributions, those that a user would write: the values themselves where they are
    evenly spaced whole numbers (64 to 256 in steps of 64), else their places, 0, 1, ..., so that 16, 32, 64, 128 are
    evenly far from each other. In both they have an order.

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
        self._beyond = max(float(networks.params.max()), limit) + 1  # finite, so that a sampler can reckon with it
        self._whole = {name: _whole(values) for name, values in networks.levels.items()}
        self._places = {name: {one: place for place, one in enumerate(whole)} for name, whole in self._whole.items()}

    @cached_property
    def distributions(self) -> dict[str, IntDistribution]:
        """What each parameter of a trial can be."""
        return {name: IntDistribution(one[0], one[-1], step=one[1] - one[0]) for name, one in self._whole.items()}

    @property
    def within(self) -> int:
        """How many networks keep the limit."""
        return len(self._within)

    def network(self, params: Mapping[str, Any]) -> int | None:
        """Return which network has these parameters, if any has."""
        return self._networks.rows.get(tuple(places[params[name]] for name, places in self._places.items()))

    def cost(self, params: Mapping[str, Any]) -> float:
        """Return the number of parameters of that network; over the limit if the table does not have it."""
        network = self.network(params)
        return self._beyond if network is None else float(self._networks.params[network])

    def fits(self, params: Mapping[str, Any]) -> bool:
        """Return whether that network is in the table and keeps the limit."""
        return self.cost(params) <= self.limit

    def draw(self, generator: np.random.Generator) -> dict[str, int]:
        """Return the parameters of a network drawn evenly from those that keep the limit."""
        return self._params(int(generator.choice(self._within)))

    @cached_property
    def candidates(self) -> Candidates:
        """All networks that keep the limit, in the order of the table."""
        return Candidates([self._params(int(network)) for network in self._within], self.distributions)

    def train(self, network: int, generator: np.random.Generator) -> float:
        """Return the error of one training, in percent."""
        return float(self._networks.errors[network] + generator.normal(0, self._networks.noise))

    def regret(self, network: int) -> float:
        """Return by how much the network is worse than the best within the limit, in points."""
        return float(self._networks.errors[network]) - self._least

    def _params(self, network: int) -> dict[str, int]:
        key = self._keys[network]
        return {name: whole[place] for (name, whole), place in zip(self._whole.items(), key, strict=True)}

    @cached_property
    def _keys(self) -> list[tuple[int, ...]]:
        return sorted(self._networks.rows, key=self._networks.rows.__getitem__)


def _whole(values: Sequence[float]) -> tuple[int, ...]:
    """Return the values if they are evenly spaced whole numbers, else their places."""
    evenly = len({high - low for low, high in pairwise(values)}) == 1
    if evenly and all(value.is_integer() for value in values):
        return tuple(int(value) for value in values)
    return tuple(range(len(values)))
