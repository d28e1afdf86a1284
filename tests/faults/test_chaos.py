"""Random kills: whatever is killed when, every candidate is trained once, to the bits it has alone."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from amount import amount
from candidates import queue_drawn
from chaos import wreak, wreak_to_the_end
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
    assert check_losses(storage_url, havoc.killed), "no kill hit a process that held anything"
    with worker() as one_more:
        assert one_more.wait() == 0, one_more.told()
    check_no_checkpoints(storage_url, tmp_path)
    told = results(storage_url)
    assert len(told) == trials
    assert told == results_alone(storage_url, tmp_path)


MIXED = """
data = "digits"
budget = "6k"
subset = 200
subset_eval = 100
epochs = 8
batch = 50
sampler = "budget"
pruner = "PRUNER"
finalists = 2
final_seeds = 2
seeds = []

[space]
blocks = [[1, 2]]
widths = [4, 6, 8]

[recipe]
optimizers = ["sgd"]

[recipe.sgd]
learning_rate = [0.05, 0.05]
weight_decay = [0.0]
"""
"""Six candidates for a sampler that repeats them, with pruning and a final."""


def test_random_kills_with_repeats_pruning_and_a_final(
    storage_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trials, gap = amount(10, full=40), amount(10, full=5)
    seed = int(os.environ.get("FAULTS_SEED", 0)) or random.SystemRandom().randrange(1, 2**31)
    pruner = ("asha", "model")[seed % 2]
    print(f"FAULTS_SEED={seed}: {trials} trials, pruner {pruner}, a kill every {gap} epochs")
    path = study_file(tmp_path, MIXED.replace("PRUNER", pruner), trials=str(trials))
    with created(storage_url, path):
        pass

    def worker() -> Command:
        return Command(
            tmp_path, "search", path, "--study", NAME, "--storage", storage_url, BUDGETNAS_CHECKPOINT_EVERY="0"
        )

    def restart() -> None:
        server = request.getfixturevalue("postgres_server")
        server.stop("immediate")
        server.start()
        print("restarts 1")

    havoc = wreak_to_the_end(
        storage_url,
        worker,
        workers=amount(WORKERS, full=4),
        gap=gap,
        generator=random.Random(seed),
        restart=None if storage_url.startswith("sqlite") else restart,
    )
    print(f"kills {len(havoc.killed)}")
    assert set(havoc.codes) == {0}, havoc.told
    assert "Traceback" not in havoc.told, havoc.told
    check_ended(storage_url, trained=trials)
    check_losses(storage_url, havoc.killed)
    check_final(storage_url)
    with worker() as one_more:
        assert one_more.wait() == 0, one_more.told()
    check_no_checkpoints(storage_url, tmp_path)
    assert results(storage_url) == results_alone(storage_url, tmp_path)


def check_final(url: str) -> None:
    """Check that the study has one final, and that its networks were evaluated on the test split once."""
    with looking(url) as study:
        roles = Counter((run.role.value, run.state.value) for run in study.runs)
        print("runs " + ", ".join(f"{role} {state} {count}" for (role, state), count in sorted(roles.items())))
        [final] = study.records.finals(NAME)
        tested = Counter(reading.run for reading in study.rows(tables.test_readings))
        assert final.read_at is not None
        assert set(tested.values()) == {1}
        assert len(tested) == final.plan.protocol.seeds


def check_losses(url: str, killed: tuple[int, ...]) -> int:
    """Check that what is recorded of processes fits with which were killed; return how many of these held anything."""
    with looking(url) as study:
        losses, attempts = study.rows(tables.losses), study.rows(tables.attempts)
        of_run = {run.id: [one for one in attempts if one.run == run.id] for run in study.runs}
        lost = {loss.pid for loss in losses}
        print(f"losses {len(losses)}, of which with a trial {sum(loss.trial is not None for loss in losses)}")
        print(f"runs in several attempts {sum(len(one) > 1 for one in of_run.values())}")
        print(f"attempts from a checkpoint {sum(one.epochs_before > 0 for one in attempts)}")
        assert lost <= set(killed)
        assert len(lost) == len(losses), "a process is found to be gone once"
        assert all(loss.reason.endswith("is gone") for loss in losses)
        for run in study.runs:
            *earlier, _ = in_order = of_run[run.id]
            assert in_order[0].epochs_before == 0
            assert {one.pid for one in earlier} <= set(killed), "a training goes on elsewhere only after a kill"
        return len(losses)
