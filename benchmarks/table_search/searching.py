"""One search, simulated through Optuna's ask and tell as a user would make it."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna

from benchmarks.table_search.problem import Problem
from benchmarks.table_search.rules import Training, best_repeated, best_single, repeats, searched
from benchmarks.table_search.samplers import ours, sampler_for, split


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured with many seeds: a sampler and a rule, so many trainings, a limit.

    Attributes:
        limit: The most parameters.
        trainings: Trainings in all, those of the rule included.
        sampler: Name of the sampler; budget*4 with 4 trainings at a time.
        rule: Name of the rule.
    """

    limit: int
    trainings: int
    sampler: str
    rule: str

    @property
    def searched(self) -> int:
        """How many of the trainings are the search's."""
        return searched(self.rule, self.trainings)


@dataclass(frozen=True, slots=True)
class Found:
    """What one search came to.

    Attributes:
        cell: What it is a measurement of.
        seed: Its seed.
        regret: How much worse the named network is than the best within the limit, in points.
        networks: Distinct networks that the search trained.
        seconds: What the sampler took for all of the search: asking, suggesting and telling.
    """

    cell: Cell
    seed: int
    regret: float
    networks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Task:
    """Searches with one sampler, limit and seed of which each is the beginning of the longest.

    Attributes:
        cells: What they are measurements of; they differ in trainings and rule only.
        seed: Their seed.
    """

    cells: tuple[Cell, ...]
    seed: int


class _Streams:
    """The random numbers of a search: own ones for every sampler and seed, and for each use.

    The generators are numpy's, seeded with the seed of the search and the CRC-32 of the sampler's name.
    """

    def __init__(self, sampler: str, seed: int) -> None:
        self._entropy = [seed, zlib.crc32(sampler.encode())]
        own, trainings, draws = np.random.SeedSequence(self._entropy).spawn(3)
        self.sampler_seed = int(own.generate_state(1)[0]) >> 1
        self.trainings = np.random.default_rng(trainings)
        self.draws = np.random.default_rng(draws)

    def repeats(self, trainings: int) -> np.random.Generator:
        """Return the generator of the further trainings after a search of so many in all."""
        return np.random.default_rng([*self._entropy, trainings])


def search(task: Task, problem: Problem) -> list[Found]:
    """Make the searches of a task.

    With several workers a proposal is made while the trainings of the others are running. All trainings take equally
    long, so they end in the order in which they began.
    """
    name, workers = split(task.cells[0].sampler)
    longest = max(cell.searched for cell in task.cells)
    streams = _Streams(name, task.seed)
    sampler = sampler_for(name, problem, longest, streams.sampler_seed, streams.draws)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    made: list[Training] = []
    running: deque[tuple[optuna.Trial, Training]] = deque()
    found, seconds = [], 0.0
    while len(made) < longest:
        while len(running) < min(workers, longest - len(made)):
            started = time.perf_counter()
            trial = study.ask()
            params = _suggested(trial, problem)
            seconds += time.perf_counter() - started
            running.append((trial, _train(params, name, problem, streams)))
        trial, one = running.popleft()
        started = time.perf_counter()
        study.tell(trial, one.error)
        seconds += time.perf_counter() - started
        made.append(one)
        for cell in task.cells:
            if cell.searched == len(made):
                regret = problem.regret(_named(cell, study, made, problem, streams))
                trained = len({one.network for one in made})
                found.append(Found(cell, task.seed, round(regret, 6), trained, round(seconds, 4)))
    return found


def _suggested(trial: optuna.Trial, problem: Problem) -> dict[str, int]:
    return {
        name: trial.suggest_int(name, one.low, one.high, step=one.step) for name, one in problem.distributions.items()
    }


def _train(params: dict[str, int], sampler: str, problem: Problem, streams: _Streams) -> Training:
    network = problem.network(params)
    if network is None or not problem.fits(params):
        raise RuntimeError(f"{sampler} proposed {params}, which has {problem.cost(params):,} parameters")
    return Training(network, problem.train(network, streams.trainings))


def _named(cell: Cell, study: optuna.Study, made: Sequence[Training], problem: Problem, streams: _Streams) -> int:
    if cell.rule == "single":
        return best_single(made)
    if cell.rule == "repeat":
        generator = streams.repeats(cell.trainings)
        return best_repeated(made, repeats(cell.trainings), lambda network: problem.train(network, generator))
    return recommended(study, problem, cell.trainings, streams.sampler_seed)


def recommended(study: optuna.Study, problem: Problem, trainings: int, seed: int) -> int:
    """Return the network that `BudgetSampler.recommend` names, whichever sampler made the study."""
    named = ours(problem, trainings, seed).recommend(study).params
    network = problem.network(named)
    if network is None or not problem.fits(named):
        raise RuntimeError(f"recommend named {named}, which has {problem.cost(named):,} parameters")
    return network
