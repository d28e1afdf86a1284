"""Training in fp16 on a CPU: its gradients, skipped steps, the loss scale, and resuming."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from resuming import after_every_epoch, small, state_after
from torch import Tensor
from training import CPU, OPTIMIZERS, STRONG, Listener, changed_by_steps, freeze_statistics, run_steps, task, trained

from budgetnas.errors import RunFailedError
from budgetnas.training import RuntimeConfig, train
from budgetnas.training.engine import Trainer
from budgetnas.training.updates import GROWTH_INTERVAL

FP16 = replace(CPU, precision="fp16")
BF16 = replace(CPU, precision="bf16")
UNCHANGED_IMAGES: dict[str, Any] = {"augmentation": {"crop_padding": 0, "flip": False}}
INITIAL_SCALE = 65536.0
TOO_LARGE = 2.0**40


def trainer_in(runtime: RuntimeConfig, **recipe: object) -> Trainer:
    return Trainer(task(**UNCHANGED_IMAGES | recipe), runtime)


def gradients(trainer: Trainer) -> Tensor:
    run_steps(trainer, 64)
    return torch.cat(
        [parameter.grad.flatten() for parameter in trainer.network.parameters() if parameter.grad is not None]
    )


def error(runtime: RuntimeConfig, *, scale: float | None = None, frozen: bool = False) -> float:
    """Return the norm of the difference to the gradients of float32, divided by their norm."""
    trainer, exact = trainer_in(runtime), trainer_in(CPU)
    if scale is not None:
        scale_of(trainer).fill_(scale)
    for each in (trainer, exact) if frozen else ():
        freeze_statistics(each)
    truth = gradients(exact)
    return float((gradients(trainer) - truth).norm() / truth.norm())


def scale_of(trainer: Trainer) -> Tensor:
    return trainer.updates.memory["loss_scale.scale"]


def growth_tracker(trainer: Trainer) -> Tensor:
    return trainer.updates.memory["loss_scale.growth_tracker"]


def assert_equal(tensors: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


def test_gradients_are_those_of_float32() -> None:
    """Fp16 rounds eight times finer than bfloat16, but some ReLUs still switch: the error is a third."""
    assert error(FP16, frozen=True) < 0.01
    assert error(FP16) < error(BF16) / 2


def test_without_a_scale_small_gradients_are_lost() -> None:
    assert error(FP16) < error(FP16, scale=2.0**-8) / 3


def test_a_batch_in_pieces_has_the_gradients_of_the_whole_batch() -> None:
    pieces = replace(FP16, micro_batch=16)
    assert error(pieces, frozen=True) < 0.01


@pytest.mark.parametrize("runtime", [FP16, replace(FP16, micro_batch=16)], ids=["whole batch", "pieces"])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_step_that_overflows_is_skipped(optimizer: str, runtime: RuntimeConfig) -> None:
    trainer = trainer_in(runtime, ema_decay=0.9, **OPTIMIZERS[optimizer])
    run_steps(trainer, 64)
    before = changed_by_steps(trainer)
    scale_of(trainer).fill_(TOO_LARGE)
    run_steps(trainer, 64)
    assert trainer.updates.skipped == 1
    assert_equal(changed_by_steps(trainer), before)
    assert (float(scale_of(trainer)), int(growth_tracker(trainer))) == (TOO_LARGE / 2, 0)
    scale_of(trainer).fill_(INITIAL_SCALE)
    run_steps(trainer, 64)
    assert trainer.updates.skipped == 0
    after = changed_by_steps(trainer)
    assert not torch.equal(after["network.linear.weight"], before["network.linear.weight"])
    assert not torch.equal(after["average.network.linear.weight"], before["average.network.linear.weight"])


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_skipped_first_step_leaves_nothing_behind(optimizer: str) -> None:
    """PyTorch makes the momentum of SGD in the first step, from memory that only a step that is made fills."""
    trainer, fresh = (trainer_in(FP16, **OPTIMIZERS[optimizer]) for _ in range(2))
    scale_of(trainer).fill_(TOO_LARGE)
    run_steps(trainer, 64)
    scale_of(trainer).fill_(INITIAL_SCALE)
    for each in (trainer, fresh):
        run_steps(each, 320)
    assert_equal(changed_by_steps(trainer), changed_by_steps(fresh))


def test_the_scale_falls_until_the_gradients_fit() -> None:
    trainer = trainer_in(FP16)
    before = changed_by_steps(trainer)["network.linear.weight"]
    scale_of(trainer).fill_(TOO_LARGE)
    for _ in range(30):
        run_steps(trainer, 64)
    assert INITIAL_SCALE / 8 <= float(scale_of(trainer)) < TOO_LARGE / 2**10
    assert not torch.equal(changed_by_steps(trainer)["network.linear.weight"], before)


def test_the_scale_grows_after_enough_steps_without_overflow() -> None:
    trainer = trainer_in(FP16)
    run_steps(trainer, 64)
    assert (float(scale_of(trainer)), int(growth_tracker(trainer))) == (INITIAL_SCALE, 1)
    growth_tracker(trainer).fill_(GROWTH_INTERVAL - 1)
    run_steps(trainer, 64)
    assert (float(scale_of(trainer)), int(growth_tracker(trainer))) == (2 * INITIAL_SCALE, 0)


def test_a_loss_that_is_not_finite_fails_the_training() -> None:
    """No scale of the loss helps when the forward pass overflows."""
    with pytest.raises(RunFailedError, match="loss is"):
        train(task(learning_rate=100, weight_decay=1, epochs=30, t_max=30), FP16, Listener())


def test_fp16_learns_what_float32_learns() -> None:
    recipe: dict[str, Any] = dict(epochs=3, t_max=3)
    (network, mine), (_, theirs) = trained(task(**recipe), FP16), trained(task(**recipe))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    for epoch, expected in zip(mine.epochs, theirs.epochs, strict=True):
        assert epoch.train_loss != expected.train_loss
        assert epoch.train_loss == pytest.approx(expected.train_loss, rel=0.05)
        assert epoch.eval_accuracy == pytest.approx(expected.eval_accuracy, abs=0.05)


@pytest.mark.parametrize("changed", [{}, STRONG, OPTIMIZERS["adam"]], ids=["plain", "strong", "adam"])
def test_a_resumed_training_gives_the_bits_of_an_uninterrupted_training(changed: dict[str, Any]) -> None:
    after_every_epoch(small(epochs=3, **changed), FP16)


def test_a_resumed_training_continues_with_its_scale() -> None:
    example = small()
    trainer = Trainer(example, FP16)
    trainer.epoch(1, Listener())
    scale_of(trainer).fill_(1024)
    growth_tracker(trainer).fill_(7)
    state = trainer.state(1)
    other = Trainer(example, FP16)
    other.restore(state)
    assert (float(scale_of(other)), int(growth_tracker(other))) == (1024, 7)


@pytest.mark.parametrize("recorded", [CPU, BF16], ids=["float32", "bf16"])
def test_a_state_of_another_precision_fits(recorded: RuntimeConfig) -> None:
    """A checkpoint of a machine with bfloat16 is resumed on a machine that has only fp16, and the reverse."""
    example = small()
    trainer = Trainer(example, FP16)
    trainer.epoch(1, Listener())
    scale_of(trainer).fill_(1024)
    trainer.restore(state_after(1, example, recorded))
    assert (float(scale_of(trainer)), int(growth_tracker(trainer))) == (INITIAL_SCALE, 0)
    other, state = Trainer(example, recorded), state_after(1, example, FP16)
    other.restore(state)
    restored = other.state(1).tensors
    assert not [name for name in restored if name.startswith("loss_scale")]
    assert_equal(dict(restored), {name: state.tensors[name] for name in restored})
