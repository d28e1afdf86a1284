"""Several people's studies on one machine: queued at one moment, trained in turns by workers that are killed."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from amount import amount
from forked import FORKED
from looking import twice
from optuna.trial import TrialState
from processes import PATIENCE_SECONDS, Command, wait_until
from small import study_file
from sqlalchemy import create_engine, func, select

from budgetnas.report.standing import standings
from budgetnas.searching.study import optuna_storage
from budgetnas.storage import SEARCHED, Role, State, tables
from budgetnas.storage.opening import open_records
from budgetnas.storage.urls import parse_storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(amount(600, full=1800))]

STUDIES = tuple(f"person-{number}" for number in range(1, 7))
WORKERS = 3
SETTINGS = {"BUDGETNAS_TURN": "2s", "BUDGETNAS_CHECKPOINT_EVERY": "0"}


@dataclass(frozen=True)
class Look:
    """Epochs recorded of each study at a moment."""

    seconds: float
    epochs: tuple[int, ...]


def test_six_studies_by_six_people_and_three_workers_that_are_killed(storage_url: str, tmp_path: Path) -> None:
    kills, trials, epochs = amount(3, full=20), amount(4, full=12), amount(8, full=20)
    seed = int(os.environ.get("FAULTS_SEED", 0)) or random.SystemRandom().randrange(1, 2**31)
    generator = random.Random(seed)
    print(f"FAULTS_SEED={seed}: {kills} kills, {len(STUDIES)} studies of {trials} trials of {epochs} epochs")
    queue_all(storage_url, tmp_path, trials, epochs)

    def worker() -> Command:
        return Command(tmp_path, "worker", "--all", "--until-idle", "--storage", storage_url, **SETTINGS)

    looks: list[Look] = []
    moments = sorted(generator.uniform(0, 0.85 * len(STUDIES) * trials * epochs) for _ in range(kills))
    killed: list[Command] = []
    engine = create_engine(parse_storage(storage_url))
    with ExitStack() as stack:
        running = [stack.enter_context(worker()) for _ in range(WORKERS)]
        started = time.monotonic()
        for moment in (*moments, None):
            deadline = time.monotonic() + PATIENCE_SECONDS
            while any(one.code is None for one in running):
                looks.append(Look(time.monotonic() - started, epochs_of(engine)))
                if moment is not None and sum(looks[-1].epochs) >= moment:
                    break
                assert time.monotonic() < deadline, "\n".join(one.told() for one in running)
                time.sleep(0.05)
            if moment is None:
                break
            time.sleep(generator.uniform(0, 0.3))
            victim = running.pop(generator.randrange(WORKERS))
            assert victim.code is None, victim.told()
            victim.kill()
            killed.append(victim)
            running.append(stack.enter_context(worker()))
        codes = [one.wait() for one in running]
        told = "\n".join(one.told() for one in (*killed, *running))
    engine.dispose()
    assert codes == [0] * WORKERS, told
    assert "Traceback" not in told, told
    print(f"{len(killed)} kills in {looks[-1].seconds:.0f} s")
    show_shares(looks)
    check_all_done(storage_url, trials)
    if amount(0, full=1):  # a turn is enough for the whole of a small study
        check_fair(looks, trials * epochs)


def queue_all(url: str, folder: Path, trials: int, epochs: int) -> None:
    """Queue all studies from as many processes at the same moment, on a database that does not exist yet."""
    together = FORKED.Barrier(len(STUDIES))
    path = study_file(folder, trials=str(trials), epochs=str(epochs), finalists="1", final_seeds="2")
    with ExitStack() as stack:
        people = [
            stack.enter_context(
                Command(folder, "search", path, "--study", study, "--storage", url, "--queue", together=together)
            )
            for study in STUDIES
        ]
        for person in people:
            assert person.wait() == 0, person.told()
    with closing(open_records(parse_storage(url))) as records:
        assert {name: standing.state for name, standing in standings(records).items()} == dict.fromkeys(
            STUDIES, "queued"
        )
        assert records.runs() == ()


def epochs_of(engine: object) -> tuple[int, ...]:
    query = (
        select(tables.runs.c.study, func.count())
        .join(tables.epochs, tables.epochs.c.run == tables.runs.c.id)
        .where(tables.runs.c.role.in_([role.value for role in SEARCHED]))
        .group_by(tables.runs.c.study)
    )
    with engine.connect() as connection:  # type: ignore[attr-defined]
        counted = {row[0]: row[1] for row in connection.execute(query)}
    return tuple(counted.get(study, 0) for study in STUDIES)


def show_shares(looks: list[Look]) -> None:
    """Print the share of each study in the work of each tenth of the time."""
    total = looks[-1].seconds
    before = (0,) * len(STUDIES)
    for part in range(1, 11):
        last = [look for look in looks if look.seconds <= total * part / 10][-1].epochs
        done = [now - then for now, then in zip(last, before, strict=True)]
        shares = " ".join(f"{share / max(1, sum(done)):6.0%}" for share in done)
        print(f"to {total * part / 10:5.0f} s: {shares}   of {sum(done)} epochs")
        before = last


def check_fair(looks: list[Look], each: int) -> None:
    """Check that no study waited for another's end: all were begun before any was at its half, or soon after."""
    begun = next(look for look in looks if all(look.epochs))
    print(f"all begun after {begun.seconds:.0f} s, when the studies had {begun.epochs} of {each} epochs")
    assert max(begun.epochs) < each


def check_all_done(url: str, trials: int) -> None:
    """Check that each trial of each study was trained once, and that each has one final, read once."""
    with closing(open_records(parse_storage(url))) as records:
        assert {name: standing.state for name, standing in standings(records).items()} == dict.fromkeys(STUDIES, "done")
        storage = optuna_storage(parse_storage(url))
        for study in STUDIES:
            runs = records.runs(study=study)
            assert twice(runs) == []
            assert {run.state for run in runs} == {State.COMPLETE}, Counter(run.state for run in runs)
            searched = [run for run in runs if run.role is not Role.FINAL]
            assert len(searched) == trials
            assert len({run.trial for run in searched}) == trials
            ended = optuna.load_study(study_name=study, storage=storage).get_trials(deepcopy=False)
            assert Counter(trial.state for trial in ended)[TrialState.COMPLETE] == trials
            assert {trial.state for trial in ended} <= {TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING}
            [final] = records.finals(study)
            assert final.read_at is not None
            for run in runs:
                epochs = [epoch.epoch for epoch in records.curve(run.id)]
                assert epochs == list(range(1, run.epochs_asked + 1))
        with records.engine.connect() as connection:
            assert connection.scalar(select(func.count()).select_from(tables.leases)) == 0
            tested = Counter(connection.scalars(select(tables.test_readings.c.run)))
        assert set(tested.values()) == {1}
        storage.remove_session()
        storage.engine.dispose()


def test_a_worker_outlives_a_database_that_is_away_for_longer_than_the_retries(
    request: pytest.FixtureRequest, postgres_database: str, tmp_path: Path
) -> None:
    server = request.getfixturevalue("postgres_server")
    path = study_file(tmp_path, trials="3", epochs="25", seeds="[]")
    with Command(tmp_path, "search", path, "--study", "s", "--storage", postgres_database, "--queue") as person:
        assert person.wait() == 0, person.told()
    engine = create_engine(parse_storage(postgres_database))

    def has_begun() -> bool:
        with engine.connect() as connection:
            return bool(connection.scalar(select(func.count()).select_from(tables.epochs)))

    arguments = ("worker", "--all", "--until-idle", "--storage", postgres_database)
    with Command(tmp_path, *arguments, BUDGETNAS_PATIENCE="2s", BUDGETNAS_GRACE="1h", **SETTINGS) as worker:
        wait_until(has_begun, worker)
        engine.dispose()
        server.stop("immediate")
        try:
            time.sleep(8)
            assert worker.code is None, worker.told()
        finally:
            server.start()
        assert worker.wait() == 0, worker.told()
        assert "waiting until the database answers" in worker.told()
    with closing(open_records(parse_storage(postgres_database))) as records:
        assert [run.state for run in records.runs(study="s")] == [State.COMPLETE] * 3
