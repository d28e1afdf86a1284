from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.schedule import peak_of_built
from budgetnas.architecture import (
    BLOCKS,
    NAMES,
    Architecture,
    Block,
    Branches,
    Counts,
    count,
    count_parts,
    default_strides,
    named,
)
from budgetnas.architecture.primitives import ZERO, Conv
from budgetnas.training.network import build

PARAMS = {
    "v1": 4_903_242,
    "v2": 1_891_658,
    "resnet8": 78_042,
    "resnet20": 272_474,
    "resnet56": 855_770,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet101": 42_512_970,
    "resnet152": 58_156_618,
}
KNOWN = {
    ((1, 1, 1), (16, 32, 64)): Counts(78_042, 12_501_632, 86_016, 80_128, 48 << 10),  # ResNet-8
    ((1, 1, 1), (40, 80, 160)): Counts(481_170, 76_473_920, 215_040, 486_280, 120 << 10),
    ((3, 3, 3), (16, 32, 64)): Counts(272_474, 40_813_184, 200_704, 277_248, 48 << 10),  # ResNet-20
    ((9, 9, 9), (16, 32, 64)): Counts(855_770, 125_747_840, 544_768, 868_608, 48 << 10),  # ResNet-56
    ((3, 3, 3), (64, 128, 256)): Counts(4_327_754, 647_694_848, 802_816, 4_346_640, 192 << 10),
}


def test_every_named_network_has_its_published_parameters() -> None:
    assert {name: count(named(name)).params for name in NAMES} == PARAMS


@pytest.mark.parametrize(("blocks", "widths"), list(KNOWN))
def test_the_counts_of_known_networks_of_three_stages(blocks: tuple[int, ...], widths: tuple[int, ...]) -> None:
    assert count(Architecture(blocks, widths, (1, 2, 2), stem_width=widths[0])) == KNOWN[blocks, widths]


def test_the_counts_that_squeeze_and_excitation_adds_to_each_block() -> None:
    """Two linear layers with biases, with a sixteenth of the channels between them, but at least 4."""
    plain = Architecture((4, 4, 3), (64, 128, 256), (1, 2, 2))
    added = [2 * 64 * 4 + 64 + 4, 2 * 128 * 8 + 128 + 8, 2 * 256 * 16 + 256 + 16]
    gated = count(replace(plain, se=True))
    assert gated.params == count(plain).params + 4 * added[0] + 4 * added[1] + 3 * added[2] == 4_733_610
    assert gated.macs == count(plain).macs + 4 * 2 * 64 * 4 + 4 * 2 * 128 * 8 + 3 * 2 * 256 * 16
    assert gated.activations == count(plain).activations
    narrow = Architecture((1,), (16,), (1,), stem_width=16)
    assert count(replace(narrow, se=True)).params == count(narrow).params + 2 * 16 * 4 + 16 + 4


@pytest.mark.parametrize(("size", "stride", "side"), [(48, 1, 48), (49, 2, 25), (64, 2, 32), (96, 2, 48), (97, 4, 25)])
def test_stems_reduce_images_of_more_than_48_pixels(size: int, stride: int, side: int) -> None:
    network = named("v2", size=size)
    assert network.stem_stride == stride
    assert tuple(count_parts(network)[0].out_shape) == (64, side, side)


def test_the_stem_of_imagenet_sized_photos_is_that_of_the_imagenet_resnets() -> None:
    network = named("resnet18", size=224, classes=1000)
    assert tuple(count_parts(network)[0].out_shape) == (64, 56, 56)
    assert count(replace(network, stem_kernel=7)).params == 11_689_512  # torchvision's resnet18


def test_the_cost_of_the_two_source_networks() -> None:
    assert count(named("v1")) == Counts(4_903_242, 253_432_832, 368_640, 4_920_592, 192 << 10)
    assert count(named("v2")) == Counts(1_891_658, 335_480_064, 542_720, 1_905_168, 192 << 10)


def test_the_macs_of_v2_part_by_part() -> None:
    assert {part.name: part.counts.macs for part in count_parts(named("v2"))} == {
        "stem": 1_769_472,
        "stage 1": 150_994_944,
        "stage 2": 134_217_728,
        "stage 3": 38_797_312,
        "stage 4": 9_699_328,
        "head": 1_280,
    }


def test_where_the_parameters_of_v1_are() -> None:
    params = {part.name: part.counts.params for part in count_parts(named("v1"))}
    assert (params["stage 4"], params["head"]) == (3_673_088, 5_130)


def test_a_7x7_stem_cannot_be_the_source_report_s() -> None:
    for name, params in (("v1", 4_910_922), ("v2", 1_899_338)):
        values = named(name).to_dict() | {"stem_kernel": 7}
        assert count(Architecture.from_dict(values)).params == params


def test_the_shapes_between_the_parts() -> None:
    shapes = [tuple(part.out_shape) for part in count_parts(named("resnet50"))]
    assert shapes == [(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4), (10, 1, 1)]


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    stages = draw(st.integers(1, 5))

    def each(values: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(st.lists(values, min_size=stages, max_size=stages)))

    return Architecture(
        blocks=each(st.integers(1, 3)),
        widths=each(st.integers(1, 24) | st.sampled_from([8, 16])),
        strides=each(st.integers(1, 2)),
        block=draw(st.sampled_from(list(BLOCKS))),
        stem_width=draw(st.integers(1, 24) | st.sampled_from([8, 16, 32, 64])),
        stem_kernel=draw(st.sampled_from([1, 3, 5, 7])),
        in_channels=draw(st.integers(1, 4)),
        size=draw(st.integers(1, 33) | st.sampled_from([9, 17, 28, 32])),
        classes=draw(st.integers(1, 20)),
        se=draw(st.booleans()),
        stem_stride=draw(st.sampled_from([1, 2, 4])),
    )


def measured(network: nn.Module, image: Tensor) -> Counts:
    """Counts as the network itself shows them while one image passes."""
    macs = activations = weight_bytes = 0
    network.eval()
    ram_bytes = peak_of_built(network, image)

    def look(module: nn.Module, _inputs: object, out: Tensor) -> None:
        nonlocal macs, activations, weight_bytes
        if isinstance(module, nn.Conv2d):
            macs += out.numel() * module.weight[0].numel()
            activations += out.numel()
        elif isinstance(module, nn.Linear):
            macs += module.weight.numel()
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight_bytes += module.weight.numel() + 8 * len(module.weight)

    for module in network.modules():
        module.register_forward_hook(look)
    network(image)
    params = sum(parameter.numel() for parameter in network.parameters())
    return Counts(params, macs, activations, weight_bytes, ram_bytes)


@given(architectures())
@settings(max_examples=150)
def test_counts_are_those_of_the_network(architecture: Architecture) -> None:
    image = torch.rand(1, architecture.in_channels, architecture.size, architecture.size)
    assert measured(build(architecture), image) == count(architecture)


@pytest.mark.parametrize("name", NAMES)
def test_counts_of_the_named_networks_are_those_of_the_networks(name: str) -> None:
    with torch.device("meta"):
        assert measured(build(named(name)), torch.empty(1, 3, 32, 32)) == count(named(name))


@given(architectures())
def test_parts_add_up_to_the_whole_and_end_in_the_classes(architecture: Architecture) -> None:
    parts = count_parts(architecture)
    *sums, peaks = zip(*(part.counts for part in parts), strict=True)
    assert (*map(sum, sums), max(peaks)) == count(architecture)
    assert [part.name for part in parts] == [
        "stem",
        *(f"stage {stage}" for stage in range(1, architecture.num_stages + 1)),
        "head",
    ]
    assert tuple(parts[-1].out_shape) == (architecture.classes, 1, 1)


@given(architectures())
@settings(max_examples=50)
def test_the_declared_shapes_are_those_of_the_network(architecture: Architecture) -> None:
    network = build(architecture).eval()
    shapes: list[tuple[int, ...]] = []
    stem = "maxpool" if architecture.stem_stride == 4 else "relu"
    for name in (stem, *(f"layer{stage}" for stage in range(1, architecture.num_stages + 1))):
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[1:])))
    network(torch.rand(1, architecture.in_channels, architecture.size, architecture.size))
    assert shapes == [tuple(part.out_shape) for part in count_parts(architecture)[:-1]]


@given(stem=st.integers(1, 64), blocks=st.integers(1, 5), width=st.integers(1, 64), size=st.integers(1, 40))
def test_a_network_of_one_basic_stage_against_its_closed_form(stem: int, blocks: int, width: int, size: int) -> None:
    architecture = Architecture((blocks,), (width,), default_strides(1), stem_width=stem, size=size)
    projected = stem != width
    stem_weights, head_weights = 27 * stem, 10 * width
    stage_weights = 9 * stem * width + (2 * blocks - 1) * 9 * width**2 + projected * stem * width
    norms = 2 * stem + (2 * blocks + projected) * 2 * width
    outputs = stem + (2 * blocks + projected) * width
    assert count(architecture)[:3] == (
        stem_weights + stage_weights + norms + head_weights + 10,
        (stem_weights + stage_weights) * size**2 + head_weights,
        outputs * size**2,
    )


def test_a_block_without_layers_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match=r"block Empty must define layers\(\)"):

        class Empty(Block):
            expansion = 1


def test_a_block_without_expansion_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="block Plain must define expansion"):

        class Plain(Block):
            def layers(self) -> Branches:
                return Branches((), ())


@pytest.mark.parametrize("name", ["counts", "out_shape"])
def test_a_block_with_counts_of_its_own_cannot_be_defined(name: str) -> None:
    def layers(self: Block) -> Branches:
        return Branches((), ())

    with pytest.raises(TypeError, match=f"block Cheap overrides {name}, derived from layers"):
        type("Cheap", (Block,), {"layers": layers, "expansion": 1, name: lambda self, shape: ZERO})


def test_a_new_kind_of_block_is_counted_and_built_from_its_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Single(Block):
        expansion = 1

        def layers(self) -> Branches:
            conv = Conv(self.in_channels, self.width, kernel=3, stride=self.stride)
            return Branches((("conv", conv),), self._projection())

    monkeypatch.setitem(BLOCKS, "single", Single)
    architecture = Architecture((2, 1), (8, 16), (1, 2), block="single", stem_width=4, size=9)
    assert measured(build(architecture), torch.rand(1, 3, 9, 9)) == count(architecture)
