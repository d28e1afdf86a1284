from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT, environment

from benchmarks.small_studies.summary import Outcome, summary_lines

pytestmark = pytest.mark.slow


def outcome(pruner: str, seed: int, *, trained: int, single: float, winner: float) -> Outcome:
    return Outcome(
        pruner=pruner,
        seed=seed,
        asked=100,
        trained=trained,
        best_single=single,
        best_single_fresh=single - 0.02,
        winner=winner,
        winner_fresh=winner - 0.01,
        same=seed == 0,
        test=winner,
    )


def test_the_summary_compares_pruners_and_reports_both_biases() -> None:
    outcomes = [
        *(outcome("none", seed, trained=100, single=0.5, winner=0.40 + seed / 100) for seed in (0, 1)),
        *(outcome("asha", seed, trained=40, single=0.5, winner=0.42 + seed / 100) for seed in (0, 1)),
    ]
    told = "\n".join(summary_lines(outcomes))
    assert "asha: 80 of 200 epochs trained, 60.0% saved (n = 2 studies)" in told
    assert "asha less none: +2.00 points" in told
    assert "paired by the sampler's seed: +2.00 points, 95 % interval +2.00 to +2.00 (n = 2)" in told
    assert "best single run, what chose it less fresh: +2.00 points" in told
    assert "our rule, what chose it less fresh: +1.00 points" in told
    assert "the same network in 2 studies" in told


def test_studies_are_made_once_and_reported(tmp_path: Path) -> None:
    arguments = [
        "--subset",
        "60",
        "--subset-eval",
        "60",
        "--epochs",
        "2",
        "--trials",
        "3",
        "--seeds",
        "1",
        "--fresh",
        "2",
        "--pruner",
        "none",
    ]
    command = [sys.executable, "-m", "benchmarks.studies", *arguments]

    def made() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=300
        )

    first = made()
    assert first.returncode == 0, first.stderr
    assert "none: 6 of 6 epochs trained" in first.stdout and "| none | 0 | 6 of 6 |" in first.stdout
    command.append("--summary")
    assert made().stdout == first.stdout


@pytest.mark.parametrize("outcomes", [[], [outcome("none", 0, trained=100, single=0.5, winner=0.4)]])
def test_one_study_has_no_interval(outcomes: list[Outcome]) -> None:
    assert "interval" not in "\n".join(summary_lines(outcomes))
