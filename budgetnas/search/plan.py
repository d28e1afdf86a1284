"""What a search is about to do, told before it starts, with an estimate of its time."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from optuna.trial import TrialState

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import Excess
from budgetnas.search.loop import SearchTask, goal
from budgetnas.search.study import SEED_ATTRIBUTE, OpenStudy
from budgetnas.space.initial_trials import initial_candidate
from budgetnas.storage.leases import trained
from budgetnas.training import RuntimeConfig, RuntimeRules, Task
from budgetnas.training.measure import fastest_runtime, measure_pace

_DRAWS: Final = 1000
_SAMPLE: Final = 30
_FATES: Final[dict[TrialState | None, str]] = {
    TrialState.WAITING: "queued",
    TrialState.RUNNING: "queued",
    TrialState.COMPLETE: "trained",
    TrialState.PRUNED: "trained",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, slots=True)
class InitialTrialPlan:
    """A seed trial and what becomes of it.

    Attributes:
        seed: Its name.
        params: Parameters of its network, for these data.
        excesses: The limits that it breaks.
        fate: ``queued``, ``trained``, ``failed``, ``over the budget`` or ``not in the space``.
    """

    seed: str
    params: int
    excesses: tuple[Excess, ...]
    fate: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a search is about to do.

    Attributes:
        study: Name of the study.
        trained: Runs that it has.
        trials: Runs that it shall have.
        space_size: Architectures in the space.
        feasible_share: Share of random architectures that fit.
        feasible_draws: Number of random architectures that share was counted in.
        seeds: The seed trials.
        seconds: Estimated time of the runs to come; nothing if there are none, or memory ran out.
        runtime: Runtime config of the typical network; with ``--tune-setup`` of every run to come.
        measured_on: The network whose steps were timed for it.
        expected_macs: Multiply-accumulates per image of all runs to come, added up.
        mean_macs: The same of one run that is no seed, as expected.
        pool: Who trains, if several workers do.
    """

    study: str
    trained: int
    trials: int
    space_size: int
    feasible_share: float
    feasible_draws: int
    seeds: tuple[InitialTrialPlan, ...]
    seconds: float | None
    runtime: RuntimeConfig
    measured_on: str
    expected_macs: float
    mean_macs: float
    pool: str = ""

    def shared(self, pool: str, shares: int) -> Plan:
        """Return the plan of a search by workers that are `shares` times as fast as one."""
        shares = min(shares, max(1, self.trials - self.trained))
        return replace(self, pool=pool, seconds=None if self.seconds is None else self.seconds / shares)


def make_plan(opened: OpenStudy, task: SearchTask, *, timed: bool = True) -> Plan:
    """Return the plan of a search; takes a few seconds to time a few training steps, where they tell anything."""
    specification, trials = opened.specification, goal(opened, task.trials)
    done = trained(opened.records, opened.name)
    missing = max(0, trials - done)
    seeds = _seed_plans(opened)
    share, drawn = _draw(opened)
    mean_macs = fmean(count(one).macs for one in drawn)
    queued = [count(one).macs for one in _queued(opened, seeds)][:missing]
    expected = sum(queued) + mean_macs * (missing - len(queued))
    typical = sorted(drawn, key=lambda one: count(one).macs)[len(drawn) // 2]
    example = _task(opened, task, typical)
    runtime = task.runtime.runtime_for(typical, images=len(example.train) * example.recipe.epochs)
    if missing and task.tune_setup and isinstance(task.runtime, RuntimeRules):
        runtime = fastest_runtime(example, task.runtime.alternatives(typical))
    seconds = _estimate(example, runtime, expected) if missing and timed else None
    return Plan(
        study=opened.name,
        trained=done,
        trials=trials,
        space_size=specification.space.size(),
        feasible_share=share,
        feasible_draws=_DRAWS,
        seeds=seeds,
        seconds=seconds,
        runtime=runtime,
        measured_on=typical.describe(),
        expected_macs=expected,
        mean_macs=mean_macs,
    )


def _seed_plans(opened: OpenStudy) -> tuple[InitialTrialPlan, ...]:
    specification = opened.specification
    states = {
        trial.user_attrs.get(SEED_ATTRIBUTE): trial.state for trial in opened.optuna_study.get_trials(deepcopy=False)
    }
    plans = []
    for seed in specification.seeds:
        architecture = initial_candidate(seed, specification.recipes, specification.inputs).architecture
        counts = count(architecture)
        excesses = specification.budget.excesses(counts)
        fate = "over the budget" if excesses else _FATES.get(states.get(seed), "not in the space")
        plans.append(InitialTrialPlan(seed, counts.params, excesses, fate))
    return tuple(plans)


def _draw(opened: OpenStudy) -> tuple[float, list[Architecture]]:
    """Return the share of random architectures that fit, and some of those."""
    specification = opened.specification
    space, inputs, budget = specification.space, specification.inputs, specification.budget
    generator = random.Random(0)
    drawn = (space.architecture(space.draw(generator), inputs) for _ in range(_DRAWS))
    fitting = [one for one in drawn if budget.fits(one)]
    share = len(fitting) / _DRAWS
    while len(fitting) < _SAMPLE:
        fitting.append(space.architecture(space.draw_feasible(inputs, budget, generator), inputs))
    return share, fitting[:_SAMPLE]


def _queued(opened: OpenStudy, seeds: tuple[InitialTrialPlan, ...]) -> list[Architecture]:
    recipes, inputs = opened.specification.recipes, opened.specification.inputs
    return [initial_candidate(one.seed, recipes, inputs).architecture for one in seeds if one.fate == "queued"]


def _task(opened: OpenStudy, task: SearchTask, architecture: Architecture) -> Task:
    """Return a training of the search, of a network that no trial has proposed."""
    recipes, images = opened.specification.recipes, task.images
    recipe = recipes.recipe(recipes.optimizers[0], 1e-3, 0.0)
    return Task(architecture, recipe, 0, images.train, images.evaluation, images.normalisation)


def _estimate(task: Task, runtime: RuntimeConfig, expected_macs: float) -> float | None:
    """Return the seconds of all runs to come, from a few timed steps; None where memory ran out."""
    pace, epochs = measure_pace(task, runtime), task.recipe.epochs
    if pace is None:
        return None
    return pace.seconds(expected_macs, trained=len(task.train) * epochs, evaluated=len(task.evaluation) * epochs)
