"""Find a good network of at most 100,000 parameters with 40 noisy trainings; a formula stands for the training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import optunahub
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

SPACE = {
    "width": IntDistribution(8, 128, step=8),
    "depth": IntDistribution(1, 6),
    "optimizer": CategoricalDistribution(("sgd", "adam")),
    "sgd_rate": FloatDistribution(1e-3, 1.0, log=True),
    "adam_rate": FloatDistribution(1e-5, 1e-2, log=True),
}
WHEN = {"sgd_rate": ("optimizer", ("sgd",)), "adam_rate": ("optimizer", ("adam",))}
LIMIT = 100_000


def parameters(params: Mapping[str, Any]) -> float:
    """Return the number of parameters."""
    return float(9 * params["width"] ** 2 * params["depth"])


def train(params: Mapping[str, Any], seed: int) -> float:
    """Return an error in percent."""
    rate, best = (params["sgd_rate"], 0.1) if params["optimizer"] == "sgd" else (params["adam_rate"], 1e-3)
    size = np.log(params["width"]) + 0.5 * np.log(params["depth"])
    return float(20 - 2 * size + np.log10(rate / best) ** 2 + np.random.default_rng(seed).normal(0, 0.3))


def objective(trial: optuna.Trial) -> float:
    """Train a proposal, with another seed each time: good ones are repeated."""
    params: dict[str, Any] = {
        "width": trial.suggest_int("width", 8, 128, step=8),
        "depth": trial.suggest_int("depth", 1, 6),
        "optimizer": trial.suggest_categorical("optimizer", ("sgd", "adam")),
    }
    low, high = (1e-3, 1.0) if params["optimizer"] == "sgd" else (1e-5, 1e-2)
    name = f"{params['optimizer']}_rate"
    params[name] = trial.suggest_float(name, low, high, log=True)
    return train(params, seed=trial.number)


if __name__ == "__main__":
    # This copy of the registry. Elsewhere: optunahub.load_module(package="samplers/budget")
    registry = Path(__file__).resolve().parents[2]
    module = optunahub.load_local_module(package="samplers/budget", registry_root=str(registry))
    sampler = module.BudgetSampler(
        n_trainings=40, cost=parameters, limit=LIMIT, search_space=SPACE, conditions=WHEN, seed=0
    )
    study = optuna.create_study(direction="minimize", sampler=sampler)
    study.optimize(objective, n_trials=40)
    winner = sampler.recommend(study)
    print(f"trial {winner.number}: {winner.params}, {parameters(winner.params):,.0f} parameters")
