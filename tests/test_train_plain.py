from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.transforms import functional as transforms
from training import (
    CPU,
    EXTRAS,
    OPTIMIZERS,
    PLAIN,
    SMALL,
    Listener,
    freeze_statistics,
    task,
    trained,
)

from budgetnas.space.recipe import Augmentation, Recipe
from budgetnas.training import Task
from budgetnas.training.augmentation import draw
from budgetnas.training.device import Normaliser
from budgetnas.training.engine import Trainer
from budgetnas.training.evaluation import read_metrics
from budgetnas.training.network import build
from budgetnas.training.optimizer import learning_rate


def plain_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    every = dict(network.named_parameters())
    spared = {
        f"{name}.{kind}": every[f"{name}.{kind}"]
        for name, module in network.named_modules()
        for kind in ("weight", "bias")
        if f"{name}.{kind}" in every and (isinstance(module, nn.BatchNorm2d) or kind == "bias")
    }
    groups = [
        {"params": [example for name, example in every.items() if name not in spared], "weight_decay": decay},
        {"params": list(spared.values()), "weight_decay": decay if recipe.decay_norm_and_bias else 0.0},
    ]
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(groups, lr=rate) if recipe.decoupled_decay else torch.optim.Adam(groups, lr=rate)
    return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=recipe.nesterov)


def plain_schedule(optim: torch.optim.Optimizer, recipe: Recipe) -> torch.optim.lr_scheduler.LRScheduler:
    warmup = recipe.warmup_epochs
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optim, T_max=recipe.t_max - warmup)
    if not warmup:
        return cosine
    rising = torch.optim.lr_scheduler.LinearLR(optim, start_factor=1 / (warmup + 1), total_iters=warmup)
    return torch.optim.lr_scheduler.SequentialLR(optim, [rising, cosine], milestones=[warmup])


def plain_average(network: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    def rule(average: Tensor, value: Tensor, steps: Tensor) -> Tensor:
        kept = min(decay, (1 + int(steps)) / (10 + int(steps)))
        return average * kept + value * (1 - kept)

    averaged = torch.optim.swa_utils.AveragedModel(network, avg_fn=rule, use_buffers=True)
    averaged.update_parameters(network)  # its first update copies: here the weights before the first step
    return averaged


CROPPED = Augmentation(crop_padding=1)


def plain_batch(example: Task, indices: Tensor, offsets: Tensor, mirrored: Tensor) -> Tensor:
    """The images of a batch as a data loader makes them: one by one, contiguous; in 64 bits."""
    mean, std = (
        torch.tensor(part, dtype=torch.float64).view(-1, 1, 1)
        for part in (example.normalisation.mean, example.normalisation.std)
    )
    images = []
    for index, (top, left), mirror in zip(indices, offsets.tolist(), mirrored.tolist(), strict=True):
        crop = transforms.crop(transforms.pad(example.train.images[index], [1]), top, left, 8, 8)
        images.append(((transforms.hflip(crop) if mirror else crop).double() / 255 - mean) / std)
    return torch.stack(images).contiguous()


def plain_training(
    example: Task, optim: torch.optim.Optimizer, plain: nn.Module, averaged: torch.optim.swa_utils.AveragedModel | None
) -> list[tuple[float, float, float]]:
    """The loop one would write by hand; loss, accuracy, and accuracy on the evaluation images of every epoch."""
    schedule, evaluated = plain_schedule(optim, example.recipe), plain if averaged is None else averaged.module
    chance = torch.Generator().manual_seed(example.seed)
    curve, dtype = [], next(plain.parameters()).dtype
    weights = None
    if example.recipe.class_weights == "balanced":
        weights = (50 / torch.bincount(example.train.labels)).to(dtype)
    criterion = nn.CrossEntropyLoss(weights, reduction="sum", label_smoothing=example.recipe.label_smoothing)
    for _ in range(example.recipe.epochs):
        plain.train()
        total = correct = 0.0
        order, draws = torch.randperm(500, generator=chance), draw(500, CROPPED, chance)
        assert draws.offsets is not None and draws.mirrored is not None
        for some in torch.arange(500).split(64):
            labels = example.train.labels[order[some]]
            logits = plain(plain_batch(example, order[some], draws.offsets[some], draws.mirrored[some]).to(dtype))
            loss = criterion(logits, labels) / len(some)
            optim.zero_grad()
            loss.backward()
            optim.step()
            if averaged is not None:
                averaged.update_parameters(plain)
            total += loss.item() * len(some)
            correct += int((logits.argmax(1) == labels).sum())
        schedule.step()
        evaluated.eval()
        with torch.no_grad():
            middle = torch.ones(len(example.evaluation), 2, dtype=torch.int64)
            every, straight = torch.arange(len(example.evaluation)), middle[:, 0] == 0
            looked_at = evaluated(
                plain_batch(replace(example, train=example.evaluation), every, middle, straight).to(dtype)
            )
        right = int((looked_at.argmax(1) == example.evaluation.labels).sum())
        curve.append((total / 500, correct / 500, right / len(example.evaluation)))
    return curve


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "extra", "precise"),
    [
        *((name, "", True) for name in OPTIMIZERS),
        *(("momentum", extra, True) for extra in EXTRAS),
        ("momentum", "", False),
        ("nesterov", "", False),
        ("momentum", "average", False),
    ],
)
def test_training_equals_a_hand_written_loop(optimizer: str, extra: str, precise: bool) -> None:
    """Channels-last, batches augmented at once and fused optimisers change rounding, and nothing else.

    With 64 bits they are the same to many digits. With 32, Adam is not compared: what is rounding in a small gradient
    is a whole step of it.
    """
    example = task(seed=3, augmentation=CROPPED, epochs=3, t_max=4, **OPTIMIZERS[optimizer] | EXTRAS.get(extra, {}))
    trainer, plain = Trainer(example, CPU), build(SMALL, seed=3)
    if precise:
        trainer.network.double()
        trainer.outcome.double()
        scale, shift = trainer.normalise.scale, trainer.normalise.shift
        trainer.normalise = trainer.evaluator.normalise = Normaliser(scale.double(), shift.double())
        plain.double()
    epochs = [trainer.epoch(number, Listener()) for number in (1, 2, 3)]
    averaged = plain_average(plain, example.recipe.ema_decay) if example.recipe.ema_decay else None
    curve = plain_training(example, plain_optimizer(plain, example.recipe), plain, averaged)

    near = 1e-6 if precise else 1e-3
    for epoch, (loss, accuracy, right) in zip(epochs, curve, strict=True):
        assert epoch.train_loss == pytest.approx(loss, rel=near)
        assert epoch.train_accuracy == pytest.approx(accuracy, abs=0 if precise else 2 / 500)
        assert epoch.eval_accuracy == pytest.approx(right, abs=0 if precise else 2 / len(example.evaluation))
    expected = (plain if averaged is None else averaged.module).state_dict()
    for key, tensor in trainer.outcome.state_dict().items():
        counted = plain.state_dict()[key] if "num_batches" in key else expected[key]
        torch.testing.assert_close(tensor, counted, rtol=10 * near, atol=2 * near, msg=key)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_step_equals_the_plain_step_in_gradients_and_weights(optimizer: str) -> None:
    example = task(seed=3, augmentation=CROPPED, **OPTIMIZERS[optimizer])
    trainer, order = Trainer(example, CPU), torch.arange(64)
    plain = build(SMALL, seed=3)
    optim = plain_optimizer(plain, example.recipe)
    draws = draw(64, CROPPED, torch.Generator().manual_seed(3))
    assert draws.offsets is not None and draws.mirrored is not None
    assert list(trainer.steps(order)) == [1]
    logits = plain(plain_batch(example, order, draws.offsets, draws.mirrored).float())
    functional.cross_entropy(logits, example.train.labels[:64]).backward()
    optim.step()
    for (name, mine), theirs in zip(trainer.network.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=2e-6, msg=name)
        moved_by_sign_alone = (
            example.recipe.optimizer == "adam"
        )  # its first step is the rate, wherever a gradient is not 0
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-2 if moved_by_sign_alone else 1e-5, msg=name)


@given(st.floats(1e-6, 10), st.integers(1, 40))
def test_the_learning_rate_is_pytorch_s_cosine_also_beyond_t_max(rate: float, t_max: int) -> None:
    recipe = Recipe(optimizer="sgd", learning_rate=rate, epochs=1, t_max=t_max)
    optim = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optim, T_max=t_max)
    for epoch in range(1, 3 * t_max + 2):
        assert learning_rate(recipe, epoch) == pytest.approx(schedule.get_last_lr()[0], rel=1e-7, abs=rate * 1e-9)
        optim.step()
        schedule.step()


@given(st.floats(1e-6, 10), st.integers(2, 30), st.data())
def test_the_warm_up_is_pytorch_s_linear_one_before_a_shorter_cosine(
    rate: float, t_max: int, data: st.DataObject
) -> None:
    warmup = data.draw(st.integers(1, t_max - 1))
    recipe = Recipe(optimizer="sgd", learning_rate=rate, epochs=1, t_max=t_max, warmup_epochs=warmup)
    optim = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = plain_schedule(optim, recipe)
    assert learning_rate(recipe, warmup + 1) == rate
    for epoch in range(1, t_max + 1):
        assert learning_rate(recipe, epoch) == pytest.approx(optim.param_groups[0]["lr"], rel=1e-7, abs=rate * 1e-9)
        optim.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR calls its parts in a way that they deprecate
            schedule.step()


def test_a_slow_average_is_useful_after_an_epoch() -> None:
    """Without the growing memory it would be nine tenths initial weights after these eight steps."""
    trainer = Trainer(task(ema_decay=0.99, augmentation=PLAIN), CPU)
    start = {name: example.detach().clone() for name, example in trainer.network.named_parameters()}
    trainer.epoch(1, Listener())
    for name, averaged in trainer.outcome.named_parameters():
        now = dict(trainer.network.named_parameters())[name]
        assert (averaged - now).norm() < (averaged - start[name]).norm(), name


def test_label_smoothing_and_averaging_with_a_micro_batch() -> None:
    losses, averages = [], []
    for runtime in (CPU, replace(CPU, micro_batch=7)):
        trainer = Trainer(task(augmentation=PLAIN, label_smoothing=0.3, ema_decay=0.5), runtime)
        freeze_statistics(trainer)
        assert list(trainer.steps(torch.arange(64))) == [1]
        losses.extend(read_metrics(trainer.metrics))
        averages.append(list(trainer.outcome.parameters()))
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    torch.testing.assert_close(averages[1], averages[0], rtol=1e-4, atol=1e-6)


def test_the_average_is_returned_and_does_not_change_the_training() -> None:
    averaged, listener = trained(task(ema_decay=0.9))
    plain, other = trained(task())
    assert not averaged.training
    for mine, theirs in zip(listener.epochs, other.epochs, strict=True):
        assert (mine.train_loss, mine.train_accuracy) == (theirs.train_loss, theirs.train_accuracy)
        assert mine.eval_loss != theirs.eval_loss
    assert not torch.equal(next(averaged.parameters()), next(plain.parameters()))
