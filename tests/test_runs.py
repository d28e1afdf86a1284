from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from quiet import Quiet

from budgetnas.architecture import Architecture, count
from budgetnas.data import DataRequest, load_data
from budgetnas.errors import Interrupted, RunFailedError
from budgetnas.metrics import Epoch
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages, RunRequest, record_training
from budgetnas.space.candidates import Candidate
from budgetnas.space.recipe import Recipe
from budgetnas.storage import Records, Role, State
from budgetnas.training import RuntimeConfig
from budgetnas.training.device import DeviceImages, statistics, to_device

ARCHITECTURE = Architecture((1,), (8,), (1,), stem_width=8, in_channels=1, size=8)
RECIPE = Recipe(optimizer="sgd", learning_rate=0.1, epochs=2, t_max=2, batch=64)
CANDIDATE = Candidate(ARCHITECTURE, RECIPE)
CPU = RuntimeConfig("cpu", "float32", threads=1)


@pytest.fixture(scope="module")
def images() -> RunImages:
    data = load_data(DataRequest("digits"))
    cpu = torch.device("cpu")
    fit = to_device(data.train, cpu)
    fit = DeviceImages(fit.images[:200], fit.labels[:200])
    return RunImages(data.identity, fit, to_device(data.validation, cpu), statistics(data.train))


def request(seed: int = 0, **recipe: Any) -> RunRequest:
    changed = Recipe.model_validate(RECIPE.model_dump() | recipe)
    candidate = Candidate(ARCHITECTURE, changed)
    return RunRequest(candidate, seed, Role.SEARCH, study="one", trial=4, label="v2-sgd")


def test_a_training_is_recorded_with_every_epoch(records: Records, images: RunImages) -> None:
    listener = Quiet()
    number = record_training(request(), images, CPU, records, Stopper(), listener)
    run = records.run(number)
    assert (run.state, run.reason, run.epochs_done) == (State.COMPLETE, "", 2)
    assert (run.study, run.trial, run.label, run.role, run.seed) == ("one", 4, "v2-sgd", Role.SEARCH, 0)
    assert (run.architecture, run.recipe) == (ARCHITECTURE, RECIPE)
    assert run.params == count(ARCHITECTURE).params
    assert run.weights_sha256 is not None
    assert [attempt.epochs_before for attempt in records.attempts(number)] == [0]
    assert json.loads(run.data) == images.identity.model_dump()
    assert json.loads(run.environment)["threads"] == 1
    assert set(json.loads(run.environment)) >= {"device", "device_name", "precision", "torch", "python", "budgetnas"}
    assert records.curve(number) == tuple(listener.epochs)
    assert records.test_readings(number) == 0


def test_a_complete_training_is_found_by_its_key(records: Records, images: RunImages) -> None:
    number = record_training(request(), images, CPU, records, Stopper(), Quiet())
    found = records.find_complete(request().key(images.identity), study="one")
    assert found is not None
    assert found.id == number
    assert records.find_complete(request(seed=1).key(images.identity), study="one") is None
    assert records.find_complete(request(batch=32).key(images.identity), study="one") is None
    other = images.identity.model_copy(update={"subset": 200})
    assert records.find_complete(request().key(other), study="one") is None


def test_a_run_repeated_from_its_record_gives_the_same_bits(records: Records, images: RunImages) -> None:
    first = record_training(request(), images, CPU, records, Stopper(), Quiet())
    run = records.run(first)
    again = RunRequest(Candidate(run.architecture, run.recipe), run.seed, Role.REPLAY)
    second = record_training(again, images, CPU, records, Stopper(), Quiet())
    curve, other = records.curve(first), records.curve(second)
    assert [replace(epoch, seconds=0) for epoch in curve] == [replace(epoch, seconds=0) for epoch in other]
    assert run.weights_sha256 == records.run(second).weights_sha256


def test_every_evaluation_on_the_test_split_is_recorded(records: Records, images: RunImages) -> None:
    looking = replace(images, test_reason="replay of v2-sgd")
    number = record_training(request(), looking, CPU, records, Stopper(), Quiet())
    assert records.test_readings(number) == 2


@dataclass
class Signalling(Quiet):
    """Sends a real signal after the first epoch."""

    number: signal.Signals = signal.SIGTERM

    def on_epoch_end(self, epoch: Epoch) -> None:
        super().on_epoch_end(epoch)
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_is_recorded_as_such(
    records: Records, images: RunImages, number: signal.Signals, code: int
) -> None:
    stopper = Stopper()
    with stopper.listening(), pytest.raises(Interrupted) as raised:
        record_training(request(), images, CPU, records, stopper, Signalling(number=number))
    assert raised.value.exit_code == code
    (run,) = records.runs()
    assert (run.state, run.reason, run.epochs_done) == (State.INTERRUPTED, "interrupted", 1)
    assert run.ended_at is not None
    assert records.find_complete(request().key(images.identity), study="one") is None


def test_a_failed_training_has_a_reason(records: Records, images: RunImages) -> None:
    wild = request(learning_rate=100, weight_decay=1, batch=4, epochs=9)
    with pytest.raises(RunFailedError, match="loss is") as raised:
        record_training(wild, images, CPU, records, Stopper(), Quiet())
    (run,) = records.runs()
    assert (run.state, run.reason) == (State.FAILED, raised.value.reason)


def test_an_unexpected_error_is_a_failed_run(records: Records, images: RunImages) -> None:
    class Broken(Quiet):
        def on_epoch_end(self, epoch: Epoch) -> None:
            raise ZeroDivisionError("of the listener\nwith a second line")

    with pytest.raises(RunFailedError, match=r"^ZeroDivisionError: of the listener$") as raised:
        record_training(request(), images, CPU, records, Stopper(), Broken())
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    (run,) = records.runs()
    assert (run.state, run.reason) == (State.FAILED, "ZeroDivisionError: of the listener")
