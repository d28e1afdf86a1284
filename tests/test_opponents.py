"""Opponents of the search benchmark: local search, evolution, and those whose packages may be missing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from small import ROOT
from test_benchmark_search import run, table

from benchmarks.opponents.candidates import Candidates, CandidateSampler, Training
from benchmarks.opponents.neighbours import POPULATION, STARTS, Evolution, LocalSearch
from benchmarks.opponents.registry import HUB, NEIGHBOURS, OPPONENTS, algorithm, check_installed, hub_sampler
from budgetnas.errors import InputError

MISSING = [name for name, needs in {**OPPONENTS, **HUB}.items() if find_spec(needs.package) is None]
HERE = (*NEIGHBOURS, *(name for name in OPPONENTS if name not in MISSING))
"""In an environment of an opponent its own tests are among these."""
RANGES = {"wide": IntDistribution(16, 64, step=16), "deep": IntDistribution(1, 3), "head": IntDistribution(0, 4)}
LIMIT = 200


def cost(params: dict[str, int]) -> int:
    return params["wide"] * params["deep"] + 30 * params["head"]


@pytest.fixture
def candidates() -> Candidates:
    rows = itertools.product(*(range(values.low, values.high + 1, values.step) for values in RANGES.values()))
    every = [dict(zip(RANGES, row, strict=True)) for row in rows]
    return Candidates([params for params in every if cost(params) <= LIMIT], RANGES)


def error(candidates: Candidates, candidate: int, noise: np.random.Generator) -> float:
    return 10 - 3 * float(candidates.points[candidate].sum()) + float(noise.normal(0, 0.3))


def searched(name: str, candidates: Candidates, trainings: int, seed: int = 0) -> list[Training]:
    noise = np.random.default_rng(seed + 1)
    proposes, made = algorithm(name, candidates, np.random.default_rng(seed)), list[Training]()
    for _ in range(trainings):
        chosen = proposes.propose(made)
        made.append(Training(chosen, error(candidates, chosen, noise)))
    return made


def test_neighbours_differ_by_a_place_of_a_parameter(candidates: Candidates) -> None:
    for number, params in enumerate(candidates.params):
        expected = {
            other
            for other, near in enumerate(candidates.params)
            if sorted(abs(near[name] - params[name]) // values.step for name, values in RANGES.items()) == [0, 0, 1]
        }
        assert set(candidates.neighbours(number).tolist()) == expected


def test_candidates_are_numbered_in_their_order(candidates: Candidates) -> None:
    assert [candidates.number(params) for params in candidates.params] == list(range(len(candidates)))
    assert candidates.levels == {"wide": 4, "deep": 3, "head": 5}
    assert candidates.points.min() == 0
    assert candidates.points.max() == 1


def differences(candidates: Candidates, candidate: int, others: Sequence[int]) -> list[int]:
    return np.abs(candidates.places[list(others)] - candidates.places[candidate]).sum(axis=1).tolist()


@pytest.mark.parametrize("name", HERE)
def test_a_seed_makes_the_same_search_and_another_seed_another(candidates: Candidates, name: str) -> None:
    assert searched(name, candidates, 30, seed=3) == searched(name, candidates, 30, seed=3)
    assert searched(name, candidates, 30, seed=3) != searched(name, candidates, 30, seed=4)


@pytest.mark.parametrize("name", HERE)
def test_in_a_study_everything_is_within_the_limit(candidates: Candidates, name: str) -> None:
    """The cost is the value to be as high as possible, so what is over the limit would be the best."""
    sampler = CandidateSampler(candidates, algorithm(name, candidates, np.random.default_rng(5)))
    study = optuna.create_study(sampler=sampler)
    trials = [study.ask(dict(RANGES))]
    for _ in range(40):
        study.tell(trials[-1], -cost(trials[-1].params))
        trials.append(study.ask(dict(RANGES)))
    assert all(cost(trial.params) <= LIMIT for trial in trials)
    assert max(cost(trial.params) for trial in trials[STARTS:]) >= LIMIT - 10, "the search is after high costs"


def test_local_search_trains_neighbours_of_the_best_once_each(candidates: Candidates) -> None:
    made = searched("local", candidates, len(candidates))
    for number in range(STARTS, len(made)):
        before = made[:number]
        known = {training.candidate for training in before}
        assert made[number].candidate not in known or len(known) == len(candidates)
        for best in sorted(before, key=lambda training: training.error):
            near = set(candidates.neighbours(best.candidate).tolist()) - known
            if near:
                assert made[number].candidate in near
                break


def test_local_search_draws_when_all_are_trained(candidates: Candidates) -> None:
    every = [Training(number, 1.0) for number in range(len(candidates))]
    search = LocalSearch(candidates, np.random.default_rng(0))
    assert {search.propose(every) for _ in range(300)} == set(range(len(candidates)))


def test_a_child_is_a_neighbour_of_a_recent_training(candidates: Candidates) -> None:
    made = searched("evolution", candidates, 120)
    for number in range(POPULATION, len(made)):
        parents = [training.candidate for training in made[number - POPULATION : number]]
        assert 1 in differences(candidates, made[number].candidate, parents)


def test_the_best_of_all_that_are_old_has_no_child(candidates: Candidates) -> None:
    """Its error is far lower, but it has left the population."""
    old = candidates.number({"wide": 64, "deep": 3, "head": 0})
    far = [number for number in range(len(candidates)) if differences(candidates, old, [number])[0] > 2]
    made = [Training(old, -100.0), *(Training(far[number % len(far)], 5.0) for number in range(POPULATION))]
    search = Evolution(candidates, np.random.default_rng(1))
    children = {search.propose(made) for _ in range(200)}
    assert not children & set(candidates.neighbours(old).tolist())
    parents = {search.propose(made[:POPULATION]) for _ in range(200)}
    assert parents & set(candidates.neighbours(old).tolist()), "in the population it has most of them"


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_package_is_named_with_the_command_that_installs_it(name: str) -> None:
    with pytest.raises(InputError) as caught:
        check_installed(name)
    needs = {**OPPONENTS, **HUB}[name]
    assert f"--sampler '{name}'" in str(caught.value)
    assert f"pip install -r benchmarks/opponents/requirements-{needs.requirements}.txt" in str(caught.value)


@pytest.mark.parametrize("name", {**OPPONENTS, **HUB})
def test_the_requirements_of_every_opponent_are_in_a_file(name: str) -> None:
    needs = {**OPPONENTS, **HUB}[name]
    folder = ROOT / "benchmarks" / "opponents"
    assert "==" in (folder / f"requirements-{needs.requirements}.txt").read_text(encoding="utf-8")
    assert f"{needs.maker}(" in (folder / f"{needs.module}.py").read_text(encoding="utf-8").replace(":", "(")


def test_a_missing_package_ends_the_command_before_any_search(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    done = run(table(tmp_path), "--sampler", "random", "--sampler", MISSING[0], "--limit", "1000", "--out", out)
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 2
    assert "pip install -r benchmarks/opponents/requirements-" in str(done.exception)
    assert len(out.read_text(encoding="utf-8").splitlines()) == 1, "the header"


def test_a_sampler_of_the_hub_comes_from_the_local_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGETNAS_OPTUNAHUB", str(tmp_path))
    with pytest.raises(InputError, match="cannot load samplers/ctpe"):
        hub_sampler("ctpe", 7, cost)
    package = tmp_path / "samplers" / "ctpe"
    package.mkdir(parents=True)
    code = """from types import SimpleNamespace\ncTPESampler = SimpleNamespace\n"""
    (package / "__init__.py").write_text(code, encoding="utf-8")
    made: Any = hub_sampler("ctpe", 7, lambda params: cost(dict(params)) - LIMIT)
    assert made.seed == 7
    assert made.constraints_func(SimpleNamespace(params={"wide": 64, "deep": 3, "head": 1})) == (64 * 3 + 30 - LIMIT,)
