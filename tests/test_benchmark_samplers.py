from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT, environment

from benchmarks.small_studies.sampled import Sampled, sampled_lines
from budgetnas.runs.reopen import study_specification
from budgetnas.storage import SEARCHED, Role
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage

pytestmark = pytest.mark.slow


def searched(sampler: str, seed: int, single: float, recommend: float) -> Sampled:
    return Sampled(sampler, seed, 10, 2, 1, 0, {"single": single, "recommend": recommend})


def test_samplers_are_compared_by_each_rule() -> None:
    told = list(
        sampled_lines(
            [
                *(searched("budget", seed, 0.5, 0.60 + seed / 100) for seed in (0, 2)),
                *(searched("random", seed, 0.5, 0.55 + seed / 100) for seed in (0, 2)),
            ]
        )
    )
    assert "| budget | 2 | 10 | 2 | 1 | 0 | 50.00 | 62.00 |" in told
    assert "recommend: random 56.00 (n = 2)" in told
    assert "recommend: budget less random: +5.00 points, 95 % interval -1.08 to +11.08 (n = 4) (Welch)" in told
    assert any(line.startswith("single: budget less random: +0.00 points") for line in told)


@pytest.mark.parametrize("searches", [[], [searched("budget", 0, 0.5, 0.5)]])
def test_one_search_has_no_interval(searches: list[Sampled]) -> None:
    assert "interval" not in "\n".join(sampled_lines(searches))


def test_searches_are_made_once_with_equal_epochs_and_trained_afresh(tmp_path: Path) -> None:
    design = "--subset 60 --subset-eval 60 --epochs 1 --trials 4 --seeds 2 --fresh 2 --budget 12e3"
    command = [sys.executable, "-m", "benchmarks.samplers", *design.split()]

    def made() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=300
        )

    first = made()
    assert first.returncode == 0, first.stderr
    assert "recommend: budget less random: " in first.stdout and "(n = 4) (Welch)" in first.stdout
    records = open_records(parse_storage(f"sqlite:///{tmp_path / 'samplers.db'}"))
    for name in ("budget/0", "budget/1", "random/0", "random/1"):
        runs = records.runs(study=name)
        assert sum(run.epochs_done for run in runs if run.role in SEARCHED) == 4
        assert {run.seed for run in runs if run.role is Role.FINAL} == {3000, 3001}
        assert all(run.params <= study_specification(records, name).budget.max_params for run in runs)
    command.append("--summary")
    assert made().stdout == first.stdout


def test_a_pruned_search_has_at_most_the_epochs_of_the_others(tmp_path: Path) -> None:
    design = "--subset 60 --subset-eval 60 --epochs 3 --trials 6 --seeds 1 --fresh 1 --budget 12e3"
    command = [sys.executable, "-m", "benchmarks.samplers", *design.split(), "--sampler", "random+asha"]

    def made() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=300
        )

    first = made()
    assert first.returncode == 0, first.stderr
    records = open_records(parse_storage(f"sqlite:///{tmp_path / 'samplers.db'}"))
    runs = [run for run in records.runs(study="random+asha/0") if run.role in SEARCHED]
    assert 6 * 3 - 3 < sum(run.epochs_done for run in runs) <= 6 * 3
    assert len(runs) > 6, "pruned trials leave epochs for others"
    assert made().stdout == first.stdout
    assert len(records.runs(study="random+asha/0", role=Role.SEARCH)) == len(runs)
    command[-1] = "random+nonsense"
    assert "must end in +PRUNER, one of asha, median, model, none" in made().stderr
