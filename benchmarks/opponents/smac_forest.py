"""SMAC3: a random forest with expected improvement, and races against the incumbent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ConfigSpace import Configuration, ConfigurationSpace, Integer
from smac import HyperparameterOptimizationFacade as Facade
from smac import Scenario
from smac.acquisition.maximizer.abstract_acquisition_maximizer import AbstractAcquisitionMaximizer
from smac.runhistory.dataclasses import TrialValue

from benchmarks.opponents.candidates import Candidates, Training
from benchmarks.opponents.neighbours import STARTS


class Smac:
    """Trains what SMAC3's facade for hyperparameter optimisation asks for, with its defaults for noisy trainings.

    Three things know the limit: the start, STARTS candidates drawn evenly; random candidates in between (a fifth); and
    the maximiser of expected improvement, which compares all candidates within the limit. SMAC trains promising
    candidates up to three times.

    Args:
        candidates: All that can be trained.
        generator: Source of its draws.
    """

    def __init__(self, candidates: Candidates, generator: np.random.Generator) -> None:
        space = ConfigurationSpace(seed=int(generator.integers(2**31)))
        space.add([Integer(name, (0, levels - 1)) for name, levels in candidates.levels.items()])
        names = list(candidates.levels)
        places: list[tuple[int, ...]] = [tuple(row) for row in candidates.places.tolist()]
        configurations = [Configuration(space, values=dict(zip(names, row, strict=True))) for row in places]
        self._numbers = {row: number for number, row in enumerate(places)}
        self._names = names

        def sample(size: int | None = None) -> Any:
            drawn = [configurations[candidates.draw(generator)] for _ in range(size or 1)]
            return drawn if size is not None else drawn[0]

        space.sample_configuration = sample
        self._folder = TemporaryDirectory()
        scenario = Scenario(
            space,
            deterministic=False,
            n_trials=1_000_000,
            seed=int(generator.integers(2**31)),
            output_directory=Path(self._folder.name),
        )
        self._facade = Facade(
            scenario,
            _unused,
            initial_design=Facade.get_initial_design(scenario, n_configs=0, additional_configs=sample(STARTS)),
            acquisition_maximizer=_maximizer(space, configurations, scenario.seed),
            overwrite=True,
            logging_level=False,
        )
        self._asked: Any = None

    def propose(self, trainings: Sequence[Training]) -> int:
        """Return what the facade asks for, after reporting the result of the last request."""
        if self._asked is not None:
            self._facade.tell(self._asked, TrialValue(cost=trainings[-1].error), save=False)
        self._asked = self._facade.ask()
        return self._numbers[tuple(int(self._asked.config[name]) for name in self._names)]


def _unused(config: Any, seed: int = 0) -> float:
    raise NotImplementedError("results are reported, not computed")


def _maximizer(space: Any, configurations: list[Any], seed: int) -> Any:
    def maximize(self: Any, previous_configs: list[Any], n_points: int) -> Any:
        return self._sort_by_acquisition_value(configurations)

    made = type("AmongCandidates", (AbstractAcquisitionMaximizer,), {"_maximize": maximize})
    return made(space, challengers=len(configurations), seed=seed)
