"""What becomes of a sampler's proposals under a budget: the share rejected, and the time a trial's proposal takes.

Nothing is trained: an accepted architecture is told its multiply-accumulates as if they were its accuracy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Annotated

import optuna
import typer

from benchmarks.options import SamplerOption, SeedOption
from benchmarks.running import run
from budgetnas.architecture import count
from budgetnas.architecture.budget import Budget, parse_budget
from budgetnas.experiments.bench.hardware import machine
from budgetnas.samplers.constraint_filter import ConstraintFilter
from budgetnas.samplers.named import make_sampler
from budgetnas.samplers.tpe import fits_within
from budgetnas.searching.trial import suggest_candidate
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.storage import Rejection

_SPACE = CandidateSpace(SearchSpace(), RecipeSpace(), InputShape(in_channels=3, size=32, classes=10))


def measure(
    budgets: Annotated[list[str] | None, typer.Option("--budget", help="Limits.", show_default="5e6, 50e3")] = None,
    proposals: Annotated[int, typer.Option(help="Accepted proposals to ask for.", min=1)] = 500,
    sampler: SamplerOption = "tpe",
    seed: SeedOption = 0,
) -> None:
    """Ask for accepted proposals of the default space, and print the share rejected on the way."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for text in budgets or ["5e6", "50e3"]:
        _measure_one(Budget(parse_budget(text)), proposals, sampler, seed)
    typer.echo(machine())


def _measure_one(budget: Budget, proposals: int, sampler: str, seed: int) -> None:
    rejected: list[Rejection] = []
    study = _study(budget, sampler, seed, rejected)
    seconds, over = [], 0
    for _ in range(proposals):
        started = time.perf_counter()
        trial = study.ask()
        candidate = suggest_candidate(trial, _SPACE)
        seconds.append(time.perf_counter() - started)
        counts = count(candidate.architecture)
        over += counts.params > budget.max_params
        study.tell(trial, counts.macs / 1e9)
    made = proposals + len(rejected)
    typer.echo(
        f"budget {budget}, {sampler}: {proposals} accepted, {over} of them over the budget; "
        f"{len(rejected)} of {made} proposals rejected ({len(rejected) / made:.1%}), "
        f"{1000 * statistics.median(seconds):.1f} ms a trial in the median, {1000 * max(seconds):.0f} ms at most"
    )


def _study(budget: Budget, sampler: str, seed: int, rejected: list[Rejection]) -> optuna.Study:
    def reject(proposals: Sequence[Rejection]) -> None:
        rejected.extend(proposals)

    inner = make_sampler(sampler, seed, fits_within(_SPACE, budget))
    constraint_filter = ConstraintFilter(inner, _SPACE, budget, known=lambda _: False, reject=reject, seed=seed)
    return optuna.create_study(direction="maximize", sampler=constraint_filter)


if __name__ == "__main__":
    run(measure)
