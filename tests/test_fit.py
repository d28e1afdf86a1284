from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from budgetnas.architecture import NAMES, Architecture, count, default_strides, named
from budgetnas.architecture.budget import Budget
from budgetnas.architecture.edits import (
    Cap,
    DropSe,
    Edit,
    Narrow,
    NarrowAll,
    Shorten,
    ShortenAll,
    UseStages,
    apply,
    edits_to,
    sentences,
    to_dicts,
)
from budgetnas.architecture.fit import TOLERANCE, Near, nearest
from budgetnas.errors import InputError

RESNET18 = named("resnet18")
FIVE_MILLION = Budget(5_000_000)


@st.composite
def networks(draw: st.DrawFn) -> Architecture:
    stages = draw(st.integers(1, 4))
    values = st.lists(st.integers(1, 5), min_size=stages, max_size=stages)
    widths = st.lists(st.integers(1, 200) | st.sampled_from([64, 128, 256, 512]), min_size=stages, max_size=stages)
    strides = st.lists(st.sampled_from([1, 2]), min_size=stages, max_size=stages)
    return Architecture(
        blocks=tuple(draw(values)),
        widths=tuple(draw(widths)),
        strides=tuple(draw(st.just(default_strides(stages)) | strides.map(tuple))),
        block=draw(st.sampled_from(["basic", "bottleneck"])),
        stem_width=draw(st.sampled_from([8, 16, 60, 64])),
        size=draw(st.sampled_from([8, 32])),
        se=draw(st.booleans()),
    )


@st.composite
def asked(draw: st.DrawFn) -> tuple[Architecture, Budget]:
    """A network, and limits at some share of what it has."""
    network = draw(networks())
    counts = count(network)
    share = st.integers(2, 110).map(lambda percent: percent / 100)
    macs, activations = (draw(st.none() | share) for _ in range(2))
    return network, Budget(
        max(1, int(counts.params * draw(share))),
        None if macs is None else max(1, int(counts.macs * macs)),
        None if activations is None else max(1, int(counts.activations * activations)),
    )


def found_for(network: Architecture, budget: Budget) -> tuple[Near, ...]:
    try:
        return nearest(network, budget)
    except InputError:
        smallest = apply((DropSe(), UseStages(1), ShortenAll(1), NarrowAll(1)), network)
        assert not budget.fits(smallest)
        return ()


@settings(max_examples=40)
@given(asked())
def test_every_network_is_within_every_limit_and_is_what_its_edits_make(given_: tuple[Architecture, Budget]) -> None:
    network, budget = given_
    for one in found_for(network, budget):
        assert budget.fits(one.architecture)
        assert apply(one.edits, network) == one.architecture
        assert one.counts == count(one.architecture)
        assert one.edits or one.architecture == network


@pytest.mark.slow
@settings(max_examples=40)
@given(asked())
def test_every_edit_is_needed_and_its_sentence_names_what_changes(given_: tuple[Architecture, Budget]) -> None:
    network, budget = given_
    for one in found_for(network, budget):
        now = network
        for edit, sentence in zip(one.edits, sentences(one.edits, network), strict=True):
            after = edit.apply(now)
            assert after != now
            for number in changed_numbers(edit, now, after):
                assert str(number) in sentence
            now = after
        for at in range(len(one.edits)):
            assert apply((*one.edits[:at], *one.edits[at + 1 :]), network) != one.architecture


def changed_numbers(edit: Edit, before: Architecture, after: Architecture) -> list[int]:
    """What a reader must be told; checks that nothing else differs."""
    match edit:
        case DropSe():
            same, told = replace(before, se=False), []
        case UseStages(to):
            same = replace(before, blocks=before.blocks[:to], widths=before.widths[:to], strides=before.strides[:to])
            told = [] if before.num_stages - to == 1 else [before.num_stages - to]
        case Shorten(stage, to):
            same = replace(before, blocks=(*before.blocks[: stage - 1], to, *before.blocks[stage:]))
            told = [stage] + ([] if before.blocks[stage - 1] - to == 1 else [before.blocks[stage - 1] - to])
        case Narrow(stage, to):
            same = replace(before, widths=(*before.widths[: stage - 1], to, *before.widths[stage:]))
            told = [stage, before.widths[stage - 1], to]
        case ShortenAll(to):
            same, told = replace(before, blocks=after.blocks), [to, *before.blocks, *after.blocks]
        case Cap(to):
            same, told = replace(before, widths=after.widths), [to, *before.widths, *after.widths]
        case NarrowAll(percent):
            same = replace(before, widths=after.widths, stem_width=after.stem_width)
            told = [percent, *before.widths, *after.widths]
            if before.stem_width != after.stem_width:
                told += [before.stem_width, after.stem_width]
    assert same == after
    return told


def one_step_less(edit: Edit, network: Architecture) -> Architecture:
    """The network with the next smaller form of an edit, or without it where there is none."""
    match edit:
        case DropSe():
            return network
        case UseStages(to):
            return UseStages(to + 1).apply(network)
        case Shorten(stage, to):
            return Shorten(stage, to + 1).apply(network)
        case ShortenAll(to):
            return ShortenAll(to + 1).apply(network)
        case Narrow(stage, to):
            return Narrow(stage, to + 8).apply(network)
        case Cap(to):
            return Cap(to + 8).apply(network)
        case NarrowAll(percent):
            return NarrowAll(percent + 1).apply(network) if percent < 99 else network


@settings(max_examples=40)
@given(asked())
def test_no_single_edit_could_take_one_step_less(given_: tuple[Architecture, Budget]) -> None:
    network, budget = given_
    for one in found_for(network, budget):
        if len(one.edits) == 1 and one.name is None:
            assert not budget.fits(one_step_less(one.edits[0], network))


@settings(max_examples=40)
@given(asked())
def test_no_listed_network_beats_an_unbeaten_network(given_: tuple[Architecture, Budget]) -> None:
    network, budget = given_
    whole = count(network)
    found = found_for(network, budget)
    assert not found or not found[0].beaten
    for one in found:
        better = [
            other
            for other in found
            if len(other.edits) <= len(one.edits)
            and other.counts.macs >= one.counts.macs
            and other.counts.params >= one.counts.params
            and (len(other.edits), other.counts.macs, other.counts.params)
            != (len(one.edits), one.counts.macs, one.counts.params)
        ]
        if not one.beaten:
            assert not better
        else:
            near = [
                other
                for other in found
                if not other.beaten
                and len(other.edits) <= len(one.edits)
                and other.counts.macs >= one.counts.macs - 3 * TOLERANCE * whole.macs - 3
                and other.counts.params >= one.counts.params - 3 * TOLERANCE * whole.params - 3
            ]
            assert near


@given(networks())
def test_a_network_that_fits_comes_first_without_edits(network: Architecture) -> None:
    first, *others = nearest(network, Budget(count(network).params))
    assert (first.edits, first.architecture, first.beaten) == ((), network, False)
    assert all(one.beaten and one.name for one in others)


def test_v1_and_v2_are_edits_of_resnet18() -> None:
    found = {one.name: one for one in nearest(RESNET18, FIVE_MILLION) if one.name}
    assert {name: one.edits for name, one in found.items()} == {"v1": (ShortenAll(1),), "v2": (Cap(128),)}
    assert {name: one.counts.params for name, one in found.items()} == {"v1": 4_903_242, "v2": 1_891_658}
    told = {name: [*sentences(one.edits, RESNET18)] for name, one in found.items()}
    assert told == {
        "v1": ["keep at most 1 block in every stage (2-2-2-2 to 1-1-1-1)"],
        "v2": ["make no stage wider than 128 (64-128-256-512 to 64-128-128-128)"],
    }


def test_the_networks_nearest_to_resnet18_within_five_million() -> None:
    first = nearest(RESNET18, FIVE_MILLION)[0]
    assert first.edits == (Narrow(4, 240),)
    assert first.counts.params == 4_949_514
    assert count(replace(RESNET18, widths=(64, 128, 256, 248))).params > 5_000_000


def test_a_limit_on_multiply_accumulates_asks_for_other_edits() -> None:
    found = nearest(RESNET18, Budget(5_000_000, 300_000_000))
    assert all(one.counts.macs <= 300_000_000 for one in found)
    assert "v2" not in {one.name for one in found}
    v1 = next(one for one in found if one.name == "v1")
    assert not v1.beaten


def test_networks_with_a_name_are_named_wherever_edits_come_to_them() -> None:
    told = {name: edits_to(named(name), named("resnet152")) for name in NAMES}
    assert told == {
        "v1": None,
        "v2": None,
        "resnet8": None,
        "resnet20": None,
        "resnet56": None,
        "resnet18": None,
        "resnet34": None,
        "resnet50": (Shorten(2, 4), Shorten(3, 6)),
        "resnet101": (Shorten(2, 4), Shorten(3, 23)),
        "resnet152": (),
    }
    assert told["resnet50"] != edits_to(named("resnet50"), replace(named("resnet152"), stem_width=32))
    assert edits_to(named("resnet152"), named("resnet50")) is None
    assert edits_to(named("v2"), named("resnet34")) == (ShortenAll(2), Cap(128))


@given(networks(), networks())
def test_edits_to_another_network_make_it(one: Architecture, other: Architecture) -> None:
    edits = edits_to(other, one)
    assert edits is None or apply(edits, one) == other


@given(networks(), st.integers(1, 4), st.integers(1, 4))
def test_edits_to_what_edits_made_are_found(network: Architecture, stage: int, blocks: int) -> None:
    assume(stage <= network.num_stages)
    smaller = Shorten(stage, blocks).apply(Cap(40).apply(UseStages(stage).apply(network)))
    edits = edits_to(smaller, network)
    assert edits is not None
    assert apply(edits, network) == smaller


def test_three_edits_where_two_are_not_enough() -> None:
    network = named("resnet152")
    smallest = count(apply((UseStages(1), ShortenAll(1), NarrowAll(1)), network)).params
    (one, *_) = nearest(network, Budget(smallest))
    assert len(one.edits) == 3
    with pytest.raises(InputError) as raised:
        nearest(network, Budget(smallest - 1))
    assert raised.value.argument == "--budget"
    assert f"allow at least --budget {smallest:,}" in str(raised.value)


def test_squeeze_and_excitation_is_dropped_if_that_suffices() -> None:
    gated = replace(RESNET18, se=True)
    (one, *others) = nearest(gated, Budget(count(RESNET18).params))
    assert (one.edits, one.architecture, one.name) == ((DropSe(),), RESNET18, "resnet18")
    assert [*sentences(one.edits, gated)] == ["drop squeeze-and-excitation"] and others
    assert to_dicts(one.edits, gated) == [
        {"edit": "drop squeeze-and-excitation", "text": "drop squeeze-and-excitation"}
    ]


def test_the_smallest_network_with_squeeze_and_excitation_takes_four_edits() -> None:
    network = replace(named("resnet152"), se=True)
    smallest = apply((DropSe(), UseStages(1), ShortenAll(1), NarrowAll(1)), network)
    (one, *_) = nearest(network, Budget(count(smallest).params))
    assert one.architecture == smallest and len(one.edits) == 4


def test_the_limits_that_prevent_a_fit_are_named() -> None:
    with pytest.raises(InputError) as raised:
        nearest(RESNET18, Budget(10**9, 1_000, 10))
    message = str(raised.value)
    for text in ("--max-macs", "--max-activations", "multiply-accumulates", "activations", "basic 1 x 8, stem 8"):
        assert text in message


@pytest.mark.parametrize(
    ("edit", "changes"),
    [
        (UseStages(2), {"blocks": (2, 2), "widths": (64, 128), "strides": (1, 2)}),
        (Shorten(4, 1), {"blocks": (2, 2, 2, 1)}),
        (Narrow(4, 176), {"widths": (64, 128, 256, 176)}),
        (NarrowAll(50), {"stem_width": 32, "widths": (32, 64, 128, 256)}),
        (NarrowAll(33), {"stem_width": 16, "widths": (16, 40, 80, 168)}),
        (NarrowAll(1), {"stem_width": 8, "widths": (8, 8, 8, 8)}),
        (Narrow(5, 8), {}),
        (Shorten(1, 3), {}),
        (Narrow(1, 72), {}),
        (UseStages(4), {}),
    ],
)
def test_the_effect_of_edits(edit: Edit, changes: dict[str, Any]) -> None:
    assert edit.apply(RESNET18) == replace(RESNET18, **changes)


def test_edits_as_plain_values() -> None:
    assert to_dicts((UseStages(3), Narrow(3, 40), NarrowAll(50)), RESNET18) == [
        {"edit": "use stages", "to": 3, "text": "drop the last stage"},
        {"edit": "narrow", "stage": 3, "to": 40, "text": "narrow stage 3 from 256 to 40"},
        {"edit": "narrow all", "percent": 50, "text": "narrow all to 50 % (64-128-40 to 32-64-16, stem 64 to 32)"},
    ]
    assert [*sentences((Shorten(4, 1), UseStages(2)), named("resnet34"))] == [
        "drop 2 blocks of stage 4",
        "drop the last 2 stages",
    ]
