"""How good a network a sampler finds under a budget, on an objective made up so that nothing has to be trained.

The made-up error falls with multiply-accumulates, rises where stages' widths do not grow evenly, and has a best rate
for each optimiser; a training gives it with noise of 0.163, as between training seeds of ResNets on CIFAR-10. What is
printed is the error without noise of the candidate that looked best, and its mean over seeds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Final

import optuna
import typer
from optuna.samplers import BaseSampler, TPESampler

from benchmarks.options import BudgetOption, SamplerOption
from benchmarks.running import run
from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget, parse_budget
from budgetnas.experiments.bench.hardware import machine
from budgetnas.metrics import mean_interval
from budgetnas.samplers.constraint_filter import ConstraintFilter
from budgetnas.samplers.named import make_sampler
from budgetnas.samplers.tpe import fits_within
from budgetnas.searching.study import quiet_optuna
from budgetnas.searching.trial import suggest_candidate
from budgetnas.space.candidates import Candidate, CandidateSpace
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace

_SPACE: Final = CandidateSpace(SearchSpace(), RecipeSpace(), InputShape(in_channels=3, size=32, classes=10))
_NOISE: Final = 0.163
_TRIALS: Final = (50, 100)


def measure(
    budget: BudgetOption = "5e6",
    sampler: SamplerOption = "tpe",
    seeds: Annotated[int, typer.Option(help="Searches, each with its own seed.", min=2)] = 40,
    plain: Annotated[bool, typer.Option("--plain", help="Optuna's TPE inside the gate, not ours.")] = False,
) -> None:
    """Search with each seed, and print the mean error of what looked best, with a 95 % interval."""
    quiet_optuna()
    limit = Budget(parse_budget(budget))
    found = [_search(limit, sampler, seed, plain=plain) for seed in range(seeds)]
    typer.echo(f"budget {limit}, {'plain ' if plain else ''}{sampler}, made-up error of what looked best:")
    for index, trials in enumerate(_TRIALS):
        mean = mean_interval([one[index] for one in found])
        typer.echo(f"after {trials} trials {mean.estimate:.3f}, {mean.low:.3f} to {mean.high:.3f} (n = {seeds})")
    typer.echo(machine())


def _search(budget: Budget, sampler: str, seed: int, *, plain: bool) -> list[float]:
    seen: set[tuple[str, str]] = set()
    gate = ConstraintFilter(
        _inner(budget, sampler, seed, plain=plain),
        _SPACE,
        budget,
        known=lambda candidate: candidate.key in seen,
        reject=lambda _: None,
        seed=seed,
    )
    study, noise = optuna.create_study(direction="maximize", sampler=gate), random.Random(seed)
    trained: list[tuple[float, float]] = []
    for _ in range(max(_TRIALS)):
        trial = study.ask()
        candidate = suggest_candidate(trial, _SPACE)
        seen.add(candidate.key)
        error = _error(candidate)
        trained.append((error + noise.gauss(0, _NOISE), error))
        study.tell(trial, -trained[-1][0])
    return [_looked_best(trained[:trials]) for trials in _TRIALS]


def _inner(budget: Budget, sampler: str, seed: int, *, plain: bool) -> BaseSampler:
    if plain:
        return TPESampler(seed=seed, multivariate=True)
    return make_sampler(sampler, seed, fits_within(_SPACE, budget))


def _looked_best(trained: Sequence[tuple[float, float]]) -> float:
    return min(trained)[1]


def _error(candidate: Candidate) -> float:
    architecture, recipe = candidate.architecture, candidate.recipe
    octaves = [math.log2(width) for width in architecture.widths]
    error = 5 + 2 * (9.6 - math.log10(count(architecture).macs))
    error += 0.15 * sum((high - low - 0.7) ** 2 for low, high in pairwise(octaves))
    best, base = (0.05, 0.0) if recipe.optimizer == "sgd" else (1e-3, 0.25)
    error += base + 0.8 * math.log10(recipe.learning_rate / best) ** 2
    return error + 0.2 * (recipe.optimizer == "sgd" and recipe.weight_decay == 0)


if __name__ == "__main__":
    run(measure)
