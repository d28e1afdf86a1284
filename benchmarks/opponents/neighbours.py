"""Two algorithms that train neighbours: local search and regularised evolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.opponents.candidates import Candidates, Training

STARTS: Final = 10
"""Candidates drawn evenly at the start, by local search and by every model-based opponent."""
POPULATION: Final = 20
TOURNAMENT: Final = 10


class LocalSearch:
    """Trains neighbours of the best candidate so far, each once, in random order.

    When these are all trained, neighbours of the next best follow. The best has the lowest error in its training (White
    et al., 2021, Exploring the Loss Landscape in Neural Architecture Search, with draws at the start).

    Args:
        candidates: All that can be trained.
        generator: Source of its draws.
    """

    def __init__(self, candidates: Candidates, generator: np.random.Generator) -> None:
        self._candidates = candidates
        self._random = generator

    def propose(self, trainings: Sequence[Training]) -> int:
        """Return a neighbour, or a draw at the start and when no candidate is left."""
        if len(trainings) >= STARTS:
            known = {training.candidate for training in trainings}
            for best in sorted(trainings, key=lambda training: training.error):
                near = [near for near in self._candidates.neighbours(best.candidate).tolist() if near not in known]
                if near:
                    return int(self._random.choice(near))
        return self._candidates.draw(self._random)


class Evolution:
    """Trains a neighbour of the best of a tournament among the latest trainings.

    The oldest training leaves the population (Real et al., 2019, Regularized Evolution for Image Classifier
    Architecture Search). A child may have been trained before.

    Args:
        candidates: All that can be trained.
        generator: Source of its draws.
    """

    def __init__(self, candidates: Candidates, generator: np.random.Generator) -> None:
        self._candidates = candidates
        self._random = generator

    def propose(self, trainings: Sequence[Training]) -> int:
        """Return a child; a draw until there is a population, or if a parent has no neighbour."""
        if len(trainings) >= POPULATION:
            chosen = self._random.choice(POPULATION, TOURNAMENT, replace=False)
            parent = min(
                (trainings[place - POPULATION] for place in chosen.tolist()), key=lambda training: training.error
            )
            near = self._candidates.neighbours(parent.candidate)
            if len(near):
                return int(self._random.choice(near))
        return self._candidates.draw(self._random)
