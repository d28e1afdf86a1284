from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch.utils._python_dispatch import TorchDispatchMode
from training import (
    CPU,
    EXTRAS,
    OPTIMIZERS,
    PLAIN,
    SMALL,
    Listener,
    first,
    freeze_statistics,
    task,
    trained,
)

from budgetnas.architecture import Architecture
from budgetnas.errors import Interrupted, RunFailedError
from budgetnas.experiments.bench.loops import OurLoop, ReferenceLoop
from budgetnas.space.recipe import Augmentation
from budgetnas.training import train
from budgetnas.training.device import DeviceImages, Normaliser
from budgetnas.training.engine import Trainer, applied, is_out_of_memory
from budgetnas.training.evaluation import balanced_weights, evaluate, read_metrics
from budgetnas.training.measure import fastest_runtime, measure_pace
from budgetnas.training.network import build
from budgetnas.training.runtime import Layout


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", *EXTRAS])
@pytest.mark.parametrize("augmentation", [PLAIN, Augmentation(), Augmentation(crop_padding=1, rotation=10, cutout=3)])
def test_equal_tasks_give_equal_bits(augmentation: Augmentation, extra: str) -> None:
    recipe = {"t_max": 3} | EXTRAS.get(extra, {})
    example, other = (trained(task(augmentation=augmentation.model_dump(), **recipe)) for _ in range(2))
    assert example[1].epochs == other[1].epochs
    for key, tensor in example[0].state_dict().items():
        assert torch.equal(tensor, other[0].state_dict()[key]), key


def test_another_seed_gives_another_training() -> None:
    assert trained(task(seed=0))[1].epochs != trained(task(seed=1))[1].epochs


def test_global_random_state_and_settings_are_unchanged() -> None:
    torch.manual_seed(9)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    trained(task(epochs=1), replace(CPU, threads=threads + 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert torch.backends.cudnn.allow_tf32


def test_float32_trains_without_tf32_and_a_reference_with_pytorchs_default() -> None:
    seen: list[str] = []
    runtime, example = replace(CPU, threads=1), task(epochs=1)
    with applied(runtime):
        for loop in (OurLoop(runtime), ReferenceLoop(runtime.torch_device)):
            run = loop.start(example)
            run.network.register_forward_hook(lambda *_: seen.append(_float32_convolutions()))
            next(iter(run.steps(1)))
    assert seen == ["ieee", "tf32"]
    assert _float32_convolutions() == "tf32"


def _float32_convolutions() -> str:
    return str(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]


def test_global_random_state_does_not_matter() -> None:
    torch.manual_seed(1)
    example = trained(task(epochs=1))[1].epochs
    torch.manual_seed(2)
    assert trained(task(epochs=1))[1].epochs == example


def test_a_network_learns_digits() -> None:
    _, listener = trained(task(epochs=12, t_max=12, batch=32, augmentation={"crop_padding": 1, "flip": False}))
    assert listener.epochs[-1].eval_accuracy > 0.85
    assert listener.epochs[-1].train_loss < listener.epochs[0].train_loss


def test_on_step_is_called_for_every_step() -> None:
    _, listener = trained(task(batch=200))
    told = [(epoch, done, 3) for epoch in (1, 2) for done in (1, 2, 3, 3)]
    assert listener.steps == told, "each optimiser step, then each batch of the evaluation"
    assert [epoch.epoch for epoch in listener.epochs] == [1, 2]
    assert listener.restarts == []


def test_the_memory_of_a_training_is_freed_when_it_ends() -> None:
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
def test_the_host_never_waits_within_an_epoch(micro: int | None, augmentation: Augmentation, extra: str) -> None:
    recipe = OPTIMIZERS["adam"] | EXTRAS.get(extra, {})
    trainer = Trainer(task(augmentation=augmentation.model_dump(), **recipe), replace(CPU, micro_batch=micro))
    readings = []

    class Watching(Listener):
        def on_step(self, epoch: int, done: int, total: int) -> None:
            readings.append(count.readings)

    with CountReadings() as count:
        trainer.epoch(1, Watching())
        float(torch.ones(()))
    assert set(readings) == {0}
    assert count.readings == 1, "the counter sees what is read"


@pytest.mark.parametrize("micro", [None, 2, 3])
def test_a_last_batch_of_a_single_image_is_dropped(micro: int | None) -> None:
    """On feature maps of one pixel, batch normalisation refuses a single image."""
    deep = Architecture((1, 1, 1, 1, 1), (8,) * 5, (1, 2, 2, 2, 2), stem_width=8, in_channels=1, size=8)
    example = task(architecture=deep, batch=8, augmentation=PLAIN, epochs=1)
    example = replace(example, train=first(example.train, 17))
    _, listener = trained(example, replace(CPU, micro_batch=micro))
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


@pytest.mark.parametrize("micro", [2, 7, 32])
def test_gradients_summed_over_pieces_are_those_of_the_whole_batch(micro: int) -> None:
    gradients, losses = [], []
    for runtime in (CPU, replace(CPU, micro_batch=micro)):
        trainer = Trainer(task(augmentation=PLAIN), runtime)
        freeze_statistics(trainer)
        assert list(trainer.steps(torch.arange(64))) == [1]
        losses.extend(read_metrics(trainer.metrics))
        gradients.append([parameter.grad for parameter in trainer.network.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
    assert losses[1][1] == losses[0][1]


def test_evaluation_returns_mean_loss_and_accuracy() -> None:
    example = task()
    network = build(SMALL, seed=0)
    many = DeviceImages(example.train.images.repeat(3, 1, 1, 1)[:1203], example.train.labels.repeat(3)[:1203])
    normalise = Normaliser.of(example.normalisation, torch.device("cpu"))
    loss, accuracy, balanced, correct = evaluate(network, many, normalise, CPU, classes=SMALL.classes)
    with torch.no_grad():
        logits = network.eval()(normalise(many.images))
    assert loss == pytest.approx(float(functional.cross_entropy(logits, many.labels)), rel=1e-5)
    hits = logits.argmax(1) == many.labels
    assert accuracy == int(hits.sum()) / 1203
    assert correct == tuple(int(hits[many.labels == label].sum()) for label in range(10))
    assert balanced == pytest.approx(
        np.mean([float(hits[many.labels == label].double().mean()) for label in range(10)])
    )


def test_class_weights_have_mean_1_over_the_images_and_a_missing_class_none() -> None:
    labels = torch.tensor([0] * 6 + [2] * 3 + [3])
    weights = balanced_weights(labels, 5)
    torch.testing.assert_close(weights, torch.tensor([10 / 18, 0.0, 10 / 9, 10 / 3, 0.0]))
    assert float(weights[labels].mean()) == pytest.approx(1)
    assert torch.equal(balanced_weights(torch.arange(5).repeat(7), 5), torch.ones(5))


def test_without_class_weights_the_bits_are_those_of_equal_weights() -> None:
    """The digits are cut so that all classes have 40 images."""
    example = task()
    rows = torch.cat([torch.nonzero(example.train.labels == label)[:40, 0] for label in range(10)])
    example = replace(example, train=example.train.take(rows))
    recipe = example.recipe.model_copy(update={"class_weights": "balanced"})
    (one, first_epochs), (other, second_epochs) = trained(example), trained(replace(example, recipe=recipe))
    assert first_epochs.epochs == second_epochs.epochs
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_class_weights_find_more_of_a_rare_class() -> None:
    example = task(epochs=6, t_max=6)
    rare = example.train.labels == 8
    kept = ~rare | (rare.cumsum(0) <= 5)
    example = replace(example, train=example.train.take(torch.nonzero(kept)[:, 0]))
    recipe = example.recipe.model_copy(update={"class_weights": "balanced"})
    (_, plain), (_, weighted) = trained(example), trained(replace(example, recipe=recipe))
    assert weighted.epochs[-1].eval_correct[8] > plain.epochs[-1].eval_correct[8]


def test_an_epoch_has_the_correct_predictions_of_each_class() -> None:
    """A class without images has no part in the balanced accuracy."""
    example = task()
    kept = example.evaluation.labels != 3
    evaluation = DeviceImages(example.evaluation.images[kept], example.evaluation.labels[kept])
    _, listener = trained(replace(example, evaluation=evaluation))
    images = torch.bincount(evaluation.labels, minlength=10).tolist()
    for epoch in listener.epochs:
        assert sum(epoch.eval_correct) / len(evaluation) == epoch.eval_accuracy
        shares = [hits / of for hits, of in zip(epoch.eval_correct, images, strict=True) if of]
        assert len(shares) == 9
        assert epoch.eval_balanced_accuracy == pytest.approx(sum(shares) / 9)
    _, silent = trained(replace(example, evaluation=example.evaluation.empty()))
    assert {epoch.eval_correct for epoch in silent.epochs} == {()}
    assert all(math.isnan(epoch.eval_balanced_accuracy) for epoch in silent.epochs)


def test_evaluation_respects_the_micro_batch() -> None:
    example, network = task(), build(SMALL, seed=0)
    seen: list[int] = []
    network.register_forward_hook(lambda _module, inputs, _out: seen.append(len(inputs[0])))
    normalise = Normaliser.of(example.normalisation, torch.device("cpu"))
    evaluate(network, example.train, normalise, replace(CPU, micro_batch=200), classes=10)
    assert seen == [200, 200, 100]


def test_a_loss_that_is_not_finite_fails_the_run_after_its_epoch() -> None:
    listener = Listener()
    wild = task(learning_rate=100, weight_decay=1, epochs=9, t_max=9, batch=16)
    with pytest.raises(RunFailedError, match=r"^the (training|evaluation) loss is (nan|inf) in epoch \d ") as raised:
        train(wild, CPU, listener)
    assert f"in epoch {len(listener.epochs) + 1} (SGD lr 100 wd 1, 9 epochs, batch 16)" in raised.value.reason


def test_exceptions_of_callbacks_pass_through() -> None:
    class Enough(Exception):
        pass

    class Impatient(Listener):
        def on_step(self, epoch: int, done: int, total: int) -> None:
            raise Enough

    with pytest.raises(Enough):
        train(task(), CPU, Impatient())


MEMORY_SCRIPT = """
import resource, sys
from dataclasses import replace
import torch
import training as t
from budgetnas.errors import RunFailedError

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
full = replace(small, train=t.DeviceImages(images, torch.arange(64) % 10))
try:
    t.train(full, t.CPU, listener)
except RunFailedError as error:
    print("failed:", error)
print([runtime.micro_batch for runtime in listener.restarts], len(listener.epochs))
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_out_of_memory_restarts_with_half_the_micro_batch() -> None:
    (told,) = run_with_memory(0.3)
    restarts, epochs = told.rsplit(" ", 1)
    assert restarts in ("[32]", "[32, 16]", "[32, 16, 8]")
    assert epochs == "1"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_out_of_memory_with_the_smallest_micro_batch_fails() -> None:
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
def test_errors_that_mean_out_of_memory(message: str, memory: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) is memory


def test_bfloat16_trains_over_weights_of_32_bits() -> None:
    network, listener = trained(task(epochs=1), replace(CPU, precision="bf16"))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert listener.epochs != trained(task(epochs=1))[1].epochs
    assert listener.epochs[0].train_loss == pytest.approx(trained(task(epochs=1))[1].epochs[0].train_loss, rel=0.1)


def test_measuring_the_pace_leaves_the_random_state() -> None:
    before = torch.get_rng_state()
    pace = measure_pace(task(), CPU)
    assert pace is not None
    assert pace.macs_per_second > 0
    assert pace.seconds(1000, trained=10, evaluated=3) * pace.macs_per_second == pytest.approx(33_000)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fastest_runtime_is_found() -> None:
    """On every machine a batch in pieces of two images is slower than the whole batch."""
    slow = replace(CPU, micro_batch=2)
    assert fastest_runtime(task(), [slow, CPU]) == CPU
    assert fastest_runtime(task(), [CPU, slow]) == CPU


def test_evaluation_can_be_interrupted() -> None:
    network, example = build(SMALL, seed=0), task()
    seen: list[int] = []
    network.register_forward_hook(lambda *_: seen.append(1))

    def tick() -> None:
        if len(seen) == 2:
            raise Interrupted

    normalise = Normaliser.of(example.normalisation, torch.device("cpu"))
    with pytest.raises(Interrupted):
        evaluate(network, example.train, normalise, replace(CPU, micro_batch=100), tick, classes=10)
    assert len(seen) == 2


@pytest.mark.parametrize("layout", ["channels-last", "contiguous"])
def test_the_layout_is_that_of_the_runtime(layout: Layout) -> None:
    """Told apart by an activation in the middle of the network."""
    trainer = Trainer(task(), replace(CPU, layout=layout))
    strides: list[tuple[int, ...]] = []
    trainer.network.layer1.register_forward_hook(lambda _module, _inputs, out: strides.append(out.stride()))  # type: ignore[operator, union-attr]
    list(trainer.steps(torch.arange(64)))
    assert strides == [(512, 1, 64, 8) if layout == "channels-last" else (512, 64, 8, 1)]


def test_layouts_differ_in_rounding_alone() -> None:
    curves = [trained(task(epochs=1), replace(CPU, layout=layout))[1].epochs[0] for layout in get_args(Layout)]
    assert curves[0].train_loss == pytest.approx(curves[1].train_loss, rel=1e-4)
