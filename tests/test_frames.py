"""How deep a search calls before it trains: a reader follows these calls to find the training step."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
import torch
from small import study_file

import budgetnas
from budgetnas.cli.app import main

PACKAGE = str(Path(budgetnas.__file__).parent)


def test_a_search_is_at_most_twelve_calls_from_the_command_line_to_the_optimizer_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def step(optimizer: torch.optim.Optimizer, *arguments: object) -> None:
        frames = traceback.extract_stack()[:-1]
        first = next(index for index, frame in enumerate(frames) if frame.name == "main")
        ours = [frame for frame in frames[first:] if frame.filename.startswith(PACKAGE)]
        calls.append([f"{Path(frame.filename).stem}.{frame.name}" for frame in ours])

    for optimizer in (torch.optim.SGD, torch.optim.Adam):
        monkeypatch.setattr(optimizer, "step", step)
    monkeypatch.chdir(tmp_path)
    path = study_file(tmp_path, trials="1", epochs="1")
    assert main(["search", path, "--study", "s", "--device", "cpu"]) == 0
    in_trials = [frames for frames in calls if "loop.search" in frames]
    assert in_trials, calls[:1]
    for frames in in_trials:
        assert len(frames) <= 12, " > ".join(frames)
