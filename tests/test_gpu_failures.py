"""Errors of a GPU, raised where no GPU is: out of memory, a dead GPU, a failed capture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import CPU, Listener, digits, task

from budgetnas.data.cache import read_only
from budgetnas.errors import RestartNeeded, RunFailedError
from budgetnas.metrics import Epoch
from budgetnas.training import Callbacks, Checkpointer, TrainingState, train
from budgetnas.training.capture_probe import (
    ProbeResult,
    _known,
    capture_problem,
    device_key,
    memory_file,
    no_graphs,
    probe_in_a_process,
)
from budgetnas.training.cuda_graphs import CaptureError
from budgetnas.training.engine import Trainer
from budgetnas.training.failures import first_line, is_device_lost, is_out_of_memory
from budgetnas.training.measure import measure_pace

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
    CaptureError("CUDA out of memory. Tried to allocate 20.00 MiB"),
]
LOST = [
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: unknown error"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: the launch timed out and was terminated"),
]
OTHERS = [
    RuntimeError("Expected more than 1 value per channel when training"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    CaptureError("operation not permitted when stream is capturing"),
    ValueError("anything"),
]


@pytest.mark.parametrize("error", NO_MEMORY + LOST + OTHERS, ids=lambda error: f"{type(error).__name__}: {error}"[:60])
def test_the_meaning_of_errors(error: Exception) -> None:
    assert is_out_of_memory(error) is (error in NO_MEMORY)
    assert is_device_lost(error) is (error in LOST)


def test_the_first_line_of_an_error() -> None:
    assert first_line(NO_MEMORY[1]) == "CUDA error: out of memory"
    assert first_line(MemoryError()) == "MemoryError"


class Kept(Checkpointer):
    """Notes what a training does with its states."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def epoch_ended(self, state: TrainingState) -> None:
        self.told.append(f"epoch {state.epoch}")

    def interrupted(self, state: TrainingState) -> None:
        self.told.append(f"interrupted after {state.epoch}")

    def forget(self) -> None:
        self.told.append("forget")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Exception], None]:
    """Makes the first training of a third epoch fail with an error."""
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("budgetnas.training.capture_probe._known", {})

    def begin(error: Exception) -> None:
        real, errors = Trainer.epoch, [error]

        def epoch(trainer: Trainer, number: int, callbacks: Callbacks) -> Epoch:
            if number == 3 and errors:
                raise errors.pop()
            return real(trainer, number, callbacks)

        monkeypatch.setattr(Trainer, "epoch", epoch)

    return begin


@pytest.mark.parametrize("error", NO_MEMORY[:-1], ids=lambda error: f"{type(error).__name__}: {error}"[:60])
def test_a_training_that_runs_out_of_memory_starts_over(error: Exception, failing: Callable[..., None]) -> None:
    failing(error)
    listener = Listener()
    train(task(epochs=3, t_max=3), CPU, listener)
    assert [runtime.micro_batch for runtime in listener.restarts] == [32]
    assert [epoch.epoch for epoch in listener.epochs] == [1, 2, 1, 2, 3]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_dead_gpu_keeps_the_last_state_and_ends_the_process(error: Exception, failing: Callable[..., None]) -> None:
    failing(error)
    listener, kept = Listener(), Kept()
    with pytest.raises(RestartNeeded, match="the GPU failed") as caught:
        train(task(epochs=4, t_max=4), CPU, listener, kept)
    assert caught.value.__cause__ is error
    assert caught.value.exit_code == 75
    assert listener.restarts == []
    assert kept.told == ["epoch 1", "epoch 2", "interrupted after 2"]


def test_a_failed_capture_ends_the_process_and_is_remembered(failing: Callable[..., None]) -> None:
    failing(CaptureError("operation not permitted\nmore"))
    listener, kept = Listener(), Kept()
    with pytest.raises(RestartNeeded, match="a step cannot be captured as a CUDA graph"):
        train(task(epochs=4, t_max=4), CPU, listener, kept)
    assert [runtime.graphs for runtime in listener.restarts] == [False]
    assert kept.told[-1] == "forget"
    _known.clear()
    assert capture_problem(torch.device("cpu"), probe=unused) == "operation not permitted"


def test_a_capture_without_memory_ends_the_process_and_the_next_takes_less(failing: Callable[..., None]) -> None:
    """The GPU can capture, so that this is not remembered."""
    failing(NO_MEMORY[-1])
    listener = Listener()
    with pytest.raises(RestartNeeded, match="out of memory, now 32 images at a time"):
        train(task(epochs=4, t_max=4), CPU, listener)
    assert [runtime.micro_batch for runtime in listener.restarts] == [32]
    assert not memory_file(device_key(torch.device("cpu"))).exists()


def test_other_errors_pass_through(failing: Callable[..., None]) -> None:
    failing(OTHERS[1])
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train(task(epochs=3, t_max=3), CPU, Listener())


@pytest.mark.parametrize("error", [LOST[0], CaptureError("no"), NO_MEMORY[-1]], ids=["lost", "capture", "memory"])
def test_an_estimate_of_time_ends_the_process_as_well(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("budgetnas.training.capture_probe._known", {})

    def steps(trainer: Trainer, order: object, rates: object = ()) -> object:
        raise error

    monkeypatch.setattr(Trainer, "steps", steps)
    with pytest.raises(RestartNeeded):
        measure_pace(digits(), CPU)
    assert memory_file(device_key(torch.device("cpu"))).exists() is isinstance(error, CaptureError)


def unused(device: str) -> ProbeResult:
    raise AssertionError("the result is remembered")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BUDGETNAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("budgetnas.training.capture_probe._known", {})
    return tmp_path / "cache" / "cuda-graphs"


HERE = torch.device("cpu")


@pytest.mark.parametrize("problem", ["", "operation not permitted"])
def test_a_probe_is_made_once_for_a_device_and_its_versions(problem: str, cache: Path) -> None:
    asked: list[str] = []

    def probe(device: str) -> ProbeResult:
        asked.append(device)
        return ProbeResult(problem)

    for _ in range(2):
        assert capture_problem(HERE, probe) == problem
        _forget()
    assert asked == ["cpu"]
    (file,) = cache.iterdir()
    assert json.loads(file.read_text(encoding="utf-8"))["device"] == device_key(HERE)
    assert no_graphs(HERE, "why").endswith(f"(why); to try again, delete {file}")
    file.write_text("damaged", encoding="utf-8")
    capture_problem(HERE, probe)
    assert asked == ["cpu", "cpu"]


def _forget() -> None:
    import budgetnas.training.capture_probe as probe

    probe._known.clear()


def test_a_problem_that_may_pass_is_remembered_by_this_process_only(cache: Path) -> None:
    assert capture_problem(HERE, lambda device: ProbeResult("out of memory", lasting=False)) == "out of memory"
    assert capture_problem(HERE, unused) == "out of memory"
    assert not cache.exists()
    assert no_graphs(HERE, "out of memory").endswith("(out of memory)")


def test_a_probe_without_a_cache_is_made_by_each_process(cache: Path) -> None:
    with read_only():
        assert capture_problem(HERE, lambda device: ProbeResult()) == ""
    assert not cache.exists()
    _forget()
    cache.parent.write_text("a file where the folder would be", encoding="utf-8")
    assert capture_problem(HERE, lambda device: ProbeResult("no")) == "no"


@pytest.mark.slow
def test_the_probe_is_a_real_training_in_a_process_of_its_own(cache: Path) -> None:
    """Without a GPU its steps are plain; a device that is not there is a problem that may pass."""
    assert probe_in_a_process("cpu") == ProbeResult()
    result = probe_in_a_process("cuda:77")
    assert result.problem and not result.lasting


def test_out_of_memory_with_the_smallest_micro_batch_ends_the_training(failing: Callable[..., None]) -> None:
    failing(NO_MEMORY[-1])
    with pytest.raises(RunFailedError, match="out of memory on cpu, even with 2 images"):
        train(task(epochs=3, t_max=3), replace(CPU, micro_batch=2), Listener())
