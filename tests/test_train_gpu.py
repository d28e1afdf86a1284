"""What only a GPU can show: captured steps. Left out where there is none, as in continuous integration."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from training import CPU, EXTRAS, OPTIMIZERS, STRONG, Listener, changed_by_steps, run_steps, task, trained

from benchmarks.tasks import strong_recipe
from budgetnas.training import RuntimeConfig, Task, TrainingState, runtime_rules, train
from budgetnas.training.augmentation import augment, draw
from budgetnas.training.capture_probe import ProbeResult, probe_in_a_process
from budgetnas.training.cuda_graphs import WARM_UP_CALLS, CapturedCalls, Place
from budgetnas.training.device import DeviceImages
from budgetnas.training.engine import Trainer
from budgetnas.training.mixing import draw_mixing, mix

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda:0")
CAPTURED = RuntimeConfig("cuda:0", "float32", threads=1, graphs=True)
FP16 = replace(CAPTURED, precision="fp16")
PRECISIONS = pytest.mark.parametrize("runtime", [CAPTURED, FP16], ids=["float32", "fp16"])
TOO_LARGE = 2.0**40


def placed(example: Task) -> Task:
    fit, evaluation = (
        DeviceImages(images.images.to(CUDA), images.labels.to(CUDA)) for images in (example.train, example.evaluation)
    )
    return replace(example, train=fit, evaluation=evaluation)


@pytest.fixture
def repeatable() -> Iterator[None]:
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def test_this_gpu_captures_and_the_rules_say_so() -> None:
    assert probe_in_a_process("cuda:0") == ProbeResult()
    rules = runtime_rules("cuda")
    assert rules.graphs and rules.notes == ()
    assert torch.cuda.current_device() == 0


FAILING_CAPTURE = """
import torch
from budgetnas.training.cuda_graphs import CapturedCalls, CaptureError, Place

device = torch.device("cuda:0")
number, current = torch.zeros((), device=device), torch.cuda.current_stream(device)
calls = CapturedCalls(Place.on(device))

def wait(size):
    number.add_(1)
    number.item()

try:
    for _ in range(5):
        calls(wait, 1)
except CaptureError as error:
    assert torch.cuda.current_stream(device) == current, "the stream is restored"
    print("failed as it should")
"""


def test_a_failed_capture_restores_the_stream() -> None:
    """In a process of its own, which is not safe to train in afterwards."""
    done = subprocess.run([sys.executable, "-c", FAILING_CAPTURE], capture_output=True, text=True, timeout=120)
    assert "failed as it should" in done.stdout, done.stderr


def test_all_trainings_of_a_process_capture_on_one_stream() -> None:
    first, second = Place.on(CUDA), Place.on(CUDA)
    assert first.stream == second.stream
    assert first.pool != second.pool


def test_a_smaller_last_batch_is_captured_in_the_second_epoch() -> None:
    calls, sizes = CapturedCalls(Place.on(CUDA)), []
    number = torch.zeros((), device=CUDA)

    def add(size: int) -> None:
        sizes.append(size)
        number.add_(size)

    for _ in range(3):
        for size in (64, 64, 64, 64, 16):
            calls(add, size)
    assert sizes == [64] * (WARM_UP_CALLS + 1) + [16, 16]
    assert float(number) == 3 * (4 * 64 + 16)


def test_a_captured_call_runs_each_time() -> None:
    total = torch.zeros((), device=CUDA)

    def add(size: int) -> None:
        total.add_(size)

    calls = CapturedCalls(Place.on(CUDA))
    for size in (3, 5) * 10:
        calls(add, size)
    assert float(total) == 80.0


CHANGES = OPTIMIZERS | EXTRAS | {"cutout": {"augmentation": {"crop_padding": 1, "cutout": 3}}, "strong": STRONG}


@PRECISIONS
@pytest.mark.parametrize("changed", list(CHANGES))
def test_captured_steps_are_the_plain_ones(changed: str, runtime: RuntimeConfig, repeatable: None) -> None:
    example = placed(task(epochs=5, t_max=5, **CHANGES[changed]))
    captured, plain = Listener(), Listener()
    network, other = train(example, runtime, captured), train(example, replace(runtime, graphs=False), plain)
    assert captured.restarts == plain.restarts == []
    assert captured.epochs == plain.epochs
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


class Drawer:
    """Keeps states as bytes; gives back those it was made with."""

    def __init__(self, *stored: bytes) -> None:
        self.before = stored
        self.stored: list[bytes] = []

    def begin(self) -> list[TrainingState]:
        return [TrainingState.from_bytes(stored) for stored in self.before]

    def rejected(self, state: TrainingState, reason: str) -> None:
        raise AssertionError(reason)

    def resumed(self, state: TrainingState) -> None: ...

    def epoch_ended(self, state: TrainingState) -> None:
        self.stored.append(state.to_bytes())

    def interrupted(self, state: TrainingState) -> None: ...

    def forget(self) -> None:
        raise AssertionError("a restart")


@pytest.mark.parametrize("optimizer", ["momentum", "plain sgd", "adam"])
def test_a_captured_step_that_overflows_is_skipped(optimizer: str, repeatable: None) -> None:
    example = placed(task(batch=100, t_max=5, ema_decay=0.9, **CHANGES[optimizer]))
    captured, plain = (Trainer(example, runtime) for runtime in (FP16, replace(FP16, graphs=False)))
    for trainer in (captured, plain):
        run_steps(trainer, 500)  # five steps: more than the plain calls before a capture
        before = changed_by_steps(trainer)
        trainer.updates.memory["loss_scale.scale"].fill_(TOO_LARGE)
        run_steps(trainer, 100)
        assert float(trainer.updates.memory["loss_scale.scale"]) == TOO_LARGE / 2
        for name, tensor in changed_by_steps(trainer).items():
            assert torch.equal(tensor, before[name]), name
        trainer.updates.memory["loss_scale.scale"].fill_(1024)
        run_steps(trainer, 200)
        assert not torch.equal(changed_by_steps(trainer)["network.linear.weight"], before["network.linear.weight"])
    expected = plain.state(1).tensors
    for name, tensor in captured.state(1).tensors.items():
        assert torch.equal(tensor, expected[name]), name


@PRECISIONS
@pytest.mark.parametrize("changed", list(CHANGES))
def test_a_resumed_training_gives_the_bits_of_an_uninterrupted_training(
    changed: str, runtime: RuntimeConfig, repeatable: None
) -> None:
    """Each is captured anew, over weights and momentum that were put in place before."""
    example = placed(task(epochs=5, t_max=6, **CHANGES[changed]))
    whole, checkpointer = Listener(), Drawer()
    network = train(example, runtime, whole, checkpointer)
    for done, stored in enumerate(checkpointer.stored, start=1):
        rest = Listener()
        again = train(example, runtime, rest, Drawer(stored))
        assert rest.epochs == whole.epochs[done:]
        for key, tensor in again.state_dict().items():
            assert torch.equal(tensor, network.state_dict()[key]), key


@pytest.mark.parametrize("changed", ["momentum", "adam", "everything", "strong"])
def test_a_state_is_restored_on_the_gpu_under_captured_steps(changed: str, repeatable: None) -> None:
    """Steps that were captured before read what was restored: it was copied to where they read."""
    example = placed(task(epochs=5, t_max=6, **CHANGES[changed]))
    trainer = Trainer(example, CAPTURED)
    trainer.epoch(1, Listener())
    state = trainer.state(1)
    assert {tensor.device.type for tensor in state.tensors.values()} == {"cpu"}
    trainer.epoch(2, Listener())
    second = trainer.state(2)
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    trainer.restore(state)
    for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
        assert group["lr"] is rate
    for kept in trainer.optimizer.state.values():
        assert {tensor.device for tensor in kept.values()} == {CUDA}
    trainer.epoch(2, Listener())
    for name, tensor in trainer.state(2).tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name


@PRECISIONS
def test_a_gpu_learns_what_a_cpu_learns(runtime: RuntimeConfig) -> None:
    recipe = dict(epochs=3, t_max=3, augmentation={"crop_padding": 1, "rotation": 10})
    _, on_cpu = trained(task(**recipe), replace(CPU, precision=runtime.precision))
    listener = Listener()
    train(placed(task(**recipe)), runtime, listener)
    for mine, theirs in zip(listener.epochs, on_cpu.epochs, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-2)


@pytest.mark.parametrize("changed", ["everything", "strong"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_no_step_waits_for_the_gpu(precision: str, changed: str) -> None:
    example = placed(task(batch=100, t_max=3, **CHANGES[changed]))
    trainer = Trainer(example, RuntimeConfig("cuda:0", precision, threads=1, graphs=True))  # type: ignore[arg-type]
    order = torch.arange(500)
    for _ in range(WARM_UP_CALLS + 1):
        for _ in trainer.steps(order):
            pass
    steps = trainer.steps(order, [0.1, 0.2, 0.3, 0.2, 0.1])
    next(steps)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns that this mode does not see every wait
            torch.cuda.set_sync_debug_mode("error")
        for _ in steps:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_gpu_changes_and_mixes_images_as_a_cpu_does() -> None:
    """Angles are rounded otherwise on a GPU, so that a pixel in a thousand may be another."""
    how = strong_recipe(10).augmentation
    images = torch.randint(0, 256, (500, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, color = torch.arange(500) % 10, torch.full((1, 3, 1, 1), 99, dtype=torch.uint8)
    draws, mixing = draw(500, how, torch.Generator().manual_seed(1)), draw_mixing(8, how, torch.Generator())
    on_cpu = augment(images, how, draws, color)
    on_gpu = augment(images.to(CUDA), how, draws.to(CUDA), color.to(CUDA))
    assert float((on_gpu.cpu() != on_cpu).double().mean()) < 2e-3
    for row in mixing:
        (expected, theirs), (mixed, ours) = (
            mix(on_cpu, labels, row),
            mix(on_cpu.to(CUDA), labels.to(CUDA), row.to(CUDA)),
        )
        torch.testing.assert_close(mixed.cpu(), expected)
        assert ours.share is not None and theirs.share is not None
        assert float(ours.share) == pytest.approx(float(theirs.share))
