from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import psutil
import pytest
from sqlalchemy import delete, event, select, update

from budgetnas.architecture import named
from budgetnas.errors import LeaseLost
from budgetnas.metrics import Epoch
from budgetnas.space.recipe import Recipe
from budgetnas.storage import Records, Role, RunKey, State, tables
from budgetnas.storage.engine import exclusive, open_engine
from budgetnas.storage.leases import (
    Lease,
    holding,
    in_training,
    loss_reasons,
    note_work,
    release_stale,
    renew,
    slots_in_use,
    take_lease,
    take_slot,
    trained,
)
from budgetnas.storage.opening import create_tables
from budgetnas.storage.settings import GRACE_SECONDS, Settings
from budgetnas.storage.urls import parse_storage

STUDY = "s"
EPOCH = Epoch(1, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0)
SPAWN = multiprocessing.get_context("spawn")
V2 = named("v2")
RECIPE = Recipe(optimizer="sgd", learning_rate=0.1, epochs=1, t_max=1)


@contextlib.contextmanager
def opened(url: str, settings: Settings | None = None) -> Iterator[Records]:
    engine = open_engine(parse_storage(url))
    with exclusive(engine):
        create_tables(engine)
    yield Records(engine, settings)
    engine.dispose()


def start(records: Records, *, role: Role = Role.SEARCH, study: str = STUDY) -> int:
    key = RunKey(V2.digest, RECIPE.digest, "data", 0, role)
    return records.start_run(key=key, architecture=V2, recipe=RECIPE, data="", environment="", study=study)


def ended(records: Records, state: State, *, role: Role = Role.SEARCH, study: str = STUDY) -> None:
    records.finish_run(start(records, role=role, study=study), state)


def release(records: Records) -> frozenset[int] | None:
    with exclusive(records.engine):
        return release_stale(records, STUDY)


def test_complete_and_pruned_runs_of_the_search_count(records: Records) -> None:
    for role in Role:
        for state in State:
            ended(records, state, role=role)
    ended(records, State.COMPLETE, study="two")
    assert trained(records, STUDY) == 4
    assert trained(records, "two") == 1


def test_no_more_slots_than_trials(records: Records) -> None:
    ended(records, State.COMPLETE)
    first, second = take_slot(records, STUDY, 3), take_slot(records, STUDY, 3)
    assert first is not None
    assert second is not None
    assert first != second
    assert take_slot(records, STUDY, 3) is None
    assert take_slot(records, STUDY, 4) is not None
    assert take_slot(records, "two", 1) is not None
    assert (slots_in_use(records, STUDY), slots_in_use(records, "two")) == (3, 1)


def test_a_failed_run_frees_its_slot(records: Records) -> None:
    slot = take_slot(records, STUDY, 1)
    assert slot is not None
    with holding(records, slot):
        ended(records, State.FAILED)
    assert take_slot(records, STUDY, 1) is not None


def test_a_slot_is_released_however_its_process_ends(records: Records) -> None:
    slot = take_slot(records, STUDY, 1)
    assert slot is not None
    with pytest.raises(RuntimeError, match="stop"), holding(records, slot):
        raise RuntimeError("stop")
    assert slots_in_use(records, STUDY) == 0


def test_a_run_that_ends_while_another_asks_is_not_overlooked(storage_url: str) -> None:
    """Whatever another process does between two steps of this one, the only slot is taken, or its run counts.

    SQLite's transactions exclude each other, so the other can act between them only; in PostgreSQL between any two
    statements.
    """
    moment = "checkout" if storage_url.startswith("sqlite") else "before_cursor_execute"
    fired = True
    boundary = 0
    while fired:
        boundary += 1
        study = f"study {boundary}"
        with opened(storage_url) as asker, opened(storage_url) as other, contextlib.ExitStack() as at_work:
            slot = take_slot(other, study, 1)
            assert slot is not None
            at_work.enter_context(holding(other, slot))
            run = start(other, study=study)
            passed = 0

            def finish(*_: object) -> None:
                nonlocal passed
                passed += 1
                if passed == boundary:  # noqa: B023  (called within this turn only)
                    other.finish_run(run, State.COMPLETE)  # noqa: B023
                    at_work.close()

            event.listen(asker.engine, moment, finish)
            assert take_slot(asker, study, 1) is None, f"at boundary {boundary}"
            fired = passed >= boundary
    assert boundary > 1


def compete(url: str, trials: int, together: Barrier) -> None:
    """Search as a worker does, with trainings that take no time; the first worker creates the storage."""
    together.wait()
    with opened(url) as records:
        while trained(records, STUDY) < trials:
            slot = take_slot(records, STUDY, trials)
            if slot is None:
                time.sleep(0.005)
                continue
            with holding(records, slot):
                run = start(records)
                note_work(records, slot, trial=run)
                records.finish_run(run, State.COMPLETE)


@pytest.mark.slow
def test_processes_that_race_for_slots_train_exactly_what_was_asked_for(storage_url: str) -> None:
    workers, trials = 3, 20
    together = SPAWN.Barrier(workers)
    processes = [SPAWN.Process(target=compete, args=(storage_url, trials, together)) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * workers
    with opened(storage_url) as records:
        assert [run.state for run in records.runs()] == [State.COMPLETE] * trials
        assert slots_in_use(records, STUDY) == 0


def work(url: str, trial: int | None, taken: Event) -> None:
    """Take a slot and never give it back."""
    with opened(url) as records:
        slot = take_slot(records, STUDY, 1)
        assert slot is not None
        if trial is not None:
            note_work(records, slot, trial=trial)
        taken.set()
        time.sleep(600)


def test_the_slot_of_a_killed_process_is_free_again(storage_url: str) -> None:
    taken = SPAWN.Event()
    process = SPAWN.Process(target=work, args=(storage_url, 7, taken))
    process.start()
    assert taken.wait(60)
    assert process.pid is not None
    with opened(storage_url) as records:
        assert release(records) == {7}
        assert take_slot(records, STUDY, 1) is None
        os.kill(process.pid, signal.SIGKILL)
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert release(records) == frozenset()  # dead, though its parent has not asked after it yet
        assert take_slot(records, STUDY, 1) is not None
    process.join()


def test_recovery_waits_for_a_live_lease_without_a_trial(storage_url: str) -> None:
    taken = SPAWN.Event()
    process = SPAWN.Process(target=work, args=(storage_url, None, taken))
    process.start()
    assert taken.wait(60)
    with opened(storage_url) as records:
        assert release(records) is None
        process.kill()
        process.join()
        assert release(records) == frozenset()


def test_a_lost_trial_s_slot_is_free_only_when_the_trial_is_requeued(storage_url: str) -> None:
    """Else a process that asks in between trains a new trial, and the requeued trial is left over."""
    taken = SPAWN.Event()
    process = SPAWN.Process(target=work, args=(storage_url, 7, taken))
    process.start()
    assert taken.wait(60)
    with opened(storage_url) as records:
        slot = take_slot(records, STUDY, 2)
        assert slot is not None
        process.kill()
        process.join()
        assert release(records) is None, "this process has a slot and no trial yet"
        assert take_slot(records, STUDY, 2) is None
        note_work(records, slot, trial=8)
        assert release(records) == {8}
        assert take_slot(records, STUDY, 2) is not None


def changed(records: Records, slot: Lease, **values: object) -> None:
    with records.engine.begin() as connection:
        connection.execute(update(tables.leases).where(tables.leases.c.owner == slot.owner).values(**values))


def test_a_process_that_reuses_the_pid_is_not_the_lease_s_process(records: Records) -> None:
    slot = take_slot(records, STUDY, 1)
    assert slot is not None
    note_work(records, slot, trial=1)
    assert release(records) == {1}
    changed(records, slot, process_started_at=psutil.Process().create_time() - 60)
    assert release(records) == frozenset()
    (reason,) = loss_reasons(records, STUDY, 1)
    assert reason.endswith("is gone") and str(os.getpid()) in reason


def test_a_process_on_another_machine_lives_while_it_sends_heartbeats(records: Records) -> None:
    slot = take_slot(records, STUDY, 1)
    assert slot is not None
    changed(records, slot, host="another-machine", pid=1, trial=5)
    assert release(records) == {5}
    changed(records, slot, expires_at=time.time() - 60)
    assert release(records) == frozenset()
    assert slots_in_use(records, STUDY) == 0
    assert loss_reasons(records, STUDY, 5) == ("process 1 on another-machine sent no heartbeat for 180 s",)


def test_a_lease_lasts_its_grace_period_by_the_clock_of_the_database(records: Records) -> None:
    slot = take_slot(records, STUDY, 1)
    assert slot is not None
    with records.engine.connect() as connection:
        expires = float(connection.scalar(select(tables.leases.c.expires_at)) or 0)
    assert abs(expires - time.time() - GRACE_SECONDS) < 5
    assert renew(records, slot)


def test_a_heartbeat_keeps_a_lease_alive_beyond_its_grace_period(storage_url: str) -> None:
    with opened(storage_url, Settings(grace_seconds=1.0)) as records:
        slot = take_slot(records, STUDY, 1)
        assert slot is not None
        note_work(records, slot, trial=1)
        with holding(records, slot) as heartbeat:
            for _ in range(6):
                time.sleep(0.5)
                assert release(records) == {1}
                heartbeat.check()
        assert loss_reasons(records, STUDY, 1) == ()


def test_a_process_that_lost_its_lease_commits_nothing(records: Records) -> None:
    slot = take_slot(records, STUDY, 1)
    assert slot is not None
    with holding(records, slot) as heartbeat:
        run = start(records)
        changed(records, slot, process_started_at=0.0)
        with opened(records.engine.url.render_as_string(hide_password=False)) as other:
            assert release(other) == frozenset()
            other.add_epoch(run, EPOCH)
        for write in (
            lambda: records.add_epoch(run, EPOCH),
            lambda: records.finish_run(run, State.COMPLETE),
            lambda: records.set_goal(STUDY, 9, "tpe"),
            lambda: note_work(records, slot, trial=1),
            lambda: start(records),
            lambda: renew(records, slot),
        ):
            with pytest.raises(LeaseLost):
                write()
        heartbeat.check()
    assert [run.state for run in records.runs()] == [State.RUNNING]
    assert records.goal(STUDY) is None
    records.finish_run(run, State.FAILED)  # the fence stands for the lease alone
    assert [run.state for run in records.runs()] == [State.FAILED]


def test_the_heartbeat_notices_that_its_lease_is_lost(storage_url: str) -> None:
    with opened(storage_url, Settings(grace_seconds=1.0)) as records:
        slot = take_slot(records, STUDY, 1)
        assert slot is not None
        with holding(records, slot) as heartbeat:
            with opened(storage_url) as other, other.engine.begin() as connection:
                connection.execute(delete(tables.leases))
            deadline = time.monotonic() + 30
            with pytest.raises(LeaseLost):
                while time.monotonic() < deadline:
                    heartbeat.check()
                    time.sleep(0.05)


def test_a_run_outside_a_search_has_a_lease_too(records: Records) -> None:
    run = start(records, role=Role.REPLAY)
    with exclusive(records.engine):
        lease = take_lease(records, run=run)
        assert in_training(records, run, ignored=None)
        assert not in_training(records, run, ignored=lease)
        changed(records, lease, process_started_at=0.0)
        assert not in_training(records, run, ignored=None)
    assert slots_in_use(records, STUDY) == 0


def add_ones(url: str, file: Path, times: int, together: Barrier) -> None:
    engine = open_engine(parse_storage(url))
    together.wait()
    for _ in range(times):
        with exclusive(engine):
            number = int(file.read_text())
            time.sleep(0.001)
            file.write_text(str(number + 1))
    engine.dispose()


@pytest.mark.slow
def test_the_lock_excludes_other_processes(storage_url: str, tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_text("0")
    together = SPAWN.Barrier(2)
    processes = [SPAWN.Process(target=add_ones, args=(storage_url, file, 50, together)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert file.read_text() == "100"
