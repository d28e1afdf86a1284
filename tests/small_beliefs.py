"""One set of scales, so that what is averaged over others can be compared with closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from budgetnas.samplers.budget_sampler.encoding import GROUPS
from budgetnas.samplers.budget_sampler.surrogate import OWN


def one_scale(seed: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, NDArray[np.float64]]:
    """Return one scale for each group, and have the surrogate average over one only."""
    monkeypatch.setattr("budgetnas.samplers.budget_sampler.surrogate._SCALES", 1)
    drawn = np.random.default_rng(seed).uniform(0.2, 1.5, len(GROUPS) + 1)
    return {name: drawn[[place]] for place, name in enumerate((*GROUPS, OWN))}
