"""The samplers that a search can be asked to use, by name."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from typing import Final

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler

from budgetnas.errors import InputError
from budgetnas.search.tpe import BudgetTPE, Fits

_MAKERS: Final[dict[str, Callable[[int | None, Fits], BaseSampler]]] = {
    "tpe": lambda seed, fits: BudgetTPE(fits, seed),
    "random": lambda seed, _: RandomSampler(seed=seed),
    "gp": lambda seed, _: GPSampler(seed=seed),
    "nsga2": lambda seed, _: NSGAIISampler(seed=seed, population_size=20),
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


def make_sampler(name: str, seed: int | None, fits: Fits) -> BaseSampler:
    """Return the sampler of that name.

    Args:
        name: One of `SAMPLERS`.
        seed: Seed of its draws.
        fits: Tells whether parameters keep the budget; for samplers that can heed it. The gate judges all the same.

    Raises:
        InputError: If no sampler has it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _MAKERS[check_sampler(name)](seed, fits)
