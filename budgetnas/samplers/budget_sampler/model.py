"""The model of which candidate is best: parameters to terms, terms to expected values.

`BudgetSampler` proposes and recommends by it; a search's winner and the finalists of a final follow from it as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution

from budgetnas.samplers.budget_sampler.encoding import Encoding, Floats, Params, Ranges, Terms, cost_direction
from budgetnas.samplers.budget_sampler.observed import Observed
from budgetnas.samplers.budget_sampler.pool import Pool
from budgetnas.samplers.budget_sampler.surrogate import Posterior, posterior, prior_scales

_DIRECTION_DRAWS: Final = 500
_FEWEST: Final = 5
"""With fewer trainings there is nothing to learn a regression from: candidates are compared by their means."""


@dataclass(frozen=True, slots=True)
class ValueModel:
    """A regression of results on parameters.

    Attributes:
        encoding: Parameters to codes.
        terms: Codes to terms.
    """

    encoding: Encoding
    terms: Terms

    @classmethod
    def of(
        cls,
        ranges: Ranges,
        cost: Callable[[Params], float],
        others: Mapping[str, BaseDistribution] | None = None,
        generator: random.Random | None = None,
    ) -> ValueModel:
        """Return the model of a search space; it learns from drawn candidates in which direction they cost more.

        Args:
            ranges: The parameters.
            cost: Cost of a candidate.
            others: Further parameters that some candidates have; the cost does not depend on them.
            generator: Source of the draws; by default with a fixed seed.
        """
        encoding = Encoding.of({**(others or {}), **ranges.distributions})
        pool = Pool(ranges, cost, float("inf"), generator or random.Random(0))
        drawn = pool.anything(_DIRECTION_DRAWS)
        return cls(encoding, Terms(cost_direction(encoding.code(drawn), pool.costs(drawn)), encoding.ordered()))

    def rows(self, candidates: Sequence[Mapping[str, Any]]) -> Floats:
        """Return the terms of candidates, one row each."""
        return self.terms.of(self.encoding.code(candidates))

    def posterior(self, observed: Observed) -> Posterior:
        """Return the belief about all candidates after the trainings."""
        rows = self.rows(observed.candidates)
        return posterior(rows, self.terms.groups(), observed.which, observed.values, prior_scales())

    def expected(self, observed: Observed) -> Floats:
        """Return the expected value of each trained candidate: the winner has the lowest."""
        if len(observed) < _FEWEST:
            sums = np.bincount(observed.which, observed.values, minlength=len(observed.candidates))
            means: Floats = sums / np.bincount(observed.which, minlength=len(observed.candidates))
            return means
        return self.posterior(observed).trained()
