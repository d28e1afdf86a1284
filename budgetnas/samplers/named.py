"""The samplers of ``search --sampler``, by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler

from budgetnas.architecture.budget import Budget
from budgetnas.errors import InputError, closest
from budgetnas.samplers.distributions import budget_share, search_ranges
from budgetnas.samplers.tpe import BudgetTPE, Fits, fits_within
from budgetnas.space.candidates import CandidateSpace

if TYPE_CHECKING:
    from budgetnas.samplers.budget_sampler import BudgetSampler

_MAKERS: Final[dict[str, Callable[[int | None, Fits], BaseSampler]]] = {
    "tpe": lambda seed, fits: BudgetTPE(fits, seed),
    "random": lambda seed, _: RandomSampler(seed=seed),
    "gp": lambda seed, _: GPSampler(seed=seed),
    "nsga2": lambda seed, _: NSGAIISampler(seed=seed, population_size=20),
}
ONCE: Final = tuple(_MAKERS)
"""Samplers that train every candidate once; they do not need the search's number of trainings."""
BUDGET: Final = "budget"
SAMPLERS: Final = (*ONCE, BUDGET)
DEFAULT_SAMPLER: Final = BUDGET
"""Sampler of a study's first search if none is asked for."""
_PARAMETERS: Final = Budget(10**9)
"""Measures the size of networks: by parameters alone, whichever limit binds."""


def check_sampler(name: str, names: Sequence[str] = SAMPLERS) -> str:
    """Return `name` if it is one of `names`; otherwise raise `InputError`."""
    if name not in names:
        raise InputError("--sampler", name, f"must be one of {', '.join(names)}", closest(name, names))
    return name


def repeats(name: str) -> bool:
    """Return whether the sampler of that name proposes a candidate again to have it trained another time."""
    return name == BUDGET


def search_sampler(
    name: str, seed: int | None, candidates: CandidateSpace, budget: Budget, trainings: int | Callable[[], int]
) -> BaseSampler:
    """Return the sampler of that name for a search.

    `trainings` is the number of trainings in total, or a function that returns it, called before each proposal.

    Raises:
        InputError: If no sampler has the name.
    """
    if check_sampler(name) != BUDGET:
        return make_sampler(name, seed, fits_within(candidates, budget))
    return budget_sampler(seed, candidates, budget, trainings)


def budget_sampler(
    seed: int | None, candidates: CandidateSpace, budget: Budget, trainings: int | Callable[[], int]
) -> BudgetSampler:
    """Return the budget sampler of a search; the arguments are those of `search_sampler`."""
    from budgetnas.samplers.budget_sampler import BudgetSampler  # slow to import: SciPy

    ranges = search_ranges(candidates)
    return BudgetSampler(
        n_trainings=trainings,
        cost=budget_share(candidates, budget),
        limit=1.0,
        search_space=ranges.distributions,
        conditions=ranges.conditions,
        seed=seed,
        size=budget_share(candidates, _PARAMETERS),
    )


def make_sampler(name: str, seed: int | None, fits: Fits) -> BaseSampler:
    """Return the sampler of that name for any search space.

    Args:
        name: One of `ONCE`.
        seed: Seed of its draws.
        fits: Whether parameters are within the budget, for samplers that can use it. The constraint filter checks every
            proposal in any case.

    Raises:
        InputError: If no sampler has the name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _MAKERS[check_sampler(name, ONCE)](seed, fits)
