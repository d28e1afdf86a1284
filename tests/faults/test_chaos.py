"""Random kills: whatever is killed when, every candidate is trained once, to the bits it has alone."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from amount import amount
from candidates import queue_drawn
from chaos import wreak
from looking import NAME, check_ended, check_no_checkpoints, created, looking, results, results_alone
from processes import Command
from small import study_file

from budgetnas.storage import tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(amount(600, full=1800))]

WORKERS = 3
EPOCHS = 8


def test_random_kills(storage_url: str, tmp_path: Path) -> None:
    kills, trials = amount(6, full=36), amount(12, full=60)
    seed = int(os.environ.get("FAULTS_SEED", 0)) or random.SystemRandom().randrange(1, 2**31)
    generator = random.Random(seed)
    print(f"FAULTS_SEED={seed}: {kills} kills, {trials} candidates")
    path = study_file(tmp_path, epochs=str(EPOCHS), trials=str(trials))
    with created(storage_url, path) as opened:
        queue_drawn(opened, trials, generator)

    def worker() -> Command:
        return Command(
            tmp_path, "search", path, "--study", NAME, "--storage", storage_url, BUDGETNAS_CHECKPOINT_EVERY="0"
        )

    havoc = wreak(storage_url, worker, workers=WORKERS, kills=kills, epochs=trials * EPOCHS, generator=generator)
    assert len(havoc.killed) == kills
    assert havoc.codes == (0,) * WORKERS, havoc.told
    assert "Traceback" not in havoc.told, havoc.told
    check_ended(storage_url, trained=trials)
    check_losses(storage_url, havoc.killed)
    with worker() as one_more:
        assert one_more.wait() == 0, one_more.told()
    check_no_checkpoints(storage_url, tmp_path)
    told = results(storage_url)
    assert len(told) == trials
    assert told == results_alone(storage_url, tmp_path)


def check_losses(url: str, killed: tuple[int, ...]) -> None:
    """Check that what is recorded of processes fits with which of them were killed."""
    with looking(url) as study:
        losses, attempts = study.rows(tables.losses), study.rows(tables.attempts)
        of_run = {run.id: [one for one in attempts if one.run == run.id] for run in study.runs}
        lost = Counter(loss.trial for loss in losses)
        print(f"losses {len(losses)}, of which with a trial {sum(loss.trial is not None for loss in losses)}")
        print(f"runs in several attempts {sum(len(one) > 1 for one in of_run.values())}")
        print(f"attempts from a checkpoint {sum(one.epochs_before > 0 for one in attempts)}")
        assert losses, "no kill hit a process that held anything"
        assert {loss.pid for loss in losses} <= set(killed)
        assert max(Counter(loss.pid for loss in losses).values()) == 1, "a process is found to be gone once"
        assert all(loss.reason.endswith("is gone") for loss in losses)
        for run in study.runs:
            first, *later = of_run[run.id]
            assert first.epochs_before == 0
            assert len(later) <= lost[run.trial], "a training goes on elsewhere only after a loss"
            assert {one.pid for one in (first, *later)[:-1]} <= set(killed)
