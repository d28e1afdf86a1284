"""HEBO: a Gaussian process of warped inputs and results, and three acquisitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from hebo.design_space.design_space import DesignSpace
from hebo.optimizers import hebo
from numpy.typing import NDArray

from benchmarks.opponents.candidates import Candidates, Training
from benchmarks.opponents.neighbours import STARTS


class Hebo:
    """Trains what HEBO suggests with its defaults: a candidate on the Pareto front of three acquisitions.

    Two things know the limit: the start, STARTS candidates drawn evenly, and the Pareto front, computed over every
    candidate within the limit instead of by HEBO's evolution. HEBO trains each candidate once.

    Args:
        candidates: All that can be trained.
        generator: Source of its draws.
    """

    def __init__(self, candidates: Candidates, generator: np.random.Generator) -> None:
        self._random = generator
        self._candidates = candidates
        self._frame = pd.DataFrame(candidates.places, columns=list(candidates.levels))
        self._numbers = {tuple(row): number for number, row in enumerate(candidates.places.tolist())}
        ranges = [{"name": name, "type": "int", "lb": 0, "ub": top - 1} for name, top in candidates.levels.items()]
        self._hebo = hebo.HEBO(DesignSpace().parse(ranges), rand_sample=STARTS)
        self._hebo.quasi_sample = self._drawn

    def propose(self, trainings: Sequence[Training]) -> int:
        """Return the suggestion, after reporting the result of the last one."""
        if trainings:
            last = trainings[-1]
            self._hebo.observe(self._frame.iloc[[last.candidate]], np.array([[last.error]]))
        seed = int(self._random.integers(2**32))
        np.random.seed(seed)  # HEBO draws from the common generators
        torch.manual_seed(seed)
        hebo.EvolutionOpt = self._front
        suggested = self._hebo.suggest()
        return self._numbers[tuple(int(value) for value in suggested.iloc[0])]

    def _drawn(self, number: int, fix_input: object = None) -> pd.DataFrame:
        return self._frame.iloc[[self._candidates.draw(self._random) for _ in range(number)]]

    def _front(self, space: Any, acquisition: Any, **_: object) -> _Front:
        return _Front(space, acquisition, self._frame)


class _Front:
    """Stands where HEBO puts its evolutionary optimiser."""

    def __init__(self, space: Any, acquisition: Any, frame: pd.DataFrame) -> None:
        self._space = space
        self._acquisition = acquisition
        self._frame = frame

    def optimize(self, **_: object) -> pd.DataFrame:
        """Return the candidates on the Pareto front."""
        with torch.no_grad():
            values = self._acquisition(*self._space.transform(self._frame)).numpy()
        return self._frame.iloc[pareto_front(values)]


def pareto_front(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the rows that no other row dominates: as low in all columns, and lower in one."""
    left = np.lexsort(values.T[::-1])  # a row is dominated only by an earlier one
    front: list[int] = []
    while len(left):
        first, left = left[0], left[1:]
        front.append(int(first))
        left = left[(values[left] < values[first]).any(axis=1)]
    return np.array(front, dtype=np.intp)
