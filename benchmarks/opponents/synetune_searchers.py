"""Syne Tune: conformal quantile regression, and density ratio estimation (BORE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from syne_tune.config_space import randint
from syne_tune.optimizer.schedulers.searchers.bore import Bore
from syne_tune.optimizer.schedulers.searchers.conformal.conformal_quantile_regression_searcher import (
    ConformalQuantileRegression,
)
from syne_tune.optimizer.schedulers.searchers.conformal.surrogate.quantile_regression_surrogate import (
    QuantileRegressionSurrogateModel,
)

from benchmarks.opponents.candidates import Candidates, Training
from benchmarks.opponents.neighbours import STARTS


class _Searcher:
    """Trains what a searcher suggests, which draws its candidates evenly from those within the limit."""

    def __init__(self, candidates: Candidates, generator: np.random.Generator) -> None:
        self._random = generator
        self._configs = [dict(zip(candidates.levels, row, strict=True)) for row in candidates.places.tolist()]
        self._numbers = {tuple(config.values()): number for number, config in enumerate(self._configs)}
        space = {name: randint(0, levels - 1) for name, levels in candidates.levels.items()}
        self._searcher = self.searcher(space, int(generator.integers(2**31)))

    def searcher(self, space: dict[str, Any], seed: int) -> Any:
        """Return the searcher."""
        raise NotImplementedError

    def propose(self, trainings: Sequence[Training]) -> int:
        """Return what the searcher suggests, after reporting the result of the last suggestion."""
        if trainings:
            last = trainings[-1]
            self._searcher.on_trial_complete(len(trainings) - 1, self._configs[last.candidate], last.error)
        np.random.seed(int(self._random.integers(2**32)))  # the searchers draw from numpy's common generator
        return self._numbers[tuple(int(value) for value in self._searcher.suggest().values())]

    def draw(self) -> dict[str, int]:
        """Return a candidate drawn evenly."""
        return self._configs[int(self._random.integers(len(self._configs)))]


class ConformalQuantiles(_Searcher):
    """CQR with its defaults: 2,000 candidates, gradient boosted quantiles, conformal from 32 trainings on."""

    def searcher(self, space: dict[str, Any], seed: int) -> Any:
        """Return the searcher."""
        drawn = {"_sample_random": lambda _: self.draw()}
        surrogate = type("AmongCandidates", (QuantileRegressionSurrogateModel,), drawn)
        made = ConformalQuantileRegression(
            space, random_seed=seed, points_to_evaluate=[], num_init_random_draws=STARTS, surrogate_cls=surrogate
        )
        made.sample_random = self.draw
        return made


class DensityRatio(_Searcher):
    """BORE with its defaults: 500 candidates, a classifier (XGBoost) of the best quarter."""

    def searcher(self, space: dict[str, Any], seed: int) -> Any:
        """Return the searcher."""
        made = Bore(space, random_seed=seed, points_to_evaluate=[], init_random=STARTS)
        made._get_random_config = self.draw
        return made
