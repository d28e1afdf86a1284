"""Checkpoints of runs: an interrupted training resumes from the last valid checkpoint, to the same bits."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from quiet import Quiet

from budgetnas.architecture import Architecture
from budgetnas.data import DataRequest, load_data
from budgetnas.errors import Interrupted
from budgetnas.metrics import Epoch
from budgetnas.runs.checkpoints import KEPT, delete_old_checkpoints, run_folder
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.recording import RunImages, RunRequest, record_training
from budgetnas.space.candidates import Candidate
from budgetnas.space.recipe import Recipe
from budgetnas.storage import Records, Role, Run, State
from budgetnas.storage.opening import open_records
from budgetnas.storage.settings import Settings
from budgetnas.storage.urls import parse_storage
from budgetnas.training import RuntimeConfig
from budgetnas.training.device import DeviceImages, statistics, to_device

EPOCHS = 6
ARCHITECTURE = Architecture((1,), (8,), (1,), stem_width=8, in_channels=1, size=8)
RECIPE = Recipe(optimizer="sgd", learning_rate=0.05, epochs=EPOCHS, t_max=EPOCHS, batch=50)
CPU = RuntimeConfig(device="cpu", precision="float32", threads=1)
SPAWN = multiprocessing.get_context("spawn")


def request(seed: int = 0) -> RunRequest:
    return RunRequest(Candidate(ARCHITECTURE, RECIPE), seed, Role.REPLAY, label="v2-sgd")


def few_images() -> RunImages:
    data = load_data(DataRequest("digits"))
    cpu = torch.device("cpu")
    fit = to_device(data.train, cpu)
    return RunImages(
        data.identity,
        DeviceImages(fit.images[:200], fit.labels[:200]),
        to_device(data.validation, cpu),
        statistics(data.train),
    )


@pytest.fixture(scope="module")
def images() -> RunImages:
    return few_images()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have checkpoints kept in a folder of the test, after every epoch."""
    monkeypatch.setenv("BUDGETNAS_CHECKPOINT_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("BUDGETNAS_CHECKPOINT_EVERY", "0")
    return tmp_path / "kept"


@pytest.fixture
def often(records: Records) -> Records:
    records.settings = Settings.of_environment()
    return records


@dataclass
class Stopping(Quiet):
    """Asks to stop after an epoch."""

    after: int = 3

    def on_epoch_end(self, epoch: Epoch) -> None:
        super().on_epoch_end(epoch)
        if epoch.epoch == self.after:
            raise Interrupted


def trained(records: Records, images: RunImages, listener: Quiet | None = None, runtime: RuntimeConfig = CPU) -> Run:
    return records.run(record_training(request(), images, runtime, records, Stopper(), listener or Quiet()))


def interrupted(records: Records, images: RunImages, after: int = 3) -> Run:
    with pytest.raises(Interrupted):
        record_training(request(), images, CPU, records, Stopper(), Stopping(after=after))
    return records.runs()[-1]


def files(records: Records, run: Run) -> list[Path]:
    return sorted(run_folder(records, run.id).iterdir())


@pytest.fixture(scope="module")
def whole(images: RunImages, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, tuple[Epoch, ...]]:
    """A training that nothing interrupted, and its curve."""
    url = parse_storage(f"sqlite:///{tmp_path_factory.mktemp('whole') / 'b.db'}")
    with closing(open_records(url)) as records:
        run = trained(records, images)
        return run, same(records.curve(run.id))


def same(curve: tuple[Epoch, ...]) -> tuple[Epoch, ...]:
    return tuple(replace(epoch, seconds=0.0) for epoch in curve)


def test_an_interrupted_training_resumes_to_the_same_bits_in_the_same_record(
    often: Records, images: RunImages, whole: tuple[Run, tuple[Epoch, ...]]
) -> None:
    run = interrupted(often, images)
    assert (run.state, run.epochs_done) == (State.INTERRUPTED, 3)
    assert len(files(often, run)) == KEPT == len(often.checkpoints(run.id))
    listener = Quiet()
    again = trained(often, images, listener)
    assert [epoch.epoch for epoch in listener.epochs] == [4, 5, 6] or [e.epoch for e in listener.epochs] == [3, 4, 5, 6]
    assert again.id == run.id and len(often.runs()) == 1
    assert again.weights_sha256 == whole[0].weights_sha256
    assert same(often.curve(run.id)) == whole[1]
    assert [attempt.epochs_before for attempt in often.attempts(run.id)] == [0, EPOCHS - len(listener.epochs)]
    assert any("resumes after epoch" in notice for notice in listener.notices)
    assert not run_folder(often, run.id).exists() and often.checkpoints(run.id) == ()


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    file.write_bytes(b"" if how == "empty" else data[: len(data) // 2] if how == "truncated" else data)
    if how == "gone":
        file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "gone"])
@pytest.mark.parametrize("number", [1, KEPT])
def test_a_damaged_checkpoint_is_reported_and_the_previous_is_used(
    often: Records, images: RunImages, whole: tuple[Run, tuple[Epoch, ...]], how: str, number: int
) -> None:
    run = interrupted(often, images, after=4)
    newest_first = files(often, run)[::-1]
    for file in newest_first[:number]:
        damage(file, how)
    listener = Quiet()
    again = trained(often, images, listener)
    told = "cannot be read" if how == "gone" else "is damaged"
    assert sum(told in notice for notice in listener.notices) == number
    before = listener.epochs[0].epoch - 1
    assert before == (0 if number == KEPT else int(newest_first[1].name.split("-")[1]))
    assert again.weights_sha256 == whole[0].weights_sha256
    assert same(often.curve(run.id)) == whole[1]


def test_checkpoints_respect_the_interval(records: Records, images: RunImages) -> None:
    records.settings = Settings(checkpoint_seconds=3600, checkpoint_dir=Settings.of_environment().checkpoint_dir)
    run = interrupted(records, images, after=4)
    assert len(records.checkpoints(run.id)) == 1, "that of the interrupt"


def test_training_continues_when_no_checkpoint_can_be_written(
    often: Records, images: RunImages, place: Path, whole: tuple[Run, tuple[Epoch, ...]]
) -> None:
    place.write_text("a file where the folder should be")
    listener = Quiet()
    assert trained(often, images, listener).weights_sha256 == whole[0].weights_sha256
    (notice,) = [text for text in listener.notices if "no checkpoint can be written" in text]
    assert str(place) in notice


def test_the_record_has_both_runtimes(often: Records, images: RunImages) -> None:
    run = interrupted(often, images)
    with often.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE runs SET environment = replace(environment, 'cpu', 'cuda:0')")
    trained(often, images)
    _, second = often.attempts(run.id)
    assert second.epochs_before > 0 and second.environment == CPU.to_json()
    assert often.run(run.id).environment != CPU.to_json()


def train_slowly(url: str, epoch_ended: object) -> None:
    class Slow(Quiet):
        def on_epoch_end(self, epoch: Epoch) -> None:
            epoch_ended.set()  # type: ignore[attr-defined]
            time.sleep(0.3)

    with closing(open_records(parse_storage(url))) as records:
        record_training(request(), few_images(), CPU, records, Stopper(), Slow())


def test_a_killed_training_resumes_in_another_process(
    storage_url: str, images: RunImages, whole: tuple[Run, tuple[Epoch, ...]]
) -> None:
    with closing(open_records(parse_storage(storage_url))) as records:
        event = SPAWN.Event()
        process = SPAWN.Process(target=train_slowly, args=(storage_url, event))
        process.start()
        assert event.wait(60)
        while len(records.checkpoints(records.runs()[0].id)) < 2:
            time.sleep(0.02)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        listener = Quiet()
        run = trained(records, images, listener)
        assert 0 < len(listener.epochs) < EPOCHS
        assert (len(records.runs()), run.state) == (1, State.COMPLETE)
        assert run.weights_sha256 == whole[0].weights_sha256


@pytest.mark.slow
def test_two_processes_train_the_same_run_once(storage_url: str, images: RunImages) -> None:
    with closing(open_records(parse_storage(storage_url))) as records:
        event = SPAWN.Event()
        process = SPAWN.Process(target=train_slowly, args=(storage_url, event))
        process.start()
        assert event.wait(60)
        listener = Quiet()
        run = trained(records, images, listener)
        process.join(60)
        assert process.exitcode == 0
        assert (len(records.runs()), run.state, listener.epochs) == (1, State.COMPLETE, [])
        assert "another process is training run" in listener.notices[0]


def test_files_of_ended_runs_are_deleted(often: Records, images: RunImages) -> None:
    kept = interrupted(often, images)
    gone = run_folder(often, kept.id + 1)
    gone.mkdir()
    (gone / "epoch-00001-ab.ckpt").write_bytes(b"left by a process that was killed")
    delete_old_checkpoints(often)
    assert files(often, kept) and not gone.exists()
