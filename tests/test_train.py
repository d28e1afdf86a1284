from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
import weakref
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import functional as transforms

from budgetnas.architecture import Architecture
from budgetnas.data import DataRequest, load_data
from budgetnas.data.augment import draw
from budgetnas.data.device import DeviceImages, Normaliser, statistics, to_device
from budgetnas.epoch import Epoch
from budgetnas.errors import InputError, Interrupted, RunFailedError
from budgetnas.network import build
from budgetnas.recipe import Augmentation, Recipe
from budgetnas.train import Setup, Task, alternatives, choose_setup, train
from budgetnas.train.engine import Trainer, is_out_of_memory
from budgetnas.train.evaluation import evaluate, read_totals
from budgetnas.train.measure import measure_pace
from budgetnas.train.optimizer import learning_rate
from budgetnas.train.setup import Layout

CPU = Setup("cpu", "float32", threads=1)
SMALL = Architecture((1, 1), (8, 16), (1, 2), stem_width=8, in_channels=1, size=8)
RECIPE = Recipe(optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, epochs=2, t_max=2, batch=64)
PLAIN = Augmentation(crop_padding=0, flip=False)


@dataclass
class Listener:
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    restarts: list[Setup] = field(default_factory=list)

    def step(self, epoch: int, done: int, total: int) -> None:
        self.steps.append((epoch, done, total))

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(replace(epoch, seconds=0.0))

    def restart(self, setup: Setup, reason: str) -> None:
        self.restarts.append(setup)


@lru_cache
def digits() -> Task:
    data = load_data(DataRequest("digits"))
    cpu = torch.device("cpu")
    fit, evaluation = to_device(data.train, cpu), to_device(data.validation, cpu)
    fit = DeviceImages(fit.images[:500], fit.labels[:500])
    return Task(SMALL, RECIPE, 0, fit, evaluation, statistics(data.train))


def task(seed: int = 0, architecture: Architecture = SMALL, **recipe: object) -> Task:
    changed = Recipe.model_validate(RECIPE.model_dump() | recipe)
    return replace(digits(), seed=seed, recipe=changed, architecture=architecture)


def first(images: DeviceImages, count: int) -> DeviceImages:
    return DeviceImages(images.images[:count], images.labels[:count])


def trained(one: Task, setup: Setup = CPU) -> tuple[nn.Module, Listener]:
    listener = Listener()
    return train(one, setup, listener), listener


OPTIMIZERS = {
    "momentum": dict(optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, momentum=0.9),
    "nesterov": dict(optimizer="sgd", learning_rate=0.05, weight_decay=1e-3, momentum=0.8, nesterov=True),
    "plain sgd": dict(optimizer="sgd", learning_rate=0.1, momentum=0.0),
    "adam": dict(optimizer="adam", learning_rate=0.01),
    "adam with decay": dict(optimizer="adam", learning_rate=0.01, weight_decay=1e-4),
    "weights alone decay": dict(
        optimizer="sgd", learning_rate=0.1, weight_decay=0.05, momentum=0.9, decay_norm_and_bias=False
    ),
    "adam, weights alone": dict(optimizer="adam", learning_rate=0.01, weight_decay=0.05, decay_norm_and_bias=False),
}
EXTRAS: dict[str, dict[str, Any]] = {
    "smoothing": dict(label_smoothing=0.2),
    "warm-up": dict(warmup_epochs=2),
    "average": dict(ema_decay=0.7),
    "everything": dict(
        label_smoothing=0.1,
        warmup_epochs=1,
        ema_decay=0.95,
        nesterov=True,
        decay_norm_and_bias=False,
        weight_decay=0.01,
    ),
}


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
        {"params": [one for name, one in every.items() if name not in spared], "weight_decay": decay},
        {"params": list(spared.values()), "weight_decay": decay if recipe.decay_norm_and_bias else 0.0},
    ]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=rate)
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


def plain_batch(one: Task, indices: Tensor, offsets: Tensor, mirrored: Tensor) -> Tensor:
    """The images of a batch as a data loader makes them: one by one, contiguous; in 64 bits."""
    mean, std = (
        torch.tensor(part, dtype=torch.float64).view(-1, 1, 1)
        for part in (one.normalisation.mean, one.normalisation.std)
    )
    images = []
    for index, (top, left), mirror in zip(indices, offsets.tolist(), mirrored.tolist(), strict=True):
        crop = transforms.crop(transforms.pad(one.fit.images[index], [1]), top, left, 8, 8)
        images.append(((transforms.hflip(crop) if mirror else crop).double() / 255 - mean) / std)
    return torch.stack(images).contiguous()


def plain_training(
    one: Task, optim: torch.optim.Optimizer, plain: nn.Module, averaged: torch.optim.swa_utils.AveragedModel | None
) -> list[tuple[float, float, float]]:
    """The loop one would write by hand; loss, accuracy, and accuracy on the evaluation images of every epoch."""
    schedule, evaluated = plain_schedule(optim, one.recipe), plain if averaged is None else averaged.module
    criterion = nn.CrossEntropyLoss(label_smoothing=one.recipe.label_smoothing)
    chance = torch.Generator().manual_seed(one.seed)
    curve, dtype = [], next(plain.parameters()).dtype
    for _ in range(one.recipe.epochs):
        plain.train()
        total = correct = 0.0
        order, draws = torch.randperm(500, generator=chance), draw(500, CROPPED, chance)
        assert draws.offsets is not None and draws.mirrored is not None
        for some in torch.arange(500).split(64):
            labels = one.fit.labels[order[some]]
            logits = plain(plain_batch(one, order[some], draws.offsets[some], draws.mirrored[some]).to(dtype))
            loss = criterion(logits, labels)
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
            middle = torch.ones(len(one.evaluation), 2, dtype=torch.int64)
            every, straight = torch.arange(len(one.evaluation)), middle[:, 0] == 0
            looked_at = evaluated(plain_batch(replace(one, fit=one.evaluation), every, middle, straight).to(dtype))
        right = int((looked_at.argmax(1) == one.evaluation.labels).sum())
        curve.append((total / 500, correct / 500, right / len(one.evaluation)))
    return curve


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
def test_training_is_the_plain_loop_one_would_write_by_hand(optimizer: str, extra: str, precise: bool) -> None:
    """Channels-last, batches augmented at once and fused optimisers change rounding, and nothing else.

    With 64 bits they are the same to many digits. With 32, Adam is not compared: what is rounding in a small gradient
    is a whole step of it.
    """
    one = task(seed=3, augmentation=CROPPED, epochs=3, t_max=4, **OPTIMIZERS[optimizer] | EXTRAS.get(extra, {}))
    trainer, plain = Trainer(one, CPU), build(SMALL, seed=3)
    if precise:
        trainer.network.double()
        trainer.outcome.double()
        scale, shift = trainer.normalise.scale, trainer.normalise.shift
        trainer.normalise = trainer.evaluator.normalise = Normaliser(scale.double(), shift.double())
        plain.double()
    epochs = [trainer.epoch(number, Listener()) for number in (1, 2, 3)]
    averaged = plain_average(plain, one.recipe.ema_decay) if one.recipe.ema_decay else None
    curve = plain_training(one, plain_optimizer(plain, one.recipe), plain, averaged)

    near = 1e-6 if precise else 1e-3
    for epoch, (loss, accuracy, right) in zip(epochs, curve, strict=True):
        assert epoch.train_loss == pytest.approx(loss, rel=near)
        assert epoch.train_accuracy == pytest.approx(accuracy, abs=0 if precise else 2 / 500)
        assert epoch.eval_accuracy == pytest.approx(right, abs=0 if precise else 2 / len(one.evaluation))
    expected = (plain if averaged is None else averaged.module).state_dict()
    for key, tensor in trainer.outcome.state_dict().items():
        counted = plain.state_dict()[key] if "num_batches" in key else expected[key]
        torch.testing.assert_close(tensor, counted, rtol=10 * near, atol=2 * near, msg=key)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_one_step_is_the_plain_step_in_gradients_and_weights(optimizer: str) -> None:
    one = task(seed=3, augmentation=CROPPED, **OPTIMIZERS[optimizer])
    trainer, order = Trainer(one, CPU), torch.arange(64)
    plain = build(SMALL, seed=3)
    optim = plain_optimizer(plain, one.recipe)
    draws = draw(64, CROPPED, torch.Generator().manual_seed(3))
    assert draws.offsets is not None and draws.mirrored is not None
    assert list(trainer.steps(order)) == [1]
    logits = plain(plain_batch(one, order, draws.offsets, draws.mirrored).float())
    functional.cross_entropy(logits, one.fit.labels[:64]).backward()
    optim.step()
    for (name, mine), theirs in zip(trainer.network.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=2e-6, msg=name)
        moved_by_sign_alone = one.recipe.optimizer == "adam"  # its first step is the rate, wherever a gradient is not 0
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


def test_an_average_of_long_memory_is_not_junk_after_one_epoch() -> None:
    """Without the growing memory it would be nine tenths initial weights after these eight steps."""
    trainer = Trainer(task(ema_decay=0.99, augmentation=PLAIN), CPU)
    start = {name: one.detach().clone() for name, one in trainer.network.named_parameters()}
    trainer.epoch(1, Listener())
    for name, averaged in trainer.outcome.named_parameters():
        now = dict(trainer.network.named_parameters())[name]
        assert (averaged - now).norm() < (averaged - start[name]).norm(), name


def test_pieces_of_a_batch_are_smoothed_alike_and_averaged_once() -> None:
    losses, averages = [], []
    for setup in (CPU, replace(CPU, micro_batch=7)):
        trainer = Trainer(task(augmentation=PLAIN, label_smoothing=0.3, ema_decay=0.5), setup)
        freeze_statistics(trainer)
        assert list(trainer.steps(torch.arange(64))) == [1]
        losses.extend(read_totals(trainer.totals))
        averages.append(list(trainer.outcome.parameters()))
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    torch.testing.assert_close(averages[1], averages[0], rtol=1e-4, atol=1e-6)


def test_the_average_is_returned_and_the_trained_weights_go_their_way_without_it() -> None:
    averaged, listener = trained(task(ema_decay=0.9))
    plain, other = trained(task())
    assert not averaged.training
    for mine, theirs in zip(listener.epochs, other.epochs, strict=True):
        assert (mine.train_loss, mine.train_accuracy) == (theirs.train_loss, theirs.train_accuracy)
        assert mine.eval_loss != theirs.eval_loss
    assert not torch.equal(next(averaged.parameters()), next(plain.parameters()))


@pytest.mark.parametrize("extra", ["", *EXTRAS])
@pytest.mark.parametrize("augmentation", [PLAIN, Augmentation(), Augmentation(crop_padding=1, rotation=10, cutout=3)])
def test_equal_tasks_give_equal_bits(augmentation: Augmentation, extra: str) -> None:
    recipe = {"t_max": 3} | EXTRAS.get(extra, {})
    one, other = (trained(task(augmentation=augmentation.model_dump(), **recipe)) for _ in range(2))
    assert one[1].epochs == other[1].epochs
    for key, tensor in one[0].state_dict().items():
        assert torch.equal(tensor, other[0].state_dict()[key]), key


def test_another_seed_gives_another_training() -> None:
    assert trained(task(seed=0))[1].epochs != trained(task(seed=1))[1].epochs


def test_the_world_outside_is_left_as_it_was() -> None:
    torch.manual_seed(9)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    trained(task(epochs=1), replace(CPU, threads=threads + 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_state_of_the_world_outside_does_not_matter() -> None:
    torch.manual_seed(1)
    one = trained(task(epochs=1))[1].epochs
    torch.manual_seed(2)
    assert trained(task(epochs=1))[1].epochs == one


def test_a_network_learns_digits() -> None:
    _, listener = trained(task(epochs=12, t_max=12, batch=32, augmentation={"crop_padding": 1, "flip": False}))
    assert listener.epochs[-1].eval_accuracy > 0.85
    assert listener.epochs[-1].train_loss < listener.epochs[0].train_loss


def test_progress_is_told_step_by_step() -> None:
    _, listener = trained(task(batch=200))
    told = [(epoch, done, 3) for epoch in (1, 2) for done in (1, 2, 3, 3)]
    assert listener.steps == told, "each optimiser step, then each batch of the evaluation"
    assert [epoch.epoch for epoch in listener.epochs] == [1, 2]
    assert listener.restarts == []


def test_a_training_s_memory_is_free_as_soon_as_it_ends() -> None:
    """Without a garbage collector: on a GPU the next trial needs the memory at once."""
    gc.disable()
    try:
        trainer = Trainer(task(ema_decay=0.9), CPU)
        trainer.epoch(1, Listener())
        network, whole = weakref.ref(trainer.network), weakref.ref(trainer)
        del trainer
        assert network() is None
        assert whole() is None
    finally:
        gc.enable()


class CountReadings(TorchDispatchMode):
    """Counts how often the host asks for a number, for which it would wait on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.readings += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("micro", [None, 25])
@pytest.mark.parametrize("extra", ["", "everything"])
@pytest.mark.parametrize("augmentation", [PLAIN, Augmentation(crop_padding=1, rotation=10, cutout=3)])
def test_the_host_asks_for_nothing_within_an_epoch(micro: int | None, augmentation: Augmentation, extra: str) -> None:
    recipe = OPTIMIZERS["adam"] | EXTRAS.get(extra, {})
    trainer = Trainer(task(augmentation=augmentation.model_dump(), **recipe), replace(CPU, micro_batch=micro))
    readings = []

    class Watching(Listener):
        def step(self, epoch: int, done: int, total: int) -> None:
            readings.append(count.readings)

    with CountReadings() as count:
        trainer.epoch(1, Watching())
        float(torch.ones(()))
    assert set(readings) == {0}
    assert count.readings == 1, "the counter sees what is read"


@pytest.mark.parametrize("micro", [None, 2, 3])
def test_a_last_image_alone_is_left_out(micro: int | None) -> None:
    """On feature maps of one pixel, batch normalisation refuses a single image."""
    deep = Architecture((1, 1, 1, 1, 1), (8,) * 5, (1, 2, 2, 2, 2), stem_width=8, in_channels=1, size=8)
    one = task(architecture=deep, batch=8, augmentation=PLAIN, epochs=1)
    one = replace(one, fit=first(one.fit, 17))
    _, listener = trained(one, replace(CPU, micro_batch=micro))
    assert sorted(set(listener.steps)) == [(1, 1, 2), (1, 2, 2)]
    assert listener.epochs[0].train_accuracy * 16 == pytest.approx(round(listener.epochs[0].train_accuracy * 16))


def sizes_seen(trainer: Trainer, count: int) -> list[int]:
    seen: list[int] = []
    hook = trainer.network.register_forward_hook(lambda _module, inputs, _out: seen.append(len(inputs[0])))
    for _ in trainer.steps(torch.arange(count)):
        pass
    hook.remove()
    return seen


@pytest.mark.parametrize(
    ("batch", "micro", "count", "sizes"),
    [
        (128, None, 300, [128, 128, 44]),
        (128, 64, 256, [64, 64, 64, 64]),
        (128, 64, 255, [64, 64, 64, 63]),
        (100, 64, 100, [50, 50]),
        (7, 3, 7, [3, 2, 2]),
        (64, 128, 64, [64]),
        (5, 2, 5, [3, 2]),
        (3, 2, 3, [3]),
    ],
)
def test_a_batch_is_split_evenly_into_pieces_of_at_most_the_micro_batch(
    batch: int, micro: int | None, count: int, sizes: list[int]
) -> None:
    trainer = Trainer(task(batch=batch), replace(CPU, micro_batch=micro))
    assert sizes_seen(trainer, count) == sizes


def freeze_statistics(trainer: Trainer) -> None:
    """Let batch normalisation use its stored statistics, so that a piece of a batch is as good as the whole."""
    for module in trainer.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = lambda mode=True, self=module: self  # type: ignore[method-assign]
            module.training = False


@pytest.mark.parametrize("micro", [2, 7, 32])
def test_gradients_summed_over_pieces_are_those_of_the_whole_batch(micro: int) -> None:
    gradients, losses = [], []
    for setup in (CPU, replace(CPU, micro_batch=micro)):
        trainer = Trainer(task(augmentation=PLAIN), setup)
        freeze_statistics(trainer)
        assert list(trainer.steps(torch.arange(64))) == [1]
        losses.extend(read_totals(trainer.totals))
        gradients.append([parameter.grad for parameter in trainer.network.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[1][1] == losses[0][1]


def test_evaluation_is_mean_loss_and_share_of_correct_answers() -> None:
    one = task()
    network = build(SMALL, seed=0)
    many = DeviceImages(one.fit.images.repeat(3, 1, 1, 1)[:1203], one.fit.labels.repeat(3)[:1203])
    normalise = Normaliser.of(one.normalisation, torch.device("cpu"))
    loss, accuracy = evaluate(network, many, normalise, CPU)
    with torch.no_grad():
        logits = network.eval()(normalise(many.images))
    assert loss == pytest.approx(float(functional.cross_entropy(logits, many.labels)), rel=1e-5)
    assert accuracy == int((logits.argmax(1) == many.labels).sum()) / 1203


def test_evaluation_keeps_to_a_micro_batch() -> None:
    one, network = task(), build(SMALL, seed=0)
    seen: list[int] = []
    network.register_forward_hook(lambda _module, inputs, _out: seen.append(len(inputs[0])))
    normalise = Normaliser.of(one.normalisation, torch.device("cpu"))
    evaluate(network, one.fit, normalise, replace(CPU, micro_batch=200))
    assert seen == [200, 200, 100]


def test_a_loss_that_is_not_finite_ends_the_training_with_its_epoch() -> None:
    listener = Listener()
    wild = task(learning_rate=100, weight_decay=1, epochs=9, t_max=9, batch=16)
    with pytest.raises(RunFailedError, match=r"^the (training|evaluation) loss is (nan|inf) in epoch \d ") as raised:
        train(wild, CPU, listener)
    assert f"in epoch {len(listener.epochs) + 1} (SGD lr 100 wd 1, 9 epochs, batch 16)" in raised.value.reason


def test_what_an_observer_raises_passes_through() -> None:
    class Enough(Exception):
        pass

    class Impatient(Listener):
        def step(self, epoch: int, done: int, total: int) -> None:
            raise Enough

    with pytest.raises(Enough):
        train(task(), CPU, Impatient())


MEMORY_SCRIPT = """
import resource, sys
from dataclasses import replace
import torch
import test_train as t

torch.set_num_threads(1)
wide = t.Architecture((1,), (16,), (1,), stem_width=16, in_channels=1, size=128)
images = torch.zeros(64, 1, 128, 128, dtype=torch.uint8)
tiny = t.DeviceImages(images[:2], torch.zeros(2, dtype=torch.int64))
recipe = t.Recipe(optimizer="sgd", learning_rate=0.1, epochs=1, t_max=1, batch=64, augmentation=t.PLAIN)
constants = t.digits().normalisation
small = t.Task(wide, recipe, 0, tiny, tiny, constants)
t.trained(small)  # whatever is loaded on first use is loaded before memory gets scarce
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + int(float(sys.argv[1]) * 2**30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
listener = t.Listener()
full = replace(small, fit=t.DeviceImages(images, torch.arange(64) % 10))
try:
    t.train(full, t.CPU, listener)
except t.RunFailedError as error:
    print("failed:", error)
print([setup.micro_batch for setup in listener.restarts], len(listener.epochs))
"""


def run_with_memory(gibibytes: float) -> list[str]:
    environment = os.environ | {
        "PYTHONPATH": os.path.dirname(__file__),
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # freed is freed
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, str(gibibytes)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_training_that_runs_out_of_memory_begins_again_with_half_the_micro_batch() -> None:
    (told,) = run_with_memory(0.3)
    restarts, epochs = told.rsplit(" ", 1)
    assert restarts in ("[32]", "[32, 16]", "[32, 16, 8]")
    assert epochs == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_training_for_which_no_memory_is_enough_fails() -> None:
    failed, told = run_with_memory(0.002)
    assert failed == "failed: out of memory on cpu, even with 2 images at a time"
    assert told == "[32, 16, 8, 4, 2] 0"


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUDA error: out of memory", True),
        ("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory", True),
        ("Expected more than 1 value per channel when training", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_what_running_out_of_memory_looks_like(message: str, memory: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) is memory


def test_bfloat16_trains_over_weights_of_32_bits() -> None:
    network, listener = trained(task(epochs=1), replace(CPU, precision="bf16"))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert listener.epochs != trained(task(epochs=1))[1].epochs
    assert listener.epochs[0].train_loss == pytest.approx(trained(task(epochs=1))[1].epochs[0].train_loss, rel=0.1)


def test_the_pace_of_this_machine_is_measured_without_a_trace() -> None:
    before = torch.get_rng_state()
    setup, pace = measure_pace(task(), CPU)
    assert setup == CPU
    assert pace is not None
    assert pace.macs_per_second > 0
    assert pace.seconds(1000, trained=10, evaluated=3) * pace.macs_per_second == pytest.approx(33_000)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_setup_is_the_fastest_of_those_given() -> None:
    """Emulated or not: a batch in pieces of two images is slower than at once, whatever the machine."""
    slow = replace(CPU, micro_batch=2)
    assert measure_pace(task(), slow, [CPU])[0] == CPU
    assert measure_pace(task(), CPU, [slow])[0] == CPU


def test_a_stop_is_heard_during_evaluation() -> None:
    network, one = build(SMALL, seed=0), task()
    seen: list[int] = []
    network.register_forward_hook(lambda *_: seen.append(1))

    def tick() -> None:
        if len(seen) == 2:
            raise Interrupted

    normalise = Normaliser.of(one.normalisation, torch.device("cpu"))
    with pytest.raises(Interrupted):
        evaluate(network, one.fit, normalise, replace(CPU, micro_batch=100), tick)
    assert len(seen) == 2


def test_what_is_timed_beside_a_setup_keeps_to_what_was_asked_for() -> None:
    two = replace(CPU, threads=2)
    in_bf16 = replace(two, precision="bf16")
    assert {(one.threads, one.layout) for one in alternatives(two)} == {(2, "contiguous"), (1, "channels-last")}
    assert alternatives(CPU) == (), "with one thread the same command trains the same bits"
    assert {one.precision for one in alternatives(in_bf16, "bf16")} == {"bf16"}
    assert {one.precision for one in alternatives(in_bf16, "auto")} == {"bf16", "float32"}
    assert {one.precision for one in alternatives(two, "auto")} == {"float32"}
    assert alternatives(replace(two, device="cuda:0")) == ()


@pytest.mark.parametrize("layout", ["channels-last", "contiguous"])
def test_the_layout_is_that_of_the_setup(layout: Layout) -> None:
    """Told apart by an activation in the middle of the network."""
    trainer = Trainer(task(), replace(CPU, layout=layout))
    strides: list[tuple[int, ...]] = []
    trainer.network.layer1.register_forward_hook(lambda _module, _inputs, out: strides.append(out.stride()))  # type: ignore[operator, union-attr]
    list(trainer.steps(torch.arange(64)))
    assert strides == [(512, 1, 64, 8) if layout == "channels-last" else (512, 64, 8, 1)]


def test_layouts_differ_in_rounding_alone() -> None:
    curves = [trained(task(epochs=1), replace(CPU, layout=layout))[1].epochs[0] for layout in get_args(Layout)]
    assert curves[0].train_loss == pytest.approx(curves[1].train_loss, rel=1e-4)


def test_the_cpu_is_chosen_when_it_is_asked_for() -> None:
    assert choose_setup("cpu", "float32") == Setup("cpu", "float32", torch.get_num_threads())
    assert choose_setup("cpu", "bf16").precision == "bf16"


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "cpu:0", "CPU"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=r"--device .*must be auto, cpu, cuda or cuda:N"):
        choose_setup(device)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="--device 'cuda:99': is not there: this machine has"):
        choose_setup("cuda:99")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="--precision 'float16': must be one of auto, float32, bf16"):
        choose_setup("cpu", "float16")
