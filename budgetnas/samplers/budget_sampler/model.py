"""The regression that proposals are made with: parameters to terms, terms to expected values."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from optuna.distributions import BaseDistribution

from budgetnas.samplers.budget_sampler.curves import weights
from budgetnas.samplers.budget_sampler.encoding import Encoding, Floats, Params, Ranges, Terms, cost_direction
from budgetnas.samplers.budget_sampler.observed import Observed
from budgetnas.samplers.budget_sampler.pool import Pool
from budgetnas.samplers.budget_sampler.surrogate import Posterior, posterior, prior_scales

_DIRECTION_DRAWS: Final = 500
_CHANGES: Final = 100
"""Changes of a parameter that are tried before it is taken to cost nothing."""


@dataclass(frozen=True, slots=True)
class ValueModel:
    """A regression of results on parameters."""

    encoding: Encoding
    terms: Terms

    @classmethod
    def of(
        cls,
        ranges: Ranges,
        cost: Callable[[Params], float],
        others: Mapping[str, BaseDistribution],  # further parameters of some candidates, without effect on the cost
        generator: random.Random,
    ) -> ValueModel:
        """Return the model of a search space; it learns from drawn candidates in which direction they cost more."""
        encoding = Encoding.of({**others, **ranges.distributions})
        pool = Pool(ranges, cost, float("inf"), generator)
        drawn = pool.draw_any(_DIRECTION_DRAWS)
        costs = pool.costs(drawn)
        direction = cost_direction(encoding.code(drawn), costs)
        direction[
            encoding.columns_of([name for name in ranges.distributions if _is_free(name, ranges, cost, drawn)])
        ] = 0.0
        return cls(encoding, Terms(direction, encoding.ordered()))

    @property
    def coefficients(self) -> int:
        """Number of coefficients of a linear regression: a constant and a slope for each column."""
        return 1 + self.encoding.columns

    def rows(self, candidates: Sequence[Mapping[str, Any]]) -> Floats:
        """Return the terms of candidates, one row each."""
        return self.terms.of(self.encoding.code(candidates))

    def posterior(self, observed: Observed) -> Posterior:
        """Return the belief about all candidates after the trainings.

        A training that ended early counts for less, in relation to the noise that the complete trainings show.
        """
        shares = None
        if observed.variances.any():
            shares = weights(observed.variances, self.posterior(observed.complete()).noise)
        rows, expected = self.rows(observed.candidates), self.terms.expected_weights()
        return posterior(rows, self.terms.groups(), observed.which, observed.values, prior_scales(), shares, expected)


def _is_free(name: str, ranges: Ranges, cost: Callable[[Params], float], drawn: Sequence[Params]) -> bool:
    """Return whether no candidate costs more or less with another value of this parameter.

    The coefficients of a regression do not show this: the cost is not linear, so chance gives each of them a sign.
    """
    having = [params for params in drawn if name in params][: _CHANGES + 1]
    changed = (
        (params, ranges.of({**other, **params, name: other[name]})) for params, other in itertools.pairwise(having)
    )
    return len(having) > 1 and all(cost(before) == cost(after) for before, after in changed)
