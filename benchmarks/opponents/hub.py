"""Samplers of OptunaHub. It loads them from its registry; BUDGETNAS_OPTUNAHUB names a copy of that on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import optunahub
from git.exc import GitError
from optuna.samplers import BaseSampler

from budgetnas.errors import InputError


def constrained_tpe(seed: int, excess: Callable[[Mapping[str, Any]], float]) -> BaseSampler:
    """Return c-TPE (Watanabe and Hutter, 2023) with its defaults and the limit as its constraint."""
    made: BaseSampler = _module("samplers/ctpe").cTPESampler(
        seed=seed, constraints_func=lambda trial: (excess(trial.params),)
    )
    return made


def auto_sampler(seed: int, excess: Callable[[Mapping[str, Any]], float]) -> BaseSampler:
    """Return Optuna's AutoSampler, which chooses one of Optuna's samplers for each trial."""
    made: BaseSampler = _module("samplers/auto_sampler").AutoSampler(seed=seed)
    return made


def _module(package: str) -> Any:
    registry = os.environ.get("BUDGETNAS_OPTUNAHUB")
    try:
        if registry is not None:
            return optunahub.load_local_module(package, registry_root=registry)
        return optunahub.load_module(package)
    except (ImportError, OSError, GitError) as error:
        problem = f"OptunaHub cannot load {package} ({type(error).__name__}: {error})"
        raise InputError(
            "--sampler", package, problem, "without a network, BUDGETNAS_OPTUNAHUB names the folder package of a copy"
        ) from None
