"""The regression that proposals are made with: parameters to terms, terms to expected values."""

from __future__ import annotations

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
        others: Mapping[str, BaseDistribution],
        generator: random.Random,
    ) -> ValueModel:
        """Return the model of a search space; it learns from drawn candidates in which direction they cost more.

        Args:
            ranges: The parameters.
            cost: Cost of a candidate.
            others: Further parameters that some candidates have; the cost does not depend on them.
            generator: Source of the draws.
        """
        encoding = Encoding.of({**others, **ranges.distributions})
        pool = Pool(ranges, cost, float("inf"), generator)
        drawn = pool.draw_any(_DIRECTION_DRAWS)
        return cls(encoding, Terms(cost_direction(encoding.code(drawn), pool.costs(drawn)), encoding.ordered()))

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
        rows = self.rows(observed.candidates)
        return posterior(rows, self.terms.groups(), observed.which, observed.values, prior_scales(), shares)
