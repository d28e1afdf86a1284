"""What only a GPU can show: captured steps. Left out where there is none, as in continuous integration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from training import CPU, EXTRAS, OPTIMIZERS, Listener, task, trained

from budgetnas.data.device import DeviceImages
from budgetnas.train import Setup, Task, choose_setup, train
from budgetnas.train.engine import Trainer
from budgetnas.train.replayed import WARM_UP_CALLS, CapturedCalls, Place, can_capture

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda:0")
CAPTURED = Setup("cuda:0", "float32", threads=1, graphs=True)


def placed(one: Task) -> Task:
    fit, evaluation = (
        DeviceImages(images.images.to(CUDA), images.labels.to(CUDA)) for images in (one.fit, one.evaluation)
    )
    return replace(one, fit=fit, evaluation=evaluation)


@pytest.fixture
def repeatable() -> Iterator[None]:
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def test_this_gpu_captures_and_setups_say_so() -> None:
    assert can_capture(CUDA)
    assert choose_setup("cuda").graphs


def test_a_captured_call_is_made_as_often_as_it_is_asked_for() -> None:
    total = torch.zeros((), device=CUDA)

    def add(size: int) -> None:
        total.add_(size)

    calls = CapturedCalls(Place.on(CUDA))
    for size in (3, 5) * 10:
        calls(add, size)
    assert float(total) == 80.0


CHANGES = OPTIMIZERS | EXTRAS | {"cutout": {"augmentation": {"crop_padding": 1, "cutout": 3}}}


@pytest.mark.parametrize("changed", list(CHANGES))
def test_captured_steps_are_the_plain_ones(changed: str, repeatable: None) -> None:
    one = placed(task(epochs=5, t_max=5, **CHANGES[changed]))
    captured, plain = Listener(), Listener()
    network, other = train(one, CAPTURED, captured), train(one, replace(CAPTURED, graphs=False), plain)
    assert captured.restarts == plain.restarts == []
    assert captured.epochs == plain.epochs
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


def test_a_gpu_learns_what_a_cpu_learns() -> None:
    recipe = dict(epochs=3, t_max=3, augmentation={"crop_padding": 1, "rotation": 10})
    _, on_cpu = trained(task(**recipe), CPU)
    listener = Listener()
    train(placed(task(**recipe)), CAPTURED, listener)
    for mine, theirs in zip(listener.epochs, on_cpu.epochs, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-2)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_no_step_waits_for_the_gpu(precision: str) -> None:
    one = placed(task(batch=100, t_max=3, **EXTRAS["everything"]))
    trainer = Trainer(one, Setup("cuda:0", precision, threads=1, graphs=True))  # type: ignore[arg-type]
    order = torch.arange(500)
    for _ in range(WARM_UP_CALLS + 1):
        for _ in trainer.steps(order):
            pass
    steps = trainer.steps(order)
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in steps:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
