from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from small import environment, run

from budgetnas.data import DataIdentity
from budgetnas.errors import BudgetnasError
from budgetnas.experiments.published import recorded_run, recorded_runs
from budgetnas.experiments.replay import check_count, incomparable, recipe_for
from budgetnas.storage import Role, State
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage

CIFAR10 = DataIdentity(
    name="cifar10", content_hash="0" * 64, subset=None, subset_eval=None, split_seed=0, resolution=32
)
REDUCED = ("--data", "digits", "--subset", "60", "--subset-eval", "50", "--epochs", "2")


def test_every_recorded_network_has_the_printed_count() -> None:
    for run_ in recorded_runs().values():
        assert check_count(run_) == run_.params


def test_a_wrong_count_stops_the_replay() -> None:
    from dataclasses import replace

    with pytest.raises(BudgetnasError, match="4,903,242 parameters, the report has 1"):
        check_count(replace(recorded_run("v1-sgd"), params=1))


@pytest.mark.parametrize(
    ("name", "epochs", "t_max", "expected"),
    [
        ("v2-sgd", None, None, (60, 60)),
        ("v2-sgd", 2, None, (2, 2)),
        ("resnet18", None, None, (50, 200)),
        ("resnet18", 5, None, (5, 20)),
        ("v1-sgd", None, 200, (60, 200)),
        ("v1-sgd", 3, 7, (3, 7)),
    ],
)
def test_the_cosine_scales_with_the_epochs(
    name: str, epochs: int | None, t_max: int | None, expected: tuple[int, int]
) -> None:
    recipe = recipe_for(recorded_run(name), epochs, t_max)
    assert (recipe.epochs, recipe.t_max) == expected


def test_only_the_full_protocol_on_the_original_data_is_comparable() -> None:
    v2 = recorded_run("v2-sgd")
    assert incomparable(v2, v2.recipe, CIFAR10) == ()
    assert incomparable(v2, recipe_for(v2, None, 200), CIFAR10) == ()
    folder = CIFAR10.model_copy(update={"name": "folder-cifar", "subset": 2000})
    reasons = incomparable(v2, recipe_for(v2, 2, None), folder)
    assert [
        any(text in reason for reason in reasons) for text in ("folder-cifar", "subset 2,000", "2 of 60 epochs")
    ] == [True] * 3


def test_a_reduced_replay_says_why_at_the_start_and_the_end_and_is_not_repeated(tmp_path: Path) -> None:
    first = run(tmp_path, "replay", "v2-sgd", *REDUCED)
    assert first.returncode == 0, first.stderr
    lines = [line for line in first.stderr.splitlines() if line.startswith("v2-sgd")]
    assert len(lines) >= 6
    assert all(line.startswith("v2-sgd*: ") for line in lines)
    reasons = "data digits at 8 px, not the original CIFAR-10; subset 60; test subset 50; 2 of 60 epochs"
    assert lines[0] == f"v2-sgd*: NOT COMPARABLE with the report: {reasons}"
    assert not any("NOT COMPARABLE" in line for line in lines[1:])
    assert max(map(len, lines[1:])) <= 100
    assert any("1,891,658 parameters on CIFAR-10's images" in line for line in lines)
    assert any("contradicts itself" in line for line in lines)
    assert first.stdout.count("v2-sgd*") == 2, "a row for each split"
    assert f"* v2-sgd: NOT COMPARABLE with the report: {reasons}" in first.stdout.splitlines()
    for text in ("94.21", "99.81", "last epoch"):
        assert text in first.stdout
    page = (tmp_path / "replay-report.html").read_text(encoding="utf-8")
    assert "NOT COMPARABLE" in page

    again = run(tmp_path, "replay", "v2-sgd", *REDUCED, "--json")
    (value,) = json.loads(again.stdout)
    assert value["printed_test"] == 94.21
    assert value["comparable"] is False

    other = run(tmp_path, "replay", "v2-sgd", *REDUCED, "--precision", "bf16")
    assert "the recorded run used float32, not bf16" in other.stderr

    with closing(open_records(parse_storage(f"sqlite:///{tmp_path}/budgetnas.db"))) as records:
        (record,) = records.runs(role=Role.REPLAY)
        assert (record.state, record.study, record.trial, record.label) == (State.COMPLETE, None, None, "v2-sgd")
        assert records.test_readings(record.id) == 2, "every look at the test split is recorded"
        assert json.loads(record.environment)["precision"] == "float32"


@pytest.mark.slow  # four epochs of V2
def test_an_interrupted_replay_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    arguments = ("replay", "v2-sgd", *REDUCED[:-1], "3")
    command = [sys.executable, "-m", "budgetnas", *arguments]
    env, piped = environment(), subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=piped, stdout=piped, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 1/3: train" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "Stopped. Every finished epoch is saved. Resume with:\n  budgetnas replay v2-sgd" in rest

    again = run(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr
    assert "epoch 1/3: train" not in again.stderr, "the first epoch is not repeated"
    assert "epoch 3/3: train" in again.stderr


def test_the_list_needs_no_data(tmp_path: Path) -> None:
    result = run(tmp_path, "replay", "--list")
    assert result.returncode == 0
    for name in recorded_runs():
        assert name in result.stdout
    assert list(tmp_path.iterdir()) == []
