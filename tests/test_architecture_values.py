from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from test_architecture_counts import architectures

from budgetnas.architecture import NAMES, Architecture, default_strides, named
from budgetnas.errors import InputError

V2 = named("v2")


def test_the_json_and_digest_of_v2_never_change() -> None:
    assert V2.to_json() == (
        '{"block":"basic","blocks":[2,2,2,2],"classes":10,"in_channels":3,"size":32,"stem_kernel":3,'
        '"stem_width":64,"strides":[1,2,2,2],"widths":[64,128,128,128]}'
    )
    assert V2.digest == "78b0b0261f33acc0"


@given(architectures())
def test_an_architecture_survives_a_json_round_trip(architecture: Architecture) -> None:
    for again in (Architecture.from_json(architecture.to_json()), Architecture.from_dict(architecture.to_dict())):
        assert again == architecture
        assert hash(again) == hash(architecture)
        assert again.digest == architecture.digest


def test_the_order_and_spacing_of_json_do_not_matter() -> None:
    shuffled = json.dumps(dict(reversed(V2.to_dict().items())), indent=2)
    assert Architecture.from_json(shuffled).digest == V2.digest


def test_fields_with_a_default_may_be_left_out() -> None:
    text = '{"blocks":[2,2,2,2],"widths":[64,128,128,128],"strides":[1,2,2,2]}'
    assert Architecture.from_json(text) == V2


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": (2, 2, 2, 3)},
        {"widths": (64, 128, 128, 129)},
        {"strides": (1, 2, 2, 1)},
        {"block": "bottleneck"},
        {"stem_width": 63},
        {"stem_kernel": 5},
        {"in_channels": 1},
        {"size": 31},
        {"classes": 11},
        {"se": True},
        {"stem_stride": 2},
    ],
)
def test_every_field_is_part_of_the_digest(change: dict[str, Any]) -> None:
    other = replace(V2, **change)
    assert other != V2
    assert other.digest != V2.digest


def test_an_architecture_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        V2.classes = 100  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"blocks": ()}, "--blocks"),
        ({"blocks": (1,) * 6, "widths": (8,) * 6, "strides": (1,) * 6}, "--blocks"),
        ({"blocks": (2, 2, 2)}, "--blocks"),
        ({"blocks": (2, 2, 2, 0)}, "--blocks"),
        ({"blocks": (2, 2, 2, 201)}, "--blocks"),
        ({"blocks": (2, 2, 2, True)}, "--blocks"),
        ({"blocks": (2, 2, 2, 2.0)}, "--blocks"),
        ({"widths": (64, 128, 128, 0)}, "--widths"),
        ({"widths": (64, 128, 128, -128)}, "--widths"),
        ({"widths": (64, 128, 128, 4097)}, "--widths"),
        ({"widths": (64, 128, 128, "128")}, "--widths"),
        ({"strides": (1, 2, 2)}, "--strides"),
        ({"strides": (1, 2, 2, 3)}, "--strides"),
        ({"strides": (0, 2, 2, 2)}, "--strides"),
        ({"block": "basics"}, "--block"),
        ({"block": ["basic"]}, "--block"),
        ({"block": None}, "--block"),
        ({"stem_width": 0}, "--stem-width"),
        ({"stem_kernel": 4}, "--stem-kernel"),
        ({"stem_kernel": 17}, "--stem-kernel"),
        ({"in_channels": 0}, "--in-channels"),
        ({"size": 0}, "--size"),
        ({"size": 1025}, "--size"),
        ({"size": float("nan")}, "--size"),
        ({"classes": 0}, "--classes"),
        ({"se": 1}, "--se"),
        ({"se": "yes"}, "--se"),
        ({"stem_stride": 3}, "--stem-stride"),
        ({"stem_stride": 2.0}, "--stem-stride"),
    ],
)
def test_an_error_names_what_the_user_typed(change: dict[str, Any], argument: str) -> None:
    with pytest.raises(InputError) as raised:
        replace(V2, **change)
    assert raised.value.argument == argument
    assert str(raised.value).startswith((f"{argument} ", f"{argument}:"))
    with pytest.raises(InputError) as raised:
        Architecture.from_dict(V2.to_dict() | change)
    assert raised.value.argument == argument


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[1,2]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("{}", "blocks, widths, strides': missing"),
        ('{"blocks":[1],"widths":[8]}', "'strides': missing"),
        ('{"blocks":[1],"widths":[8],"strides":[1],"depth":3}', "'depth': unknown"),
        ('{"blocks":"2222","widths":[8],"strides":[1]}', "--blocks '2222': must be a list of whole numbers"),
        ('{"blocks":1,"widths":[8],"strides":[1]}', "--blocks 1: must be a list of whole numbers"),
        ('{"blocks":[[1]],"widths":[8],"strides":[1]}', "--blocks"),
    ],
)
def test_json_that_is_not_an_architecture(text: str, told: str) -> None:
    with pytest.raises(InputError) as raised:
        Architecture.from_json(text)
    assert told in str(raised.value)


def test_its_description_is_a_line() -> None:
    assert V2.describe() == "basic 2-2-2-2 x 64-128-128-128, stem 64"
    assert replace(V2, stem_kernel=7).describe() == "basic 2-2-2-2 x 64-128-128-128, stem 64 (7x7)"
    assert replace(V2, se=True, stem_stride=2).describe() == "basic 2-2-2-2 x 64-128-128-128, SE, stem 64 (stride 2)"
    both = replace(V2, stem_kernel=7, stem_stride=4)
    assert both.describe() == "basic 2-2-2-2 x 64-128-128-128, stem 64 (7x7, stride 4)"


def test_fields_that_were_added_later_are_in_the_json_only_if_they_are_set() -> None:
    assert not {"se", "stem_stride"} & V2.to_dict().keys()
    assert replace(V2, se=True, stem_stride=4).to_dict() == V2.to_dict() | {"se": True, "stem_stride": 4}


def test_the_first_stage_keeps_the_image_size() -> None:
    assert [default_strides(stages) for stages in (1, 2, 4)] == [(1,), (1, 2), (1, 2, 2, 2)]


@pytest.mark.parametrize(
    ("written", "meant"), [("V2", "v2"), (" v1 ", "v1"), ("ResNet34", "resnet34"), ("34", "resnet34")]
)
def test_names_as_people_write_them(written: str, meant: str) -> None:
    assert named(written) == named(meant)


def test_a_named_network_takes_the_shape_of_the_data() -> None:
    fitted = named("resnet50", in_channels=1, size=28, classes=7)
    assert (fitted.in_channels, fitted.size, fitted.classes) == (1, 28, 7)
    assert fitted.blocks == named("resnet50").blocks


@pytest.mark.parametrize(
    ("written", "hint"),
    [("resnet", "did you mean resnet"), ("resnet34x", "did you mean resnet34?"), ("mlp", "--blocks")],
)
def test_an_unknown_name_is_reported_with_the_known_names(written: str, hint: str) -> None:
    with pytest.raises(InputError) as raised:
        named(written)
    told = str(raised.value)
    assert hint in told
    assert all(name in told for name in NAMES)
