from __future__ import annotations

import dataclasses
import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from budgetnas.architecture import Architecture, count, named
from budgetnas.architecture.budget import Budget
from budgetnas.metrics import Epoch
from budgetnas.space.recipe import Augmentation, Normalisation, Recipe
from budgetnas.storage import OverLimit, Records, Rejection, Role, RunKey, State

V1, V2 = named("v1"), named("v2")
RECIPE = Recipe(
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,
    epochs=3,
    t_max=7,
    augmentation=Augmentation(flip=False, rotation=12.5),
    normalisation=Normalisation(mean=(0.1,), std=(1 / 3,)),
)
EPOCHS = tuple(
    Epoch(
        number,
        train_loss=2.3 / number,
        train_accuracy=0.1 + number / 7,
        eval_loss=1e-300 / number,
        eval_accuracy=1 / (3 * number),
        learning_rate=0.1,
        seconds=1.5,
        eval_balanced_accuracy=1 / (7 * number),
        eval_correct=(number, 0, 10**6),
    )
    for number in (1, 2, 3)
)


def key(architecture: Architecture = V2, *, seed: int = 0, role: Role = Role.SEARCH, data: str = "d") -> RunKey:
    return RunKey(architecture.digest, RECIPE.digest, data, seed, role)


def start(records: Records, of: RunKey | None = None, architecture: Architecture = V2, **more: Any) -> int:
    return records.start_run(
        key=of or key(architecture),
        architecture=architecture,
        recipe=RECIPE,
        data='{"name":"digits"}',
        environment='{"device":"cpu"}',
        **more,
    )


def test_a_run_is_read_as_it_was_written(records: Records) -> None:
    before = time.time()
    number = start(records, study="first", trial=4, label="v2-sgd", of=key(seed=2**40))
    for epoch in EPOCHS:
        records.add_epoch(number, epoch)
    records.finish_run(number, State.COMPLETE, weights_sha256="ab")
    run = records.run(number)
    assert before <= run.started_at <= (run.ended_at or 0) <= time.time()
    assert run.seconds == (run.ended_at or 0) - run.started_at
    plain = dataclasses.asdict(run)
    for name in ("id", "started_at", "ended_at"):
        del plain[name]
    assert plain == {
        "study": "first",
        "trial": 4,
        "role": Role.SEARCH,
        "label": "v2-sgd",
        "architecture": dataclasses.asdict(V2),
        **dict(zip(("params", "macs", "activations"), count(V2), strict=False)),
        "recipe": RECIPE,
        "data": '{"name":"digits"}',
        "seed": 2**40,
        "environment": '{"device":"cpu"}',
        "state": State.COMPLETE,
        "reason": "",
        "epochs_asked": 3,
        "epochs_done": 3,
        "weights_sha256": "ab",
    }
    assert run.recipe.digest == RECIPE.digest
    assert run.architecture.digest == V2.digest


def test_curves_are_read_to_the_last_bit(records: Records) -> None:
    first, second, without = start(records), start(records), start(records)
    for epoch in EPOCHS:
        records.add_epoch(first, epoch)
    records.add_epoch(second, EPOCHS[0])
    assert records.curve(first) == EPOCHS
    assert records.curves([first, second, without]) == {first: EPOCHS, second: EPOCHS[:1]}
    assert records.curve(without) == ()


def test_a_running_run_is_shown_as_running(records: Records) -> None:
    number = start(records)
    records.add_epoch(number, EPOCHS[0])
    run = records.run(number)
    assert (run.state, run.epochs_done, run.ended_at, run.seconds) == (State.RUNNING, 1, None, None)


def test_an_epoch_is_recorded_once(records: Records) -> None:
    number = start(records)
    records.add_epoch(number, EPOCHS[0])
    again = replace(EPOCHS[0], eval_accuracy=0.25)
    records.add_epoch(number, again)
    assert records.curve(number) == (again,)


def test_an_epoch_of_no_run_is_refused(records: Records) -> None:
    with pytest.raises(IntegrityError):
        records.add_epoch(17, EPOCHS[0], test_reason="replay")
    assert records.test_readings(17) == 0  # the whole transaction is undone


def test_a_restart_deletes_the_epochs_but_keeps_test_evaluations(records: Records) -> None:
    number = start(records)
    for epoch in EPOCHS[:2]:
        records.add_epoch(number, epoch, test_reason="replay")
    records.restart_run(number, '{"micro_batch":64}')
    run = records.run(number)
    assert (run.epochs_done, run.environment, run.state) == (0, '{"micro_batch":64}', State.RUNNING)
    assert records.curve(number) == ()
    records.add_epoch(number, EPOCHS[0], test_reason="replay")
    assert records.test_readings(number) == 3


def test_test_evaluations_are_counted_for_each_run(records: Records) -> None:
    looked, not_looked = start(records), start(records)
    for epoch in EPOCHS:
        records.add_epoch(looked, epoch, test_reason="replay of v2-sgd")
        records.add_epoch(not_looked, epoch)
    assert (records.test_readings(looked), records.test_readings(not_looked)) == (3, 0)


def test_a_complete_run_is_found_by_every_part_of_its_key(records: Records) -> None:
    number = start(records, study="first")
    assert records.find_complete(key(), study="first") is None
    records.finish_run(number, State.COMPLETE)
    found = records.find_complete(key(), study="first")
    assert found is not None
    assert found.id == number
    assert records.find_complete(key(), study="second") is None
    assert records.find_complete(key()) is None
    others = (
        key(V1),
        dataclasses.replace(key(), recipe="other"),
        key(data="other"),
        key(seed=1),
        key(role=Role.REPEAT),
    )
    for other in others:
        assert records.find_complete(other, study="first") is None


@pytest.mark.parametrize("state", [State.PRUNED, State.FAILED, State.INTERRUPTED])
def test_a_run_that_did_not_complete_is_not_found(records: Records, state: State) -> None:
    records.finish_run(start(records), state, "why")
    assert records.find_complete(key()) is None


def test_the_first_of_equal_complete_runs_is_found(records: Records) -> None:
    numbers = [start(records) for _ in range(3)]
    for number in reversed(numbers):
        records.finish_run(number, State.COMPLETE)
    found = records.find_complete(key())
    assert found is not None
    assert found.id == numbers[0]


def test_runs_are_listed_by_study_and_role(records: Records) -> None:
    first = start(records, study="first")
    final = start(records, study="first", of=key(role=Role.FINAL))
    second = start(records, study="second", architecture=V1)
    replay = start(records, of=key(role=Role.REPLAY))
    assert [run.id for run in records.runs()] == [first, final, second, replay]
    assert [run.id for run in records.runs(study="first")] == [first, final]
    assert [run.id for run in records.runs(study="first", role=Role.FINAL)] == [final]
    assert [run.id for run in records.runs(role=Role.REPLAY)] == [replay]
    assert records.runs(study="three") == ()


def test_only_running_trainings_of_that_trial_are_interrupted(records: Records) -> None:
    running = start(records, study="first", trial=3)
    failed = start(records, study="first", trial=3)
    records.finish_run(failed, State.FAILED, "why")
    bystanders = [start(records, study="first", trial=4), start(records, study="second", trial=3)]
    records.interrupt_runs_of("first", 3)
    ended = records.run(running)
    assert (ended.state, ended.reason) == (State.INTERRUPTED, "interrupted")
    assert ended.ended_at is not None
    assert records.run(failed).state is State.FAILED
    assert {records.run(run).state for run in bystanders} == {State.RUNNING}


def test_rejections_are_read_as_they_were_written(records: Records) -> None:
    written = (
        Rejection(V2, "sampler", 1_000_000, 891_658, trial=2),
        Rejection(V1, "seed v1-sgd", 10**18, 2**60),
        Rejection(V2, "sampler", 5_000_000, 0, duplicate=True, trial=0),
    )
    records.reject("first", written[:2])
    records.reject("first", written[2:])
    records.reject("second", written[:1])
    records.reject("first", [])
    assert records.rejections("first") == written
    assert records.rejections("second") == written[:1]
    assert records.rejections("three") == ()
    assert records.rejection_counts("first") == (2, 1)
    assert records.rejection_counts("second") == (1, 0)
    assert records.rejection_counts("three") == (0, 0)


def test_rejections_are_counted_by_the_limits_that_they_exceed(records: Records) -> None:
    budget = Budget(2_000_000, 300_000_000, 600_000)
    over_params, over_macs = Rejection.of(V1, "sampler", budget, 1), Rejection.of(V2, "seed v2-sgd", budget)
    over_all = Rejection.of(named("resnet18"), "sampler", budget, 1)
    duplicate = Rejection.of(named("v1", size=4), "sampler", Budget(10**9))
    assert (over_params.overshoot, over_macs.overshoot, duplicate.overshoot) == (2_903_242, 0, 0)
    assert [rejection.duplicate for rejection in (over_params, over_macs, over_all, duplicate)] == [
        False,
        False,
        False,
        True,
    ]
    records.reject("first", [over_params, over_macs, over_all, over_macs, duplicate])
    records.reject("second", [over_params])
    assert records.rejections("first")[1] == over_macs
    assert records.rejection_counts("first") == (4, 1)
    assert records.over_limits("first", budget) == (
        OverLimit("params", 2_000_000, 2),
        OverLimit("macs", 300_000_000, 3),
        OverLimit("activations", 600_000, 1),
    )
    in_bytes = Budget(2_000_000, max_weight_bytes=2 << 20, max_ram_bytes=1)
    everything = len([one for one in records.rejections("first") if not one.duplicate])
    assert records.over_limits("first", in_bytes)[1:] == (
        OverLimit("weight_bytes", 2 << 20, 2),
        OverLimit("ram_bytes", 1, everything),
    )
    assert records.over_limits("three", in_bytes)[2] == OverLimit("ram_bytes", 1, 0)
    assert records.over_limits("second", Budget(2_000_000)) == (OverLimit("params", 2_000_000, 1),)
    assert records.over_limits("three", Budget(1)) == (OverLimit("params", 1, 0),)


def test_specifications_are_kept_once_each(records: Records) -> None:
    assert records.specification("first") is None
    records.save_specification("second", '{"b":2}', "2")
    records.save_specification("first", '{"a":1}', "1")
    assert records.specification("first") == '{"a":1}'
    assert records.study_names() == ("second", "first")
    with pytest.raises(IntegrityError):
        records.save_specification("first", "{}", "3")
    assert records.specification("first") == '{"a":1}'
