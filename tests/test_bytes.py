"""Bytes of weights and of RAM, against schedules and published figures that know nothing of our layers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import budgetnas
from budgetnas.architecture import Architecture, count, count_parts, default_strides, named
from budgetnas.architecture.budget import (
    BYTES,
    Budget,
    Excess,
    Limit,
    amount,
    heading,
    in_kilobytes,
    parse_limit,
)
from budgetnas.cli import app
from budgetnas.errors import InputError
from budgetnas.searching.options import SearchOptions, read_study_file
from budgetnas.space.search_space import InputShape, SearchSpace

RESNET8 = named("resnet8")
PUBLISHED_WEIGHTS_KIB = 76.9
"""ResNet v1 8 on an STM32H7, int8: STM32 AI model zoo, resnetv1/README.md, STM32Cube.AI 10.0.0."""
PUBLISHED_RAM_KIB = (45.41, 62.51)
"""Its activation RAM with STM32Cube.AI 8.1.0, and with 9.1.0 and 10.0.0."""


@dataclass
class Schedule:
    """Operations in order; every buffer is alive from its first operation to its last."""

    sizes: list[int] = field(default_factory=list)
    used: list[set[int]] = field(default_factory=list)
    weights: int = 0
    channels: int = 0

    def new(self, size: int, *read: int) -> int:
        """An operation that reads buffers and writes a new one."""
        self.sizes.append(size)
        self.used.append({*read, len(self.sizes) - 1})
        return len(self.sizes) - 1

    def over(self, target: int, *read: int) -> None:
        """An operation that writes over a buffer."""
        self.used.append({target, *read})

    def layer(self, inputs: int, outputs: int, kernel: int, pixels: int, read: int) -> int:
        """A convolution or a linear layer with a scale and a bias for each output."""
        self.weights += inputs * outputs * kernel**2
        self.channels += outputs
        return self.new(outputs * pixels, read)

    def peak(self) -> int:
        first = [min(at for at, used in enumerate(self.used) if one in used) for one in range(len(self.sizes))]
        last = [max(at for at, used in enumerate(self.used) if one in used) for one in range(len(self.sizes))]
        return max(
            sum(size for size, start, end in zip(self.sizes, first, last, strict=True) if start <= now <= end)
            for now in range(len(self.used))
        )


def halved(side: int, stride: int) -> int:
    return -(-side // stride)


def schedule_of(network: Architecture) -> Schedule:
    """What a simple runtime does, layer by layer, without anything of the package."""
    plan = Schedule()
    side = halved(network.size, min(network.stem_stride, 2))
    image = plan.new(network.in_channels * network.size**2)
    x, channels = (
        plan.layer(network.in_channels, network.stem_width, network.stem_kernel, side**2, image),
        network.stem_width,
    )
    plan.over(x)
    if network.stem_stride == 4:
        side = halved(side, 2)
        x = plan.new(channels * side**2, x)
    for blocks, width, first in zip(network.blocks, network.widths, network.strides, strict=True):
        for index in range(blocks):
            stride = first if index == 0 else 1
            x, channels, side = residual(plan, network, x, channels, width, side, stride)
    pooled = plan.new(channels, x)
    plan.layer(channels, network.classes, 1, 1, pooled)
    return plan


def residual(
    plan: Schedule, network: Architecture, x: int, channels: int, width: int, side: int, stride: int
) -> tuple[int, int, int]:
    after = halved(side, stride)
    if network.block == "basic":
        wide = width
        a = plan.layer(channels, width, 3, after**2, x)
        plan.over(a)
        b = plan.layer(width, width, 3, after**2, a)
    else:
        wide = 4 * width
        a = plan.layer(channels, width, 1, side**2, x)
        plan.over(a)
        middle = plan.layer(width, width, 3, after**2, a)
        plan.over(middle)
        b = plan.layer(width, wide, 1, after**2, middle)
    if network.se:
        inner = max(4, wide // 16)
        squeezed = plan.layer(wide, inner, 1, 1, plan.new(wide, b))
        plan.over(squeezed)
        factors = plan.layer(inner, wide, 1, 1, squeezed)
        plan.over(factors)
        plan.over(b, factors)
    shortcut = x if stride == 1 and channels == wide else plan.layer(channels, wide, 1, after**2, x)
    plan.over(b, shortcut)
    plan.over(b)
    return b, wide, after


@st.composite
def networks(draw: st.DrawFn) -> Architecture:
    stages = draw(st.integers(1, 4))
    several = st.lists(st.integers(1, 3), min_size=stages, max_size=stages)
    widths = st.lists(st.integers(1, 70), min_size=stages, max_size=stages)
    strides = st.lists(st.sampled_from([1, 2]), min_size=stages, max_size=stages).map(tuple)
    return Architecture(
        blocks=tuple(draw(several)),
        widths=tuple(draw(widths)),
        strides=draw(st.just(default_strides(stages)) | strides),
        block=draw(st.sampled_from(["basic", "bottleneck"])),
        stem_width=draw(st.integers(1, 70)),
        stem_kernel=draw(st.sampled_from([1, 3, 7])),
        in_channels=draw(st.sampled_from([1, 3])),
        size=draw(st.integers(1, 40)),
        classes=draw(st.sampled_from([1, 10, 5_000])),
        se=draw(st.booleans()),
        stem_stride=draw(st.sampled_from([1, 2, 4])),
    )


@settings(max_examples=300)
@given(networks())
def test_bytes_are_those_of_a_schedule_written_by_hand(network: Architecture) -> None:
    plan, counts, parts = schedule_of(network), count(network), count_parts(network)
    assert counts.ram_bytes == plan.peak() == max(part.counts.ram_bytes for part in parts)
    assert counts.weight_bytes == plan.weights + 8 * plan.channels == sum(part.counts.weight_bytes for part in parts)


def test_resnet8_against_the_published_figures() -> None:
    """The vendor counts weights and biases, 76.9 KiB; scales for each channel add 1.35 KiB."""
    plan, counts = schedule_of(RESNET8), count(RESNET8)
    assert (plan.weights, plan.channels) == (77_360, 346)
    assert round((plan.weights + 4 * plan.channels) / 1024, 1) == PUBLISHED_WEIGHTS_KIB
    assert counts.weight_bytes == 80_128 == 77_360 + 4 * 346 + 4 * 346
    assert counts.ram_bytes == 48 * 1024 == 3 * 16 * 32**2, "input, inner result and output of a block of stage 1"
    assert PUBLISHED_RAM_KIB[0] <= counts.ram_bytes / 1024 <= PUBLISHED_RAM_KIB[1]


@pytest.mark.parametrize(
    ("text", "limit"), [("128", 131_072), ("76.9", 78_745), ("0.5", 512), ("1e3", 1_024_000), (" 64 ", 65_536)]
)
def test_limits_in_bytes_are_set_in_kilobytes(text: str, limit: int) -> None:
    assert parse_limit(text, "ram_bytes") == limit == parse_limit(in_kilobytes(limit), "ram_bytes")


@pytest.mark.parametrize("text", ["64k", "128 KB", "0", "-1", "nan", "", "0.0009", "1e30"])
def test_what_is_no_number_of_kilobytes_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--max-weights-kb .*must be a number of KB \(1,024 bytes\) above zero"):
        parse_limit(text, "weight_bytes")


@given(st.integers(1, 10**9))
def test_kilobytes_that_a_message_names_suffice(size: int) -> None:
    limit = parse_limit(in_kilobytes(size), "weight_bytes")
    assert limit is not None
    assert size <= limit < size + 11


def test_limits_in_bytes_in_words() -> None:
    budget = Budget(80_000, max_weight_bytes=131_072, max_ram_bytes=49_152)
    assert str(budget) == "80k parameters, 128 KiB of int8 weights, 48 KiB of activation RAM"
    assert [limit.exact for limit in budget.limits[1:]] == [
        "131,072 bytes of int8 weights (128 KiB)",
        "49,152 bytes of activation RAM (48 KiB)",
    ]
    assert budget.verdict(RESNET8).sentence() == (
        "fits: 78,042 of 80,000 parameters, 1,958 to spare; "
        "80,128 of 131,072 bytes of int8 weights (78.25 of 128 KiB), 50,944 to spare; "
        "49,152 of 49,152 bytes of activation RAM (48 of 48 KiB), 0 to spare"
    )
    assert (heading("ram_bytes"), amount("ram_bytes", 5_000_000)) == ("activation RAM", "4,882.82 KiB")
    excess = Excess("weight_bytes", 80_128, 65_536)
    assert excess.sentence() == "80,128 of 65,536 bytes of int8 weights (78.25 of 64 KiB), 14,592 too many (1.22 x)"
    assert (excess.flag, excess.asked, excess.needed) == ("--max-weights-kb", "64", "78.25")


@pytest.mark.parametrize("quantity", BYTES)
def test_a_limit_in_bytes_is_kept_by_its_count_and_exceeded_a_byte_below(quantity: str) -> None:
    exact = getattr(count(RESNET8), quantity)
    assert Budget(10**6, **{f"max_{quantity}": exact}).fits(RESNET8)
    short = Budget(10**6, **{f"max_{quantity}": exact - 1})
    assert not short.fits(RESNET8)
    assert [excess.amount for excess in short.verdict(RESNET8).excesses] == [1]


def test_the_named_networks_keep_no_limit_of_a_small_chip() -> None:
    assert {excess.quantity for excess in Budget(10**8, None, None, 131_072, 65_536).excesses(count(named("v2")))} == {
        "weight_bytes",
        "ram_bytes",
    }
    assert Limit("ram_bytes", 65_536).to_dict() == {"quantity": "ram_bytes", "most": 65_536}


def test_the_shipped_study_of_a_chip_and_what_a_study_stores() -> None:
    options = read_study_file("chip-64k")
    assert options.limits() == Budget(72_704, max_weight_bytes=71 << 10, max_ram_bytes=56 << 10)
    changed = SearchOptions.parse({"max_weights_kb": "76.9", "max_ram_kb": 48})
    assert changed.over(options).limits() == Budget(72_704, max_weight_bytes=78_745, max_ram_bytes=48 << 10)
    SearchSpace().require_feasible(InputShape(in_channels=3, size=32, classes=10), options.limits())


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = app.main(list(arguments))
    return code, *capsys.readouterr()


def test_the_commands_take_limits_in_kilobytes(capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--budget", "80k", "--max-weights-kb", "78.25", "--max-ram-kb", "47.5")
    code, out, _ = called(capsys, "count", "resnet8", *limits, "--json")
    counted = json.loads(out)
    assert (code, counted["weight_bytes"], counted["max_weight_bytes"], counted["fits"]) == (3, 80_128, 80_128, False)
    assert counted["excesses"] == [{"quantity": "ram_bytes", "count": 49_152, "most": 48_640, "over": 512}]
    _, out, _ = called(capsys, "count", "resnet8", *limits)
    told = " ".join(out.split())
    assert "49,152 of 48,640 bytes of activation RAM (48 of 47.5 KiB), 512 too many (1.01 x)." in told
    code, out, _ = called(capsys, "fit", "resnet8", *limits, "--json")
    near = json.loads(out)
    assert code == 0 and all(one["ram_bytes"] <= 48_640 and one["weight_bytes"] <= 80_128 for one in near)
    code, _, err = called(capsys, "space", "--budget", "80k", "--max-ram-kb", "1")
    assert (code, "--max-ram-kb '1': nothing in the space fits" in err, "allow at least 24, or" in err) == (
        2,
        True,
        True,
    )
    assert called(capsys, "count", "v2", "--max-ram-kb", "64")[0] == 2
    code, _, err = called(capsys, "count", "v2", "--budget", "5e6", "--max-ram-kb", "64k")
    assert (code, "--max-ram-kb '64k': must be a number of KB (1,024 bytes) above zero" in err) == (2, True)


def test_the_same_in_python() -> None:
    counted = budgetnas.count("resnet8", budget="80k", max_weights_kb=78.25, max_ram_kb=64)
    assert (counted.weight_bytes, counted.ram_bytes, counted.fits) == (80_128, 49_152, True)
    assert all(near.counts.ram_bytes <= 32 << 10 for near in budgetnas.fit("resnet8", budget="80k", max_ram_kb=32))
    with pytest.raises(InputError, match="max_ram_kb 64: needs budget"):
        budgetnas.count("resnet8", max_ram_kb=64)
