"""Searches of one study that are started at the same moment on a database that is not there yet."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from amount import amount
from candidates import drawn
from looking import NAME, check_ended, check_no_checkpoints, created, looking, twice
from optuna.trial import TrialState
from processes import FORKED, Command
from small import study_file

from budgetnas.samplers.attributes import described
from budgetnas.searching.study import INITIAL_TRIAL
from budgetnas.storage import State

pytestmark = pytest.mark.slow

PROCESSES = 4
INITIAL_TRIALS = ["v2-adam", "v2-sgd"]
STUDY = """
data = "digits"
budget = "1.9M"
subset = 50
subset_eval = 50
epochs = 1
batch = 25

[space]
blocks = [[1, 2], [1, 2], [1, 2], [1, 2]]
widths = [4, 6, 8, 12, 64, 128]
"""
"""It holds one of the two seed networks, and the other is over its budget."""


def search_together(url: str, folder: Path, trials: int) -> None:
    """Start four searches at the same moment and check what they leave."""
    path = study_file(folder, STUDY, trials=str(trials))
    together = FORKED.Barrier(PROCESSES)
    arguments = ("search", path, "--study", "t", "--storage", url)
    with ExitStack() as stack:
        commands = [stack.enter_context(Command(folder, *arguments, together=together)) for _ in range(PROCESSES)]
        for command in commands:
            assert command.wait() == 0, command.told()
            assert "Traceback" not in command.told()
    check_ended(url, trained=trials)
    with looking(url) as study:
        seeds = [trial.user_attrs[INITIAL_TRIAL] for trial in study.trials if INITIAL_TRIAL in trial.user_attrs]
        assert sorted(seeds) == INITIAL_TRIALS
        assert sorted(run.label for run in study.runs if run.label) == INITIAL_TRIALS
        over = [one.origin for one in study.records.rejections("t") if one.origin.startswith("seed")]
        assert sorted(over) == ["seed v1-adam", "seed v1-sgd"]
    check_no_checkpoints(url, folder)


def test_sixty_trainings_by_four_searches_started_at_once(storage_url: str, tmp_path: Path) -> None:
    search_together(storage_url, tmp_path, amount(12, full=60))


@pytest.mark.parametrize("number", range(amount(2, full=20)))
def test_start_after_start_is_good(storage_url: str, tmp_path: Path, number: int) -> None:
    search_together(storage_url, tmp_path, 6)


def test_a_candidate_that_is_queued_many_times_is_trained_once(storage_url: str, tmp_path: Path) -> None:
    """Copies of four candidates, side by side in the queue, so that searches want the same one at the same moment."""
    path = study_file(tmp_path, trials="6")
    with created(storage_url, path) as opened:
        for params in drawn(opened, 4, random.Random(0)):
            for _ in range(5):
                opened.optuna_study.enqueue_trial(params)
    together = FORKED.Barrier(PROCESSES)
    arguments = ("search", path, "--study", NAME, "--storage", storage_url)
    with ExitStack() as stack:
        commands = [stack.enter_context(Command(tmp_path, *arguments, together=together)) for _ in range(PROCESSES)]
        for command in commands:
            assert command.wait() == 0, command.told()
    with looking(storage_url) as study:
        assert twice(study.runs) == []
        assert [run.state for run in study.runs] == [State.COMPLETE] * 6
        ended = Counter(trial.state for trial in study.trials)
        assert ended[TrialState.WAITING] == ended[TrialState.RUNNING] == 0
        for trial in study.trials:
            assert trial.state is TrialState.COMPLETE or "trains the same candidate" in described(trial)["reason"]
