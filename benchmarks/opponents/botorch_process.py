"""BoTorch: a Gaussian process, and noisy expected improvement over all candidates within the limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.mlls import ExactMarginalLogLikelihood

from benchmarks.opponents.candidates import Candidates, Training
from benchmarks.opponents.neighbours import STARTS

_AT_ONCE: Final = 1024
_SAMPLES: Final = 128


class NoisyExpectedImprovement:
    """Trains the candidate with the highest qLogNEI; a trained one may be trained again.

    The model is BoTorch's `SingleTaskGP` with its defaults: it learns the noise. Each fit starts from the previous fit.

    Args:
        candidates: All that can be trained.
        generator: Source of its draws.
    """

    def __init__(self, candidates: Candidates, generator: np.random.Generator) -> None:
        self._candidates = candidates
        self._random = generator
        self._points = torch.from_numpy(candidates.points)
        self._fitted: dict[str, Any] | None = None

    def propose(self, trainings: Sequence[Training]) -> int:
        """Return the best candidate for the model of these trainings; a draw at the start."""
        if len(trainings) < STARTS:
            return self._candidates.draw(self._random)
        torch.manual_seed(int(self._random.integers(2**31)))
        trained = self._points[[training.candidate for training in trainings]]
        model = SingleTaskGP(trained, torch.tensor([[-training.error] for training in trainings], dtype=torch.float64))
        if self._fitted is not None:
            model.load_state_dict(self._fitted)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        self._fitted = model.state_dict()
        acquisition = qLogNoisyExpectedImprovement(
            model, trained, sampler=SobolQMCNormalSampler(torch.Size([_SAMPLES])), prune_baseline=True
        )
        with torch.no_grad():
            values = torch.cat([acquisition(points[:, None]) for points in torch.split(self._points, _AT_ONCE)])
        return int(values.argmax())
