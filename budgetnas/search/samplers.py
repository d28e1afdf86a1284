"""The samplers that a search can be asked to use, by name."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from typing import Final

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from budgetnas.errors import InputError

_MAKERS: Final[dict[str, Callable[[int | None], BaseSampler]]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True),
    "random": lambda seed: RandomSampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=20),
}
SAMPLERS: Final = tuple(_MAKERS)


def check_sampler(name: str) -> str:
    """Return `name` if it is a sampler's.

    Raises:
        InputError: If it is not.
    """
    if name in _MAKERS:
        return name
    close = difflib.get_close_matches(name, SAMPLERS, n=1)
    raise InputError(
        "--sampler", name, f"must be one of {', '.join(SAMPLERS)}", f"did you mean {close[0]}?" if close else ""
    )


def make_sampler(name: str, seed: int | None) -> BaseSampler:
    """Return the sampler of that name.

    Raises:
        InputError: If no sampler has it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _MAKERS[check_sampler(name)](seed)
