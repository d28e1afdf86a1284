"""The scripts for the first minutes on a GPU, as a dry run on this CPU: every step of every script ends well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT, environment

pytestmark = pytest.mark.slow

SCRIPTS = ("first", "second", "third", "fourth", "fifth", "sixth")
TAKEN = SCRIPTS if os.environ.get("FAULTS") == "full" else ("first", "third", "sixth")
"""The others have the same steps with other networks, and take minutes: `make test-faults` takes all."""
RESULTS = {
    "first": {"machine", "step_times", "bench_v2_128"},
    "second": {"machine", "step_times", "replays", "bench_v2_512", "bench_v1_128", "bench_resnet18_128"},
    "third": {"machine", "long_training"},
    "fourth": {"machine", "failed_capture", "side_by_side", "step_times", "replays"},
    "fifth": {"machine", "search_5m"},
    "sixth": {"machine", "long_training"},
}


def dry_run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as a GPU machine would, but on this CPU; its limit is a share of five minutes for all."""
    return subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu" / f"{script}.sh"), "--dry-run"],
        cwd=ROOT,
        env=environment(OUT=str(folder), PYTHON=sys.executable, PATH=os.environ["PATH"]),
        capture_output=True,
        text=True,
        timeout=580,
    )


@pytest.mark.parametrize("script", TAKEN)
def test_a_dry_run(script: str, tmp_path: Path) -> None:
    done = dry_run(script, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {step["script"] for step in steps} == {script}
    assert [step for step in steps if step["code"] != 0] == [], done.stdout
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert RESULTS[script] <= {name for name, value in found.items() if value}
    page = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "a dry run, whose figures mean nothing" in page
    assert all(f"| {script} | {step['step']} | {step['code']} |" in page for step in steps)


def test_the_scripts_together_are_those_of_the_folder() -> None:
    there = {path.stem for path in (ROOT / "benchmarks" / "gpu").glob("*.sh")}
    assert there == {*SCRIPTS, "lib", "long"}


def test_anything_but_a_dry_run_is_refused() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu" / "first.sh"), "--dry"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr
