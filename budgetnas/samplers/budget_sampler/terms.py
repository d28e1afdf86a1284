"""The terms that a value is taken to be a sum of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from budgetnas.samplers.budget_sampler.encoding import Floats

CONSTANT: Final = -1
GROUPS: Final = ("common", "linear", "curved", "paired")
"""Groups of terms; those of a group are taken to matter about equally."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms of coded parameters.

    The common term is the sum of all parameters, each in the direction in which it costs more: whatever is measured,
    a bigger network tends to be better or worse as a whole, and this is learnt from few trainings. Then each parameter
    for itself, its square, and all pairs.

    Attributes:
        direction: For each column 1, -1 or 0: whether the cost rises with it, falls, or neither.
        ordered: Which columns have an order, and so a square.
    """

    direction: Floats
    ordered: NDArray[np.bool_]

    def groups(self) -> NDArray[np.intp]:
        """Return the group of each term, as an index into `GROUPS`; `CONSTANT` for the first."""
        columns = len(self.direction)
        sizes = (1, columns, int(self.ordered.sum()), columns * (columns - 1) // 2)
        return np.concatenate([[CONSTANT], np.repeat(np.arange(len(GROUPS)), sizes)]).astype(np.intp)

    def of(self, codes: Floats) -> Floats:
        """Return a row of terms for each row of codes."""
        columns = codes.shape[1]
        costly = max(int(np.count_nonzero(self.direction)), 1)
        first, second = np.triu_indices(columns, 1)
        parts = (
            np.ones((len(codes), 1)),
            (codes @ self.direction)[:, None] * np.sqrt(2.0 / costly),
            codes,
            1.5 * codes[:, self.ordered] ** 2 - 0.5,
            codes[:, first] * codes[:, second] / np.sqrt(max(columns, 1)),
        )
        return np.concatenate(parts, axis=1)


def cost_direction(codes: Floats, costs: Floats) -> Floats:
    """Return in which direction each column costs more, judged by candidates drawn evenly.

    A column of which the logarithm of the cost hardly depends has none: 0 where its coefficient is below a hundredth
    of the largest one.
    """
    if len(codes) < 2 or codes.shape[1] == 0:
        return np.zeros(codes.shape[1])
    logs = np.log(np.maximum(costs, np.finfo(np.float64).tiny))
    centred = codes - codes.mean(axis=0)
    slopes = np.linalg.lstsq(centred, logs - logs.mean(), rcond=None)[0]
    return np.where(np.abs(slopes) > 0.01 * np.abs(slopes).max(initial=0.0), np.sign(slopes), 0.0)
