"""The search benchmark on a small table made by hand: other columns than the real one has, 27 networks."""

from __future__ import annotations

import csv
import itertools
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial
from small import ROOT, environment
from typer import Typer
from typer.testing import CliRunner

from benchmarks import search as benchmark
from benchmarks.table import Networks, read_networks
from benchmarks.table_search.problem import Problem
from benchmarks.table_search.rows import Rows
from benchmarks.table_search.rules import Training, best_repeated, best_single, repeats, searched
from benchmarks.table_search.samplers import ALL, SAMPLERS, WithinLimit, check_names, sampler_for
from benchmarks.table_search.searching import Cell, Found, Task, recommended, search
from benchmarks.table_search.working import tasks_left
from budgetnas.errors import InputError

pytestmark = pytest.mark.slow

NECK, BODY, HEAD = (16, 32, 64), (10, 20, 30), (8, 16, 24)
LIMIT = 1_000
COLUMNS = "arch,neck,fixed,body,head,params,test_err_mean,test_err_1,test_err_2"


def lines(noise: float = 0.1) -> list[str]:
    """Bigger is better, and a network has neck * body parameters and the head."""
    found = [COLUMNS]
    for neck, body, head in itertools.product(NECK, BODY, HEAD):
        error = 10 - (neck + body + head) / 100 - (0.5 if (neck, body, head) == (64, 10, 24) else 0)
        seeds = f"{error - noise},{error + noise}"
        found.append(f"{neck}{body}{head},{neck},7,{body},{head},{neck * body + head},{error},{seeds}")
    return found


def table(folder: Path, rows: Sequence[str] | None = None) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join(lines() if rows is None else rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def networks(tmp_path: Path) -> Networks:
    return read_networks(table(tmp_path))


@pytest.fixture
def problem(networks: Networks) -> Problem:
    return Problem(networks, LIMIT)


def run(path: Path, *arguments: object) -> Any:
    app = Typer()
    app.command()(benchmark.measure)
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"BUDGETNAS_BENCH_TABLE": str(path)})


def without_seconds(path: Path) -> list[tuple[str, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        return sorted(tuple(row[:-1]) for row in csv.reader(file))


def test_the_searched_columns_are_read_from_the_header(networks: Networks) -> None:
    assert networks.levels == {"neck": NECK, "body": BODY, "head": HEAD}
    assert len(networks.rows) == 27


def test_the_noise_is_pooled_over_networks_of_any_number_of_seeds(tmp_path: Path) -> None:
    header = "arch,width,params,test_err_mean,test_err_1,test_err_2,test_err_3"
    rows = [header, "a,1,10,8,7,8,9", "b,2,20,6,5,7,", "c,3,30,6,6,,"]
    found = read_networks(table(tmp_path, rows)).noise
    assert found == pytest.approx(((2 * statistics.variance([7, 8, 9]) + statistics.variance([5, 7])) / 3) ** 0.5)


def test_even_widths_are_searched_as_they_are_and_others_by_their_places(problem: Problem) -> None:
    assert problem.distributions == {
        "neck": IntDistribution(0, 2),
        "body": IntDistribution(10, 30, step=10),
        "head": IntDistribution(8, 24, step=8),
    }


def test_regret_is_against_the_best_within_the_limit(problem: Problem) -> None:
    best, other = (
        problem.network(one) for one in ({"neck": 2, "body": 10, "head": 24}, {"neck": 1, "body": 30, "head": 8})
    )
    assert best is not None
    assert other is not None
    assert problem.regret(best) == 0
    assert problem.regret(other) == pytest.approx(0.5 + (64 + 10 + 24) / 100 - (32 + 30 + 8) / 100)
    assert problem.cost({"neck": 1, "body": 30, "head": 8}) == 32 * 30 + 8 <= LIMIT
    assert not problem.fits({"neck": 2, "body": 20, "head": 8})


def test_a_network_outside_the_table_is_over_any_limit(tmp_path: Path) -> None:
    problem = Problem(read_networks(table(tmp_path, lines()[:-1])), 10**9)
    missing = {"neck": 2, "body": 30, "head": 24}
    assert problem.network(missing) is None
    assert not problem.fits(missing)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_candidate_over_the_limit_is_trained(problem: Problem, name: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    sampler = sampler_for(name, problem, 25 if name != "gp" else 12, 1, np.random.default_rng(1))
    study, proposed = optuna.create_study(sampler=sampler), []
    for _ in range(25 if name != "gp" else 12):
        trial = study.ask()
        params = {
            key: trial.suggest_int(key, one.low, one.high, step=one.step) for key, one in problem.distributions.items()
        }
        proposed.append(params)
        study.tell(trial, -problem.cost(params))  # what is over the limit would be the best
    assert all(problem.fits(params) for params in proposed)
    assert len({tuple(params.values()) for params in proposed}) > 5


class Stubborn(RandomSampler):
    """Proposes the largest network, always."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.asked = 0

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        return {name: one.high for name, one in search_space.items()}


def test_a_sampler_that_repeats_its_proposal_gets_a_draw_within_the_limit(problem: Problem) -> None:
    inner = Stubborn()
    study = optuna.create_study(sampler=WithinLimit(inner, problem, np.random.default_rng(0)))
    drawn = []
    for _ in range(300):
        trial = study.ask(dict(problem.distributions))
        drawn.append(problem.network(trial.params))
        assert problem.fits(trial.params)
    assert inner.asked == 600, "once more, then it has repeated itself"
    assert (
        len(set(drawn))
        == problem.within
        == sum(neck * body + head <= LIMIT for neck in NECK for body in BODY for head in HEAD)
    )


def test_a_fifth_of_the_trainings_goes_to_repeats() -> None:
    assert [(repeats(count), searched("repeat", count)) for count in (5, 20, 50, 100)] == [
        (1, 3),
        (2, 16),
        (5, 40),
        (10, 80),
    ]
    assert searched("single", 50) == searched("recommend", 50) == 50


MADE = [Training(1, 5.0), Training(2, 6.0), Training(1, 9.0), Training(3, 6.5), Training(4, 6.4), Training(5, 5.0)]


def test_the_best_single_training_names_the_first_of_equals() -> None:
    assert best_single(MADE) == 1


def test_the_best_mean_of_repeats_names_the_winner() -> None:
    again: list[int] = []
    errors = {2: iter([6.1, 6.2]), 4: iter([6.0, 5.8]), 5: iter([7.0, 7.0])}

    def train(network: int) -> float:
        again.append(network)
        return next(errors[network])

    assert best_repeated(MADE, 3, train) == 4, "means of three: 6.10 of 2, 6.07 of 4, 6.33 of 5"
    assert again == [5, 5, 2, 2, 4, 4], "1 has a mean of 7 and is not among the three best"


def test_recommend_accepts_any_study(problem: Problem) -> None:
    """One lucky training among bad ones does not make a winner."""
    study = optuna.create_study()
    lucky, steady = {"neck": 0, "body": 10, "head": 8}, {"neck": 1, "body": 20, "head": 16}
    for params, errors in ((lucky, (5.0, 9.0, 9.1, 8.9, 9.0)), (steady, (6.0, 6.1, 5.9, 6.0, 6.1))):
        for error in errors:
            study.add_trial(create_trial(params=params, distributions=dict(problem.distributions), value=error))
    assert study.best_params == lucky
    assert recommended(study, problem, 10, 0) == problem.network(steady)


def test_without_noise_the_best_of_all_is_found(tmp_path: Path) -> None:
    problem = Problem(read_networks(table(tmp_path, lines(noise=1e-9))), LIMIT)
    cells = tuple(Cell(LIMIT, 400, "random", rule) for rule in ("single", "repeat"))
    found = search(Task(cells, 3), problem)
    assert [one.regret for one in found] == [0, 0]
    assert [one.networks for one in found] == [problem.within] * 2


def test_a_search_is_the_same_alone_and_as_the_beginning_of_a_longer_one(problem: Problem) -> None:
    short = tuple(Cell(LIMIT, 12, "tpe", rule) for rule in ("single", "repeat", "recommend"))
    long = Cell(LIMIT, 20, "tpe", "single")

    def regrets(*cells: Cell) -> dict[tuple[Cell, int], tuple[float, int]]:
        return {(one.cell, one.seed): (one.regret, one.networks) for one in search(Task(cells, 5), problem)}

    alone = regrets(*short)
    assert {cell: one for cell, one in regrets(*short, long).items() if cell in alone} == alone


def test_with_several_workers_a_proposal_does_not_know_what_is_running(problem: Problem) -> None:
    """The first trainings are the same; with 4 workers the fifth proposal knows a single result, not four."""

    def trained(name: str) -> int:
        return search(Task((Cell(LIMIT, 24, name, "recommend"),), 1), problem)[0].networks

    asked: list[int] = []
    original = optuna.Study.ask

    def ask(study: optuna.Study, *args: Any, **named: Any) -> optuna.Trial:
        asked.append(len(study.get_trials(states=[TrialState.COMPLETE])))
        return original(study, *args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.Study, "ask", ask)
        assert trained("budget*4") > 4
        assert asked == [0, 0, 0, *range(21)]
        asked.clear()
        trained("budget")
        assert asked == list(range(24))


@pytest.mark.parametrize("name", ["budget*", "budget*0", "budget*x", "*4", "budget*04"])
def test_a_number_of_workers_is_a_whole_number(name: str) -> None:
    with pytest.raises(InputError, match="must be one of"):
        check_names("--sampler", [name], ALL)


def test_a_sampler_that_plans_makes_a_search_for_each_number_of_trainings(networks: Networks) -> None:
    rows = Rows(None, networks.digest)

    def trainings(name: str) -> list[set[int]]:
        cells = [(Cell(LIMIT, count, name, rule), 1) for count in (20, 50) for rule in ("single", "repeat")]
        return [{cell.searched for cell in task.cells} for task in tasks_left(cells, rows)]

    assert trainings("random") == [{16, 20, 40, 50}]
    assert trainings("budget") == [{16}, {20}, {40}, {50}]


def test_samplers_and_seeds_have_their_own_noise(problem: Problem) -> None:
    def first_error(name: str, seed: int) -> float:
        cell = Cell(LIMIT, 5, name, "single")
        return search(Task((cell,), seed), problem)[0].regret

    found = [[first_error(name, seed) for seed in range(20)] for name in ("random", "nsga2")]
    assert found[0] != found[1], "both start with random draws, but not the same"
    assert len(set(found[0])) > 2


ARGUMENTS = ("--sampler", "random", "--sampler", "tpe", "--trainings", "10", "--limit", "1000", "--limit", "500")


def test_the_table_is_printed_and_the_chart_written(tmp_path: Path) -> None:
    chart = tmp_path / "chart.html"
    done = run(table(tmp_path), *ARGUMENTS, "--seeds", 3, "--chart", chart)
    assert done.exit_code == 0, done.output
    assert "27 networks of neck, body, head; 21 within 1k, 11 within 500" in done.output
    assert "noise between seeds 0.141 points; searches of each kind: 3 with random, 3 with tpe" in done.output
    rows = [line.split(" | ") for line in done.output.splitlines() if " +- " in line]
    assert [(row[0].strip("| "), row[2], row[3]) for row in rows] == list(
        itertools.product(("1k", "500"), ("random", "tpe"), ("single", "repeat", "recommend"))
    )
    assert {row[5] for row in rows} == {"3"}
    text = chart.read_text(encoding="utf-8")
    assert "at most 1k parameters" in text
    assert "at most 500 parameters" in text
    assert "tpe, recommend" in text


def test_searches_in_the_file_are_not_repeated(tmp_path: Path) -> None:
    path, out = table(tmp_path), tmp_path / "rows.csv"
    first = run(path, *ARGUMENTS, "--seeds", 3, "--out", out)
    written = out.read_text(encoding="utf-8")
    again = run(path, *ARGUMENTS, "--seeds", 3, "--out", out)
    assert again.exit_code == 0, again.output
    assert out.read_text(encoding="utf-8") == written, "seconds would differ if anything had been searched"
    assert again.stdout == first.stdout
    assert len(written.splitlines()) == 1 + 3 * 2 * 2 * 3


def test_an_interrupted_benchmark_resumes(tmp_path: Path) -> None:
    path, out = table(tmp_path), tmp_path / "rows.csv"
    run(path, *ARGUMENTS, "--seeds", 3, "--out", out)
    whole, text = without_seconds(out), out.read_text(encoding="utf-8")
    kept = text.splitlines(keepends=True)[:12]
    out.write_text("".join(kept)[:-9], encoding="utf-8")
    done = run(path, *ARGUMENTS, "--seeds", 3, "--out", out)
    assert done.exit_code == 0, done.output
    assert without_seconds(out) == whole
    assert out.read_text(encoding="utf-8").startswith("".join(kept[:-1]))


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    path, one, two = table(tmp_path), tmp_path / "one.csv", tmp_path / "two.csv"
    for out, jobs in ((one, 1), (two, 2)):
        done = run(path, *ARGUMENTS, "--seeds", 2, "--out", out, "--jobs", jobs)
        assert done.exit_code == 0, done.output
    assert without_seconds(one) == without_seconds(two)


@contextmanager
def started(path: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.search", "--table", path, *arguments]
    with subprocess.Popen(
        [str(one) for one in command],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONPATH=str(ROOT)),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_benchmark_keeps_what_it_has(tmp_path: Path, jobs: int) -> None:
    path, out = table(tmp_path), tmp_path / "rows.csv"
    with started(path, *ARGUMENTS, "--seeds", 3_000, "--out", out, "--jobs", jobs) as process:
        deadline = time.monotonic() + 60
        while not out.exists() or out.read_text(encoding="utf-8").count("\n") < 10:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.strip().splitlines()[-1] == f"interrupted; run it again to resume from {out}"
    cells = [Cell(LIMIT, 10, "random", "single")]
    assert len(Rows(out, read_networks(path).digest).of(cells[0], 3_000)) >= 1


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with started(tmp_path / "missing.csv") as process:
        shown, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert shown == ""
    assert len(told.splitlines()) == 1
    assert "--table" in told
    assert "cannot be read" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--limit", "5"), "the smallest has 168 parameters"),
        (("--limit", "much"), "--limit 'much'"),
        (("--sampler", "tpf"), "did you mean tpe"),
        (("--rule", "best"), "single, repeat, recommend"),
        (("--trainings", "4"), "at least 5"),
        (("--seeds", "1"), "at least 2"),
        (("--jobs", "0"), "at least 1"),
        (("--chart", "/nowhere/chart.html"), "--chart"),
        (("--out", "/nowhere/rows.csv"), "--out"),
    ],
)
def test_options_that_cannot_be_used_are_refused(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    done = run(table(tmp_path), *(("--limit", "1000") if arguments[0] != "--limit" else ()), *arguments)
    assert isinstance(done.exception, InputError)
    assert told in str(done.exception)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("params", "size"), "has no column params"),
        (lambda text: text.replace("arch,", "name,"), "has no column arch"),
        (lambda text: text.replace("test_err_mean", "error"), "has no column test_err_mean"),
        (lambda text: text.replace("test_err_2", "flops"), "no network with two seeds"),
        (lambda text: text.replace(",64,7,30,24,", ",sixty,7,30,24,"), "'sixty' for neck in network 27"),
        (lambda text: text.replace(",64,7,30,24,", ",64,7,30,16,"), "networks 26 and 27"),
        (lambda text: text.splitlines()[0] + "\n" + text.splitlines()[1], "nothing to search"),
        (lambda text: "", "has no column params"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, change: Any, told: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(change("\n".join(lines())), encoding="utf-8")
    with pytest.raises(InputError, match="--table") as caught:
        read_networks(path)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "something else", "table,sampler\nx\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, text: str) -> None:
    out = tmp_path / "rows.csv"
    out.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="name another file"):
        Rows(out, "digest")
    assert out.read_text(encoding="utf-8") == text


def test_searches_of_another_table_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    Rows(out, "one").add([Found(Cell(LIMIT, 10, "random", "single"), 0, 0.1, 9, 0.2)])
    with pytest.raises(InputError, match="another table"):
        Rows(out, "two")


def test_slow_samplers_make_fewer_searches_unless_asked() -> None:
    assert benchmark._seeds(None, "random") == benchmark._seeds(None, "budget") == 400
    assert benchmark._seeds(None, "gp") == 40
    assert benchmark._seeds(100, "gp") == 100
