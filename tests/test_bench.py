from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from torch import nn
from training import CPU, digits, task

from budgetnas.architecture import Architecture, named
from budgetnas.cli.app import main
from budgetnas.experiments.bench.hardware import PeakMemory, busy_cores, matrix_peak
from budgetnas.experiments.bench.loops import OurLoop, PilImages, ReferenceLoop
from budgetnas.experiments.bench.protocol import training_flops
from budgetnas.experiments.bench.summary import BenchSummary, LoopSummary, Spread
from budgetnas.metrics import ratio_interval
from budgetnas.space.recipe import Augmentation
from budgetnas.training.memory import free_as_usual, keep_freed_memory
from budgetnas.training.network import build
from budgetnas.training.runtime import Precision

pytestmark = pytest.mark.slow

DEVICE = torch.device("cpu")
NETWORK = ("--blocks", "1,1", "--widths", "4,8", "--stem-width", "4")


def test_the_counted_operations_are_those_of_a_training_step() -> None:
    """Counted by hooks on a real network: forward, and backward what autograd needs."""
    architecture = Architecture((2, 1), (4, 6), (1, 2), stem_width=5, size=8)
    network = build(architecture, seed=0)
    made = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal made
        assert isinstance(module, nn.Conv2d | nn.Linear)
        fan_in = math.prod(module.weight.shape[1:])
        made += 2 * out[0].numel() * fan_in * (3 if inputs[0].requires_grad else 2)

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1))
    assert training_flops(architecture) == made


def test_v2_takes_two_gigaflop_an_image() -> None:
    assert training_flops(named("v2")) / 1e9 == pytest.approx(2.009, abs=5e-4)


@pytest.mark.parametrize("augmentation", [Augmentation(crop_padding=0, flip=False), Augmentation(rotation=10)])
def test_the_reference_sees_the_same_images(augmentation: Augmentation) -> None:
    example = task(augmentation=augmentation.model_dump())
    images = PilImages(example)
    assert len(images) == len(example.train)
    image, label = images[7]
    assert (image.shape, image.dtype, label) == (
        example.train.images[7].shape,
        torch.float32,
        int(example.train.labels[7]),
    )
    if not augmentation.flip:
        mean, std = (
            torch.tensor(part).view(-1, 1, 1) for part in (example.normalisation.mean, example.normalisation.std)
        )
        torch.testing.assert_close(image, (example.train.images[7].float() / 255 - mean) / std)


@pytest.mark.parametrize(
    "loop",
    [
        OurLoop(CPU),
        ReferenceLoop(DEVICE),
        ReferenceLoop(DEVICE, tuned=True, workers=1),
        ReferenceLoop(DEVICE, tuned=True, precision="fp16"),
    ],
    ids=lambda loop: f"{loop.name} {getattr(loop, 'precision', '')}",
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_loop_makes_the_same_steps_and_learns(loop: OurLoop | ReferenceLoop, optimizer: str) -> None:
    rate = {"sgd": 0.1, "adam": 0.01}[optimizer]
    example = task(
        epochs=8, t_max=8, batch=32, optimizer=optimizer, learning_rate=rate, augmentation={"crop_padding": 1}
    )
    run = loop.start(example)
    assert [len(list(run.steps(epoch))) for epoch in range(1, 9)] == [16] * 8
    network = run.network.eval()
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (example.normalisation.mean, example.normalisation.std))
    with torch.no_grad():
        answers = network(((digits().evaluation.images.float() / 255) - mean) / std).argmax(dim=1)
    assert (answers == digits().evaluation.labels).float().mean() > 0.5


def test_every_loop_drops_a_last_batch_of_a_single_image() -> None:
    example = task(batch=33)
    example = replace(example, train=example.train.take(torch.arange(100)))
    for loop in (OurLoop(CPU), ReferenceLoop(DEVICE)):
        assert len(list(loop.start(example).steps(1))) == 3


def test_bench_prints_three_loops_and_two_ratios(tmp_path: Path) -> None:
    done = small.run(
        tmp_path, "bench", *NETWORK, "--data", "digits", "--subset", "96", "--batch", "32", "--repeats", "2", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [loop["name"] for loop in result["loops"]] == ["reference", "tuned reference", "ours"]
    rates = [loop["images_per_second"]["median"] for loop in result["loops"]]
    for name, rate in zip(("reference", "tuned reference"), rates, strict=False):
        ratio = result["ratios"][name]
        assert ratio["low"] <= ratio["estimate"] <= ratio["high"]
        assert ratio["n"] == 2
        assert ratio["estimate"] == pytest.approx(rates[2] / rate, rel=1.0)
    for loop in result["loops"]:
        assert loop["report_seconds"] == pytest.approx(3_000_000 / loop["images_per_second"]["median"])
        assert len(loop["accuracies"]) == 2
    assert {"bf16", "float32"} == set(result["peaks"])
    assert "96 images an epoch" in result["title"]
    assert "torch " in result["where"]


def test_the_table_has_all_figures() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    loops = tuple(
        LoopSummary(name, "settings", spread, 1.5e6, {"bf16": 0.5}, spread, 3 << 20, (0.5, 0.7))
        for name in ("reference", "tuned reference", "ours")
    )
    ratios = {"reference": ratio_interval([2.0, 2.2], [1.0, 1.0])}
    summary = BenchSummary("title", loops, ratios, {"bf16": 2e12}, {}, 1, 0.0, "here", "budgetnas bench")
    rows = dict((row[0], row[1]) for row in reversed(summary.rows()))
    assert rows["images/s, median"] == "2.0"
    assert rows["lowest to highest"] == "1.0 to 3.0"
    assert rows["60 epochs of 50,000"] == "1,500,000 s"
    assert rows["of the bf16 matrix peak"] == "50.0%"
    assert rows["peak memory"] == "3 MiB"
    assert (rows["accuracy, mean"], rows["standard deviation"]) == ("60.00%", "14.14%")
    notes = "\n".join(summary.notes())
    for told in ("ours is 2.10 times as fast as the reference, 95 % interval", "2.000 TFLOP/s in bf16", "here"):
        assert told in notes


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--repeats", "1"), "--repeats 1: must be a whole number of at least 2"),
        (("--epochs", "1"), "--epochs 1: must be a whole number of at least 2"),
        (("--batch", "1"), "--batch-size 1: must be a whole number of at least 2"),
        (("--arch", "v3"), "v3"),
        (("--stem-width", "8"), "--stem-width 8: needs --blocks and --widths"),
        (("--blocks", "1,1"), "--widths"),
        (("--device", "cuda:99"), "--device 'cuda:99': is missing"),
        (("--data", "cifar11"), "--data 'cifar11'"),
    ],
)
def test_bench_refuses_invalid_options(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert told in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_a_matrix_peak_is_a_speed(precision: Precision) -> None:
    assert 1e8 < matrix_peak(DEVICE, precision) < 1e16


def test_peak_memory_is_the_maximum() -> None:
    free_as_usual()
    memory = PeakMemory(DEVICE)
    assert memory.read() is None, "nothing is known before the first reset"
    memory.reset()
    held = np.ones(64 << 20, dtype=np.uint8)
    del held
    taken = memory.read()
    assert taken is None or (60 << 20) < taken < (96 << 20)
    memory.reset()
    later = memory.read()
    assert later is None or later < (16 << 20)


def test_freed_memory_is_returned_after_free_as_usual() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096

    free_as_usual()
    before = resident()
    keep_freed_memory()
    blocks = [torch.ones(16 << 20, dtype=torch.uint8) for _ in range(4)]
    del blocks
    kept = resident() - before
    free_as_usual()
    left = resident() - before
    assert kept > (48 << 20), "the next step finds its memory"
    assert left < (16 << 20)


def test_the_load_of_other_processes_is_measured() -> None:
    assert 0 <= busy_cores() < 10_000
