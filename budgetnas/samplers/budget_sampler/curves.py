"""What a training that ended early would have come to: the last result regressed on the result after some epochs.

The regression is made of the complete trainings. Whether a training ends early depends on its result so far, which is
the regressor, so the selection does not bias the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from budgetnas.samplers.budget_sampler.encoding import Floats

Curve = Mapping[int, float]
"""The results of a training after some of its epochs, by epoch; lower is better."""
FEWEST_COMPLETE: Final = 3
"""With fewer complete trainings nothing is predicted."""
_SLOPE_SPREAD: Final = 0.2
"""Prior standard deviation of the slope around 1."""
_SMALLEST: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Prediction:
    """The last result that a training would have had."""

    value: float
    variance: float  # of the last result around `value`; 0 for a complete training


@dataclass(frozen=True, slots=True)
class CurveRegression:
    """A line from the result at a rung to the last result.

    The prior of the slope is 1, so after few trainings the prediction is the result at the rung plus the mean change
    since. The prior of the residual variance is the variance of the last results, and counts as one training.
    """

    rung_mean: float  # mean result at the rung
    last_mean: float  # mean last result
    slope: float
    slope_variance: float
    residual: float  # variance of a last result around the line
    trainings: int

    @classmethod
    def of(cls, at_rung: Sequence[float], last: Sequence[float]) -> CurveRegression:
        """Return the regression of complete trainings, each given by its result at the rung and its last result."""
        rung, end = np.asarray(at_rung, dtype=np.float64), np.asarray(last, dtype=np.float64)
        number, prior = len(end), max(float(end.var()), _SMALLEST)
        centred, change = rung - rung.mean(), end - rung
        change = change - change.mean()

        def residual(slope: float) -> float:
            return float(prior + ((change - (slope - 1.0) * centred) ** 2).sum()) / number

        squares, product = float((centred**2).sum()), float(centred @ change)
        ridge = residual(1.0 + product / max(squares, _SMALLEST)) / _SLOPE_SPREAD**2
        slope = 1.0 + product / (squares + ridge)
        left = residual(slope)
        return cls(float(rung.mean()), float(end.mean()), slope, left / (squares + ridge), left, number)

    def predict(self, at_rung: float) -> Prediction:
        """Return the prediction for a training; its variance includes that of the line."""
        distance = at_rung - self.rung_mean
        line = self.residual / self.trainings + self.slope_variance * distance**2
        return Prediction(self.last_mean + self.slope * distance, self.residual + line)


def predicted(curve: Curve, complete: Sequence[tuple[Curve, float]]) -> Prediction | None:
    """Return what a training would have come to, from its last known result.

    `complete` has the curves of the complete trainings, each with its last result.

    Returns:
        The prediction; None if too few complete trainings have a result after the same epoch.
    """
    epoch = max(curve, default=None)
    if epoch is None or not np.isfinite(curve[epoch]):
        return None
    pairs = [(other[epoch], last) for other, last in complete if np.isfinite(other.get(epoch, np.nan))]
    if len(pairs) < FEWEST_COMPLETE:
        return None
    return CurveRegression.of(*zip(*pairs, strict=True)).predict(curve[epoch])


def weights(variances: Floats, noise: float) -> Floats:
    """Return how much each training counts, as a share of a complete training: v / (v + r).

    Args:
        variances: Variance of each training's last result around its prediction, r; 0 for a complete training.
        noise: Variance of a complete training around its candidate's value, v.
    """
    shares: Floats = noise / (noise + variances)
    return shares
