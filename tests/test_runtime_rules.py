"""Precision, threads and layout follow from rules, so the same command trains the same bits."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from budgetnas.architecture import Architecture, count, named
from budgetnas.errors import InputError
from budgetnas.runs.interrupts import Stopper
from budgetnas.runs.timing import Timing
from budgetnas.searching.callbacks import SearchCallbacks
from budgetnas.searching.options import SearchOptions
from budgetnas.searching.session import run_search
from budgetnas.space.search_space import SearchSpace
from budgetnas.training import CpuFacts, RuntimeConfig, RuntimeRules, runtime_rules
from budgetnas.training.measure import Pace
from budgetnas.training.runtime import ONE_THREAD_MACS, Capability, check_precision, uses_bf16

AVX2 = CpuFacts(bf16=False, threads=2)
AMX = CpuFacts(bf16=True, threads=2)
GPU = RuntimeRules("cuda:0", "auto", AVX2, capability=(9, 0), graphs=True)
SMALL = Architecture((1, 1, 1), (8, 16, 32), (1, 2, 2), stem_width=8)
MIDDLE = Architecture((1, 1, 1), (16, 32, 64), (1, 2, 2), stem_width=16)
DIGITS = replace(MIDDLE, size=8, in_channels=1)
TINY = replace(SMALL, size=8, in_channels=1)


@pytest.mark.parametrize(
    ("cpu", "architecture", "expected"),
    [
        (AMX, named("v2"), ("bf16", 2, "channels-last")),
        (AVX2, named("v2"), ("float32", 2, "channels-last")),
        (AMX, MIDDLE, ("bf16", 2, "channels-last")),
        (AVX2, MIDDLE, ("float32", 2, "channels-last")),
        (AMX, SMALL, ("bf16", 2, "contiguous")),
        (AVX2, SMALL, ("float32", 2, "contiguous")),
        (AMX, DIGITS, ("float32", 2, "channels-last")),
        (AMX, TINY, ("float32", 1, "channels-last")),
        (CpuFacts(bf16=False, threads=1), SMALL, ("float32", 1, "channels-last")),
    ],
)
def test_the_rules_of_a_cpu(cpu: CpuFacts, architecture: Architecture, expected: tuple[str, int, str]) -> None:
    chosen = runtime_rules("cpu", cpu=cpu).runtime_for(architecture)
    assert (chosen.precision, chosen.threads, chosen.layout) == expected
    assert not chosen.benchmark


def test_a_precision_that_the_user_names_is_kept() -> None:
    assert runtime_rules("cpu", "bf16", cpu=AVX2).runtime_for(TINY).precision == "bf16"
    assert runtime_rules("cpu", "float32", cpu=AMX).runtime_for(named("v2")).precision == "float32"


@pytest.mark.parametrize("cpu", [AVX2, AMX])
def test_a_cpu_trains_in_fp16_only_if_the_user_names_it(cpu: CpuFacts) -> None:
    assert runtime_rules("cpu", cpu=cpu).runtime_for(named("v2")).precision != "fp16"
    assert runtime_rules("cpu", "fp16", cpu=cpu).runtime_for(named("v2")).precision == "fp16"
    assert runtime_rules("cpu", "fp16", cpu=cpu).runtime_for(TINY).precision == "fp16"


GPUS: list[tuple[str, Capability, str]] = [
    ("P100", (6, 0), "float32"),
    ("V100", (7, 0), "fp16"),
    ("T4", (7, 5), "fp16"),
    ("RTX 8000", (7, 5), "fp16"),
    ("A100", (8, 0), "bf16"),
    ("RTX 3090", (8, 6), "bf16"),
    ("H100", (9, 0), "bf16"),
]


@pytest.mark.parametrize(("gpu", "capability", "expected"), GPUS, ids=[gpu for gpu, _, _ in GPUS])
def test_the_precision_of_a_gpu(gpu: str, capability: Capability, expected: str) -> None:
    """Small images too: only on a CPU they gain nothing from 16 bits."""
    rules = replace(GPU, capability=capability)
    assert rules.fastest_precision == expected
    assert {rules.runtime_for(network).precision for network in (named("v2"), TINY)} == {expected}
    for asked in ("float32", "fp16"):
        check_precision(asked, "cuda:0", capability)
        assert replace(rules, precision=asked).runtime_for(TINY).precision == asked


def test_a_gpu_that_would_emulate_bf16_is_an_error() -> None:
    check_precision("bf16", "cuda:0", (8, 0))
    check_precision("auto", "cuda:0", (7, 5))
    rule = "--precision 'bf16': needs a GPU of compute capability 8.0 or later; cuda:1 has 7.5; use --precision auto"
    with pytest.raises(InputError) as raised:
        check_precision("bf16", "cuda:1", (7, 5))
    assert str(raised.value) == rule
    assert raised.value.exit_code == 2


def test_the_thread_limit_is_between_the_networks_that_were_measured() -> None:
    assert count(TINY).macs < ONE_THREAD_MACS < count(DIGITS).macs


def test_the_rules_of_a_gpu() -> None:
    search, report = 20 * 10_000, 60 * 50_000
    short, long = (GPU.runtime_for(named("v2"), images=images) for images in (search, report))
    assert (short.precision, short.layout, short.graphs, short.benchmark) == ("bf16", "channels-last", True, False)
    assert long == replace(short, benchmark=True)
    assert GPU.alternatives(named("v2")) == (short,)
    assert replace(GPU, precision="float32").runtime_for(named("v2")).layout == "channels-last"


def test_an_estimate_includes_the_start_of_each_training_on_a_gpu() -> None:
    """10 trainings of 100 M multiply-accumulates an image and 1,000 images: 3 s of steps each, or 30 s."""
    on_a_gpu, work = RuntimeConfig("cuda:0", "bf16", threads=1), {"trained": 1_000, "evaluated": 0}
    assert Timing(on_a_gpu, Pace(1e11)).seconds(1e9, 1, **work, trainings=10) == pytest.approx(30 + 10 * 0.5)
    assert Timing(on_a_gpu, Pace(1e10)).seconds(1e9, 1, **work, trainings=10) == pytest.approx(300 + 10 * 1.3)
    assert Timing(GPU, Pace(1e11)).seconds(1e8, 1, **work) == pytest.approx(3.5)
    assert Timing(replace(on_a_gpu, device="cpu"), Pace(1e11)).seconds(1e9, 1, **work, trainings=10) == 30
    assert Timing(on_a_gpu, None).seconds(1e9, 1, **work) is None


@pytest.mark.parametrize(
    ("instructions", "limit", "used"),
    [
        (True, "", True),
        (True, "ALL", True),
        (True, "avx512_core_bf16", True),
        (True, "AVX512_CORE", False),
        (True, "AVX2", False),
        (True, "avx2", False),
        (False, "", False),
        (False, "AVX512_CORE_AMX", False),
    ],
)
def test_a_limit_on_the_instruction_set_is_honoured(instructions: bool, limit: str, used: bool) -> None:
    """Emulated bfloat16 is six times slower than float32 for the small network of docs/performance.md."""
    assert uses_bf16(instructions, limit) is used


def test_the_facts_of_this_process() -> None:
    assert CpuFacts.of_this_process().threads == torch.get_num_threads()


def test_tuning_times_what_the_user_left_open() -> None:
    def timed(precision: str, cpu: CpuFacts, architecture: Architecture) -> list[RuntimeConfig]:
        rules = runtime_rules("cpu", precision, cpu=cpu)
        alternatives = rules.alternatives(architecture)
        assert alternatives[0] == rules.runtime_for(architecture)
        assert len(set(alternatives)) == len(alternatives)
        return list(alternatives)

    both = {("channels-last", 1), ("contiguous", 1), ("channels-last", 2), ("contiguous", 2)}
    assert {(config.layout, config.threads) for config in timed("auto", AVX2, MIDDLE)} == both
    assert {config.precision for config in timed("auto", AMX, DIGITS)} == {"bf16", "float32"}
    assert {config.precision for config in timed("bf16", AMX, MIDDLE)} == {"bf16"}
    assert {config.precision for config in timed("auto", AVX2, MIDDLE)} == {"float32"}
    assert {config.precision for config in timed("fp16", AMX, MIDDLE)} == {"fp16"}


def searched(folder: Path, cpu: CpuFacts | None, **changes: Any) -> list[tuple[object, ...]]:
    """Return what a search recorded of its runs, to the bit, without times."""
    folder.mkdir()
    options = SearchOptions(
        budget=20_000,
        trials=3,
        data="digits",
        resolution=16,
        subset=64,
        subset_eval=32,
        epochs=2,
        batch=16,
        seeds=(),
        space=SearchSpace(blocks=((1, 1), (1, 1)), widths=(4, 16)),
        device="cpu",
        storage=f"sqlite:///{folder}/budgetnas.db",
        **changes,
    )
    result = run_search(options, Stopper(), SearchCallbacks(), cpu=cpu)
    with closing(result.records) as records:
        return [
            (
                run.architecture.digest,
                run.recipe.digest,
                run.environment,
                *(repr(replace(epoch, seconds=0.0)) for epoch in records.curve(run.id)),
            )
            for run in records.runs()
        ]


@pytest.mark.parametrize("cpu", [None, AVX2, AMX], ids=["this processor", "two AVX2 cores", "two AMX cores"])
def test_the_same_search_gives_the_same_bits(cpu: CpuFacts | None, tmp_path: Path) -> None:
    """With the rules of other instruction sets too: where they are missing, bfloat16 is emulated."""
    first, second = (searched(tmp_path / name, cpu) for name in "ab")
    assert first == second
    assert len(first) == 3
    facts = cpu or CpuFacts.of_this_process()
    for _, _, environment, *_ in first:
        assert json.loads(str(environment))["precision"] == ("bf16" if facts.bf16 else "float32")


@pytest.mark.slow  # a CPU emulates fp16
def test_a_search_in_fp16_records_it_and_gives_the_same_bits(tmp_path: Path) -> None:
    first, second = (searched(tmp_path / name, AMX, precision="fp16") for name in "ab")
    assert first == second
    assert {json.loads(str(environment))["precision"] for _, _, environment, *_ in first} == {"fp16"}


def test_a_tuned_search_records_what_it_chose(tmp_path: Path) -> None:
    environments = {str(run[2]) for run in searched(tmp_path / "a", AVX2, tune_setup=True)}
    assert len(environments) == 1, "one config, timed before the first trial, for the whole search"


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "cpu:0", "CPU"])
def test_an_unknown_device_is_an_error(device: str) -> None:
    with pytest.raises(InputError, match=r"--device .*must be auto, cpu, cuda, cuda:N or mps"):
        runtime_rules(device)


def test_a_missing_gpu_is_an_error() -> None:
    with pytest.raises(InputError, match="--device 'cuda:99': is missing: this machine has"):
        runtime_rules("cuda:99")


def test_an_unknown_precision_is_an_error() -> None:
    with pytest.raises(InputError, match="--precision 'float16': must be one of auto, float32, bf16, fp16"):
        runtime_rules("cpu", "float16")
