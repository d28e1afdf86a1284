"""The samplers that a search can be asked to use, by name."""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Final

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler

from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget
from budgetnas.errors import InputError
from budgetnas.samplers.distributions import distribution
from budgetnas.samplers.tpe import BudgetTPE, Fits, fits_within
from budgetnas.space.search_space import CandidateSpace, Params, Value

_MAKERS: Final[dict[str, Callable[[int | None, Fits], BaseSampler]]] = {
    "tpe": lambda seed, fits: BudgetTPE(fits, seed),
    "random": lambda seed, _: RandomSampler(seed=seed),
    "gp": lambda seed, _: GPSampler(seed=seed),
    "nsga2": lambda seed, _: NSGAIISampler(seed=seed, population_size=20),
}
ONCE: Final = tuple(_MAKERS)
"""Samplers that train no candidate twice; they need not know how long the search is."""
BUDGET: Final = "budget"
SAMPLERS: Final = (*ONCE, BUDGET)
_COSTS_KEPT: Final = 2**17


def check_sampler(name: str) -> str:
    """Return `name` if it is a sampler's.

    Raises:
        InputError: If it is not.
    """
    return _checked(name, SAMPLERS)


def repeats(name: str) -> bool:
    """Return whether the sampler of that name proposes a candidate again where another training of it is wanted."""
    return name == BUDGET


def search_sampler(
    name: str, seed: int | None, candidates: CandidateSpace, budget: Budget, trainings: int
) -> BaseSampler:
    """Return the sampler of that name for a search.

    Args:
        name: One of `SAMPLERS`.
        seed: Seed of its draws.
        candidates: What the search draws from.
        budget: Its limits.
        trainings: Trainings that it shall have in all.

    Raises:
        InputError: If no sampler has the name.
    """
    if check_sampler(name) != BUDGET:
        return make_sampler(name, seed, fits_within(candidates, budget))
    from budgetnas.samplers.budget_sampler import BudgetSampler  # imports SciPy, which takes a second

    return BudgetSampler(
        n_trainings=trainings,
        cost=share_taken(candidates, budget),
        limit=1.0,
        search_space={name: distribution(one) for name, one in candidates.ranges().items()},
        conditions={
            name: ("optimizer", (optimizer,))
            for optimizer in candidates.recipes.optimizers
            for name in candidates.names_for(optimizer)
        },
        seed=seed,
    )


def share_taken(candidates: CandidateSpace, budget: Budget) -> Callable[[Params], float]:
    """Return what tells how much of a budget a network takes: the greatest share of any limit, 1.0 being all of it."""
    names, limits = tuple(candidates.space.ranges()), budget.limits

    @functools.lru_cache(_COSTS_KEPT)
    def taken(*values: Value) -> float:
        counts = count(candidates.space.architecture(dict(zip(names, values, strict=True)), candidates.inputs))
        return max(limit.share(counts) for limit in limits)

    return lambda params: taken(*(params[name] for name in names))


def make_sampler(name: str, seed: int | None, fits: Fits) -> BaseSampler:
    """Return the sampler of that name, for whatever is searched.

    Args:
        name: One of `ONCE`.
        seed: Seed of its draws.
        fits: Tells whether parameters keep the budget; for samplers that can heed it. The gate judges all the same.

    Raises:
        InputError: If no sampler has it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _MAKERS[_checked(name, ONCE)](seed, fits)


def _checked(name: str, names: Sequence[str]) -> str:
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1)
    raise InputError(
        "--sampler", name, f"must be one of {', '.join(names)}", f"did you mean {close[0]}?" if close else ""
    )
