"""What a search is about to do, reported before it starts, with an estimate of its time."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from optuna.trial import TrialState

from budgetnas.architecture import Architecture, count
from budgetnas.architecture.budget import Excess
from budgetnas.runs.recording import RunImages
from budgetnas.runs.timing import Timing, time_steps, tuned_runtime
from budgetnas.searching.loop import SearchTask, goal
from budgetnas.searching.study import INITIAL_TRIAL, OpenStudy
from budgetnas.space.candidates import Candidate
from budgetnas.space.initial_trials import initial_candidate
from budgetnas.space.specification import StudySpecification
from budgetnas.storage.leases import trained
from budgetnas.training import RuntimeConfig, RuntimeRules

_DRAWS: Final = 1000
_SAMPLE: Final = 30
_STATES: Final[dict[TrialState | None, str]] = {
    TrialState.WAITING: "queued",
    TrialState.RUNNING: "queued",
    TrialState.COMPLETE: "trained",
    TrialState.PRUNED: "trained",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, slots=True)
class InitialTrialPlan:
    """An initial trial and its state."""

    name: str
    params: int  # parameters of its network, for these data
    excesses: tuple[Excess, ...]  # by how much it exceeds which limits
    state: str  # ``queued``, ``trained``, ``failed``, ``over the budget`` or ``not in the space``


@dataclass(frozen=True, slots=True)
class Plan:
    """What a search is about to do."""

    study: str
    trained: int  # number of trials that are trained already
    trials: int  # number of trials in total
    space_size: int  # architectures in the space
    feasible_share: float  # share of random architectures that fit
    feasible_draws: int  # number of random architectures from which that share was estimated
    initial_trials: tuple[InitialTrialPlan, ...]
    seconds: float | None  # estimated time of the remaining trials; None if there are none, or memory ran out
    runtime: RuntimeConfig  # runtime config of a typical network; with ``--tune-setup``, of every remaining trial
    measured_on: str  # the network whose steps were timed for `seconds`
    expected_macs: float  # sum of the multiply-accumulates per image of all remaining trials
    mean_macs: float  # expected multiply-accumulates per image of a trial that the sampler proposes
    pool: str = ""  # description of the workers, if there are several
    # Estimated time of a final with long trainings, in one process; None without it or an estimate.
    final_seconds: float | None = None

    def shared(self, pool: str, shares: int) -> Plan:
        """Return the plan for workers that are together `shares` times as fast as a single worker."""
        shares = min(shares, max(1, self.trials - self.trained))
        return replace(self, pool=pool, seconds=None if self.seconds is None else self.seconds / shares)


def make_plan(opened: OpenStudy, task: SearchTask, *, timed: bool = True) -> Plan:
    """Return the plan of a search; `timed` times a few training steps, which takes seconds."""
    specification, trials = opened.specification, goal(opened, task.trials)
    done = trained(opened.records, opened.name)
    missing = max(0, trials - done)
    initial_trials = _initial_trials(opened)
    share, drawn = _draw(opened)
    mean_macs = fmean(count(architecture).macs for architecture in drawn)
    queued = [count(architecture).macs for architecture in _queued(opened, initial_trials)][:missing]
    expected = sum(queued) + mean_macs * (missing - len(queued))
    typical = sorted(drawn, key=lambda architecture: count(architecture).macs)[len(drawn) // 2]
    candidate = Candidate(typical, specification.recipes.recipe(specification.recipes.optimizers[0], 1e-3, 0.0))
    epochs, images = candidate.recipe.epochs, task.images
    runtime = task.runtime.runtime_for(typical, images=len(images.train) * epochs)
    if missing and task.tune_setup and isinstance(task.runtime, RuntimeRules):
        runtime = tuned_runtime(candidate, images, task.runtime)
    seconds = final_seconds = None
    if missing and timed:
        timing = time_steps(candidate, images, runtime)
        sizes = {"trained": len(images.train), "evaluated": len(images.evaluation)}
        seconds = timing.seconds(expected, epochs, **sizes, trainings=missing)
        final_seconds = _final_seconds(specification, timing, mean_macs, images)
    return Plan(
        study=opened.name,
        trained=done,
        trials=trials,
        space_size=specification.space.size(),
        feasible_share=share,
        feasible_draws=_DRAWS,
        initial_trials=initial_trials,
        seconds=seconds,
        runtime=runtime,
        measured_on=typical.describe(),
        expected_macs=expected,
        mean_macs=mean_macs,
        final_seconds=final_seconds,
    )


def _final_seconds(
    specification: StudySpecification, timing: Timing, mean_macs: float, images: RunImages
) -> float | None:
    """Return the time of a final with long trainings; None without one, or without a pace.

    The finalists are taken for typical networks, the reference for the largest initial network that fits.
    """
    choice, recipes = specification.choice, specification.recipes
    if choice is None or choice.final_epochs is None:
        return None
    initial = (initial_candidate(name, recipes, specification.inputs).architecture for name in specification.seeds)
    reference = [float(max((count(net).macs for net in initial if specification.budget.fits(net)), default=0))]
    trained, evaluated = len(images.train), len(images.evaluation)

    def seconds(macs: list[float], epochs: int, **sizes: int) -> float | None:
        number = choice.seeds * sum(cost > 0 for cost in macs)
        return timing.seconds(choice.seeds * sum(macs), epochs, **sizes, trainings=number)

    fresh = seconds([mean_macs] * choice.finalists + reference, recipes.epochs, trained=trained, evaluated=evaluated)
    long = seconds([mean_macs, *reference], choice.final_epochs, trained=trained + evaluated, evaluated=0)
    return None if fresh is None or long is None else fresh + long


def _initial_trials(opened: OpenStudy) -> tuple[InitialTrialPlan, ...]:
    specification = opened.specification
    states = {
        trial.user_attrs.get(INITIAL_TRIAL): trial.state for trial in opened.optuna_study.get_trials(deepcopy=False)
    }
    plans = []
    for name in specification.seeds:
        architecture = initial_candidate(name, specification.recipes, specification.inputs).architecture
        counts = count(architecture)
        excesses = specification.budget.excesses(counts)
        state = "over the budget" if excesses else _STATES.get(states.get(name), "not in the space")
        plans.append(InitialTrialPlan(name, counts.params, excesses, state))
    return tuple(plans)


def _draw(opened: OpenStudy) -> tuple[float, list[Architecture]]:
    """Return the share of random architectures that fit, and some of those."""
    specification = opened.specification
    space, inputs, budget = specification.space, specification.inputs, specification.budget
    generator = random.Random(0)
    drawn = (space.architecture(space.draw(generator), inputs) for _ in range(_DRAWS))
    fitting = [architecture for architecture in drawn if budget.fits(architecture)]
    share = len(fitting) / _DRAWS
    while len(fitting) < _SAMPLE:
        fitting.append(space.architecture(space.draw_feasible(inputs, budget, generator), inputs))
    return share, fitting[:_SAMPLE]


def _queued(opened: OpenStudy, initial_trials: tuple[InitialTrialPlan, ...]) -> list[Architecture]:
    recipes, inputs = opened.specification.recipes, opened.specification.inputs
    return [
        initial_candidate(trial.name, recipes, inputs).architecture
        for trial in initial_trials
        if trial.state == "queued"
    ]
