"""The opponents by name, with their modules and the packages that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from optuna.samplers import BaseSampler

from benchmarks.opponents.candidates import Algorithm, Candidates
from benchmarks.opponents.neighbours import Evolution, LocalSearch
from budgetnas.errors import InputError

_Maker = Callable[[Candidates, np.random.Generator], Algorithm]

NEIGHBOURS: Final[dict[str, _Maker]] = {"local": LocalSearch, "evolution": Evolution}
"""Opponents that need no further package."""


@dataclass(frozen=True, slots=True)
class Opponent:
    """An algorithm of another package."""

    package: str  # the module that is imported
    requirements: str  # benchmarks/opponents/requirements-NAME.txt
    module: str  # of this folder
    maker: str  # the class or function in that module
    further: str = ""  # after the command that installs the requirements


OPPONENTS: Final = {
    "smac": Opponent("smac", "smac", "smac_forest", "Smac"),
    "qlognei": Opponent("botorch", "botorch", "botorch_process", "NoisyExpectedImprovement"),
    "cqr": Opponent("syne_tune", "synetune", "synetune_searchers", "ConformalQuantiles"),
    "bore": Opponent("syne_tune", "synetune", "synetune_searchers", "DensityRatio"),
    "hebo": Opponent("hebo", "hebo", "hebo_process", "Hebo", " && pip install --no-deps HEBO==0.3.6"),
}
HUB: Final = {
    "ctpe": Opponent("optunahub", "optunahub", "hub", "constrained_tpe"),
    "auto": Opponent("cmaes", "optunahub", "hub", "auto_sampler"),
}
"""Optuna samplers: they propose from the whole space and run inside the filter of the benchmark."""


def check_installed(name: str) -> None:
    """Check that the packages of an opponent can be imported; other samplers need none.

    Raises:
        InputError: If they cannot.
    """
    needs = {**OPPONENTS, **HUB}.get(name)
    if needs is not None and find_spec(needs.package) is None:
        command = f"pip install -r benchmarks/opponents/requirements-{needs.requirements}.txt{needs.further}"
        hint = f"in an environment of its own: {command}"
        raise InputError("--sampler", name, f"needs {needs.package}, which is not installed", hint)


def algorithm(name: str, candidates: Candidates, generator: np.random.Generator) -> Algorithm:
    """Return the algorithm of that name, of `NEIGHBOURS` or `OPPONENTS`, for a search."""
    if name in NEIGHBOURS:
        return NEIGHBOURS[name](candidates, generator)
    made: Algorithm = _maker(OPPONENTS[name])(candidates, generator)
    return made


def hub_sampler(name: str, seed: int, excess: Callable[[Mapping[str, Any]], float]) -> BaseSampler:
    """Return the sampler of that name, of `HUB`, for a search.

    Args:
        name: Its name.
        seed: Its seed.
        excess: By how much a candidate is over the limit; at most 0 if it fits.
    """
    made: BaseSampler = _maker(HUB[name])(seed, excess)
    return made


def _maker(opponent: Opponent) -> Callable[..., Any]:
    maker: Callable[..., Any] = getattr(import_module(f"benchmarks.opponents.{opponent.module}"), opponent.maker)
    return maker
