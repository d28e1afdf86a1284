"""The regression that proposals are made with: parameters to terms, terms to expected values."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution

from budgetnas.samplers.budget_sampler.curves import weights
from budgetnas.samplers.budget_sampler.encoding import Encoding, Floats, Params, Ranges, Terms
from budgetnas.samplers.budget_sampler.observed import Observed
from budgetnas.samplers.budget_sampler.pool import Pool
from budgetnas.samplers.budget_sampler.surrogate import Posterior, posterior, prior_scales

_DIRECTION_DRAWS: Final = 500
_CHANGES: Final = 100
"""Changes of a parameter that show whether it makes a candidate larger."""
_NO_SLOPE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class ValueModel:
    """A regression of results on parameters."""

    encoding: Encoding
    terms: Terms

    @classmethod
    def of(
        cls,
        ranges: Ranges,
        size: Callable[[Params], float],
        others: Mapping[str, BaseDistribution],  # further parameters of some candidates, without effect on the size
        generator: random.Random,
    ) -> ValueModel:
        """Return the model of a search space; it learns from drawn candidates in which direction they are larger."""
        encoding = Encoding.of({**others, **ranges.distributions})
        drawn = Pool(ranges, size, float("inf"), generator).draw_any(_DIRECTION_DRAWS)
        return cls(encoding, Terms(_direction(encoding, ranges, size, drawn), encoding.ordered()))

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


def _direction(encoding: Encoding, ranges: Ranges, size: Callable[[Params], float], drawn: Sequence[Params]) -> Floats:
    """Return for each column whether candidates are larger with a higher code (1), smaller (-1), or as large (0).

    Parameters are changed singly. The coefficients of a regression on drawn candidates would not show this: size is not
    linear in the codes, so chance gives each of them a sign.
    """
    slopes = np.zeros(encoding.columns)
    for name in ranges.distributions:
        own, having = encoding.columns_of([name]), [params for params in drawn if name in params][: _CHANGES + 1]
        if not own.any() or len(having) < 2:
            continue
        before = having[:-1]
        after = [ranges.of({**other, **params, name: other[name]}) for params, other in itertools.pairwise(having)]
        moved = encoding.code(after)[:, own] - encoding.code(before)[:, own]
        grown = _log_sizes(after, size) - _log_sizes(before, size)
        known = np.isfinite(grown)
        if known.any():
            slopes[own] = np.linalg.lstsq(moved[known], grown[known], rcond=None)[0]
    return np.where(np.abs(slopes) > _NO_SLOPE, np.sign(slopes), 0.0)


def _log_sizes(candidates: Sequence[Params], size: Callable[[Params], float]) -> Floats:
    """Return the logarithm of each size; NaN for one that is not finite, such as that of an impossible candidate."""
    sizes = np.array([size(params) for params in candidates], dtype=np.float64)
    return np.log(np.where(np.isfinite(sizes), np.maximum(sizes, np.finfo(np.float64).tiny), np.nan))
