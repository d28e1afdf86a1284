from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from budgetnas.architecture import Architecture, count, named
from budgetnas.architecture.budget import Budget
from budgetnas.errors import InputError
from budgetnas.space.candidates import CandidateSpace
from budgetnas.space.initial_trials import INITIAL_TRIALS, initial_candidate
from budgetnas.space.ranges import Choice, LogRange, Steps
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import DEFAULT_DEPTHS, DEFAULT_WIDTHS, InputShape, SearchSpace

INPUTS = InputShape(in_channels=3, size=32, classes=10)
SPACE = SearchSpace()
CANDIDATES = CandidateSpace(SPACE, RecipeSpace(), INPUTS)
SMALLEST = count(SPACE.smallest(INPUTS)).params
LARGEST = count(SPACE.architecture({name: one.values[-1] for name, one in SPACE.ranges().items()}, INPUTS)).params
KNOWN = {
    "resnet8": ((1, 1, 1), (16, 32, 64), False),
    "resnet20": ((3, 3, 3), (16, 32, 64), False),
    "resnet32": ((5, 5, 5), (16, 32, 64), False),
    "resnet44": ((7, 7, 7), (16, 32, 64), False),
    "resnet56": ((9, 9, 9), (16, 32, 64), False),
    "ic02": ((1, 1, 1), (40, 80, 160), False),
    "wide": ((3, 3, 3), (64, 128, 256), False),
    "half": ((2, 2, 2), (64, 128, 256), False),
    "course": ((4, 4, 3), (64, 128, 256), True),
}
"""Networks that others found, as blocks, widths and squeeze-and-excitation; the stem is as wide as the first stage."""

seeds = st.integers(0, 2**32)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    stages = draw(st.integers(1, 5))
    lows = draw(st.lists(st.integers(1, 4), min_size=stages, max_size=stages))
    blocks = tuple((low, low + draw(st.integers(0, 3))) for low in lows)
    return SearchSpace(
        stages=draw(st.none() | st.tuples(st.integers(1, stages), st.just(stages))),
        se=draw(st.sampled_from([(False,), (True,), (False, True)])),
        depths=draw(st.none() | st.just((*lows, 9)).map(lambda depths: tuple(sorted(set(depths))))),
        block=draw(st.sampled_from(["basic", "bottleneck"])),
        blocks=blocks,
        widths=tuple(sorted(draw(st.sets(st.integers(1, 512), min_size=1, max_size=8)))),
        stem_width=draw(st.none() | st.integers(1, 128)),
        stem_kernel=draw(st.sampled_from([1, 3, 7])),
        strides=draw(st.none() | st.tuples(*[st.sampled_from([1, 2])] * stages)),
    )


def test_widths_are_four_to_an_octave_and_include_the_classic_widths() -> None:
    assert {64, 128, 256, 512} <= set(DEFAULT_WIDTHS)
    rises = [high / low for low, high in pairwise(DEFAULT_WIDTHS)]
    assert 1.12 < min(rises) <= max(rises) <= 1.25


def test_the_ranges_of_the_default_space() -> None:
    stages = {
        name: steps
        for stage in (1, 2, 3, 4)
        for name, steps in ((f"blocks_{stage}", Steps(DEFAULT_DEPTHS)), (f"width_{stage}", Steps(DEFAULT_WIDTHS)))
    }
    assert SPACE.ranges() == {"stages": Choice((3, 4)), "se": Choice((False, True))} | stages
    assert SPACE.conditions() == {"blocks_4": ("stages", (4,)), "width_4": ("stages", (4,))}
    each = len(DEFAULT_DEPTHS) * len(DEFAULT_WIDTHS)
    assert SPACE.size() == 2 * (each**3 + each**4)
    assert SMALLEST <= 50_000


def test_parameters_are_read_as_a_user_thinks() -> None:
    network = named("v2")
    assert SPACE.params_of(network) == {
        **{"stages": 4, "se": False},
        **{"blocks_1": 2, "width_1": 64, "blocks_2": 2, "width_2": 128},
        **{"blocks_3": 2, "width_3": 128, "blocks_4": 2, "width_4": 128},
    }


def test_a_space_with_its_own_blocks_has_other_defaults() -> None:
    space = SearchSpace(blocks=((1, 3),) * 3, widths=(8, 16))
    assert set(space.ranges()) == {f"{kind}_{stage}" for kind in ("blocks", "width") for stage in (1, 2, 3)}
    assert space.size() == (3 * 2) ** 3
    assert not {"stages", "depths", "se", "stem_stride"} & json.loads(space.canonical_json()).keys()
    assert SearchSpace(widths=(8, 16)).stage_numbers == SPACE.stage_numbers
    for one in (space, SPACE, SearchSpace(se=True), SearchSpace(blocks=((1, 9),) * 4, depths=(1, 4, 9), se=(True,))):
        assert SearchSpace.model_validate_json(one.canonical_json()) == one


def test_the_ranges_of_candidates() -> None:
    assert {name: one for name, one in CANDIDATES.ranges().items() if name not in SPACE.ranges()} == {
        "optimizer": Choice(("sgd", "adam")),
        "sgd_learning_rate": LogRange(0.01, 0.5),
        "sgd_weight_decay": Choice((0.0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3)),
        "adam_learning_rate": LogRange(1e-4, 0.1),
        "adam_weight_decay": Choice((0.0, 1e-6, 1e-5, 1e-4, 5e-4)),
    }


@pytest.mark.parametrize("name", ["v1", "v2", "resnet18"])
def test_the_default_space_includes_the_classic_networks(name: str) -> None:
    params = SPACE.params_of(named(name))
    assert params is not None
    assert SPACE.architecture(params, INPUTS) == named(name)


@pytest.mark.parametrize("name", list(KNOWN))
def test_the_default_space_includes_the_networks_that_others_found(name: str) -> None:
    blocks, widths, se = KNOWN[name]
    network = Architecture(blocks, widths, (1, 2, 2), stem_width=widths[0], se=se)
    params = SPACE.params_of(network)
    assert params is not None
    assert SPACE.architecture(params, INPUTS) == network
    assert not {"blocks_4", "width_4"} & params.keys()


@pytest.mark.parametrize(("size", "stride"), [(32, 1), (48, 1), (64, 2), (96, 2), (128, 4), (224, 4)])
def test_networks_for_large_images_have_a_stem_that_reduces_them(size: int, stride: int) -> None:
    inputs = InputShape(in_channels=3, size=size, classes=5)
    network = SPACE.architecture(SPACE.draw(random.Random(0)), inputs)
    assert network.stem_stride == stride
    assert SPACE.params_of(network) is not None
    plain = SearchSpace(stem_stride=1)
    assert plain.architecture(SPACE.draw(random.Random(0)), inputs).stem_stride == 1
    initial = initial_candidate("v2-sgd", CANDIDATES.recipes, inputs).architecture
    assert initial.stem_stride == stride and SPACE.params_of(initial) is not None


@pytest.mark.parametrize("seed", INITIAL_TRIALS)
def test_the_default_space_includes_the_initial_trials(seed: str) -> None:
    candidate = initial_candidate(seed, CANDIDATES.recipes, INPUTS)
    params = CANDIDATES.params_of(candidate)
    assert params is not None
    assert CANDIDATES.candidate(params) == candidate
    assert CANDIDATES.candidate(params).key == candidate.key


@pytest.mark.parametrize(
    "change",
    [
        {"block": "bottleneck"},
        {"blocks": (2, 2, 2, 6)},
        {"stem_stride": 2},
        {"widths": (64, 128, 128, 127)},
        {"widths": (64, 128, 128, 4096)},
        {"stem_width": 32},
        {"stem_kernel": 5},
        {"strides": (1, 2, 2, 1)},
        {"blocks": (2, 2), "widths": (64, 128), "strides": (1, 2)},
    ],
)
def test_networks_outside_the_default_space(change: dict[str, Any]) -> None:
    assert SPACE.params_of(replace(named("v2"), **change)) is None


def test_the_space_includes_its_networks_for_any_shape_of_data() -> None:
    assert SPACE.params_of(named("v2", in_channels=1, size=8, classes=1)) is not None


@given(spaces(), seeds)
def test_parameters_and_architecture_are_one_to_one(space: SearchSpace, seed: int) -> None:
    params = space.draw(random.Random(seed))
    assert tuple(params) == space.names(params)
    assert all(params[name] in space.ranges()[name].values for name in params)
    assert space.params_of(space.architecture(params, INPUTS)) == params


@given(spaces(), seeds, st.data())
def test_parameters_and_candidate_are_one_to_one(space: SearchSpace, seed: int, data: st.DataObject) -> None:
    candidates = CandidateSpace(space, RecipeSpace(), INPUTS)
    optimizer = data.draw(st.sampled_from(["sgd", "adam"]))
    rates, decays = (candidates.ranges()[name] for name in candidates.names_for(optimizer))
    assert isinstance(rates, LogRange)
    assert isinstance(decays, Choice)
    rate, decay = data.draw(st.floats(rates.low, rates.high)), data.draw(st.sampled_from(decays.values))
    params = space.draw(random.Random(seed)) | dict(
        zip(("optimizer", *candidates.names_for(optimizer)), (optimizer, rate, decay), strict=True)
    )
    assert candidates.params_of(candidates.candidate(params)) == params


@pytest.mark.parametrize("change", [{"learning_rate": 0.6}, {"learning_rate": 0.009}, {"weight_decay": 3e-4}])
def test_the_space_excludes_recipes_outside_the_ranges(change: dict[str, float]) -> None:
    seed = initial_candidate("v2-sgd", CANDIDATES.recipes, INPUTS)
    assert CANDIDATES.params_of(replace(seed, recipe=seed.recipe.model_copy(update=change))) is None


@pytest.mark.parametrize("change", [{"epochs": 21}, {"t_max": 200}, {"batch": 64}, {"momentum": 0.8}])
def test_the_space_excludes_recipes_of_another_study(change: dict[str, float]) -> None:
    seed = initial_candidate("v2-sgd", CANDIDATES.recipes, INPUTS)
    assert CANDIDATES.params_of(replace(seed, recipe=seed.recipe.model_copy(update=change))) is None


def test_a_space_excludes_an_optimiser_that_is_not_searched() -> None:
    only_adam = CandidateSpace(SPACE, RecipeSpace(optimizers=("adam",)), INPUTS)
    assert only_adam.params_of(initial_candidate("v2-sgd", only_adam.recipes, INPUTS)) is None
    assert only_adam.params_of(initial_candidate("v2-adam", only_adam.recipes, INPUTS)) is not None
    assert not any(name.startswith("sgd") for name in only_adam.ranges())


@given(st.just(SMALLEST) | st.integers(SMALLEST, LARGEST), seeds)
def test_a_feasible_draw_fits(limit: int, seed: int) -> None:
    params = SPACE.draw_feasible(INPUTS, Budget(limit), random.Random(seed))
    assert tuple(sorted(params)) == tuple(sorted(SPACE.names(params)))
    assert count(SPACE.architecture(params, INPUTS)).params <= limit


@given(spaces(), st.integers(0, 10**6), seeds)
def test_a_feasible_draw_fits_in_any_space(space: SearchSpace, spare: int, seed: int) -> None:
    budget = Budget(count(space.smallest(INPUTS)).params + spare)
    params = space.draw_feasible(INPUTS, budget, random.Random(seed))
    architecture = space.architecture(params, INPUTS)
    assert budget.fits(architecture)
    assert space.params_of(architecture) == params


def test_only_the_smallest_network_is_drawn_for_a_budget_of_its_size() -> None:
    params = SPACE.draw_feasible(INPUTS, Budget(SMALLEST), random.Random(0))
    assert SPACE.architecture(params, INPUTS) == SPACE.smallest(INPUTS)


def test_feasible_draws_are_spread_and_repeatable() -> None:
    draws = [tuple(SPACE.draw_feasible(INPUTS, Budget(5_000_000), random.Random(seed)).items()) for seed in range(50)]
    assert len(set(draws)) > 45
    assert draws[7] == tuple(SPACE.draw_feasible(INPUTS, Budget(5_000_000), random.Random(7)).items())


def test_a_budget_below_the_smallest_network_is_refused_with_its_name() -> None:
    SPACE.require_feasible(INPUTS, Budget(SMALLEST))
    for refused in (SPACE.require_feasible, lambda *some: SPACE.draw_feasible(*some, random.Random(0))):
        with pytest.raises(InputError) as raised:
            refused(INPUTS, Budget(SMALLEST - 1))
        assert raised.value.argument == "--budget"
        assert f"its smallest network (basic 1-1-1 x 8-8-8, stem 8) has {SMALLEST:,} parameters" in str(raised.value)
        assert f"allow at least {SMALLEST:,}" in str(raised.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"blocks": ()}, "at least 1 item"),
        ({"blocks": ((1, 2),) * 6}, "at most 5 items"),
        ({"blocks": ((2, 1),)}, r"not \[2, 1\]"),
        ({"blocks": ((0, 1),)}, r"not \[0, 1\]"),
        ({"blocks": ((1, 201),)}, r"not \[1, 201\]"),
        ({"widths": ()}, "at least 1 item"),
        ({"widths": (8, 8)}, "widths must be ascending"),
        ({"widths": (16, 8)}, "widths must be ascending"),
        ({"widths": (0, 8)}, "greater than or equal to 1"),
        ({"strides": (1, 2)}, "strides must have 4 numbers"),
        ({"stages": (3, 5)}, r"stages must be \[fewest, most\] with the most 4.*not \[3, 5\]"),
        ({"stages": (0, 4)}, r"not \[0, 4\]"),
        ({"depths": (3, 1)}, "depths must be ascending"),
        ({"depths": ()}, "at least 1 item"),
        ({"blocks": ((5, 6),), "depths": (4, 7)}, "depths must have a number from 5 to 6, the blocks of stage 1"),
        ({"se": ()}, "at least 1 item"),
        ({"se": (True, True)}, "se names a value twice"),
        ({"stem_stride": 3}, "Input should be 1, 2 or 4"),
        ({"strides": (1, 2, 3, 1)}, "Input should be 1 or 2"),
        ({"stem_kernel": 4}, "stem_kernel must be odd"),
        ({"depth": 3}, "Extra inputs are not permitted"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SearchSpace(**values)


def test_an_unknown_initial_trial_is_rejected() -> None:
    with pytest.raises(InputError, match=r"seeds 'v3-sgd': is not a network and an optimiser .* v1, v2, resnet8,"):
        initial_candidate("v3-sgd", RecipeSpace(), INPUTS)


def test_initial_trials_are_the_source_report_s_runs_fitted_to_the_data() -> None:
    inputs = InputShape(in_channels=1, size=8, classes=3)
    found = {seed: initial_candidate(seed, RecipeSpace(epochs=7), inputs) for seed in INITIAL_TRIALS}
    assert {seed: (one.recipe.learning_rate, one.recipe.weight_decay) for seed, one in found.items()} == {
        "v1-sgd": (0.1, 5e-4),
        "v1-adam": (0.1, 0.0),
        "v2-sgd": (0.1, 5e-4),
        "v2-adam": (0.1, 0.0),
    }
    assert found["v1-adam"].architecture == named("v1", in_channels=1, size=8, classes=3)
    assert (found["v1-adam"].recipe.epochs, found["v1-adam"].recipe.t_max) == (7, 7)


@st.composite
def small_spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces of at most 1,000 architectures, many with stages of stride 1 beside a stem of a width of the table."""
    stages = draw(st.integers(1, 3))
    widths = tuple(sorted(draw(st.sets(st.integers(1, 24), min_size=1, max_size=4))))
    block = draw(st.sampled_from(["basic", "bottleneck"]))
    as_wide = draw(st.sampled_from(widths)) * (4 if block == "bottleneck" else 1)
    return SearchSpace(
        stages=draw(st.none() | st.tuples(st.integers(1, stages), st.just(stages))),
        se=draw(st.sampled_from([(False,), (True,), (False, True)])),
        block=block,
        blocks=tuple((low, low + draw(st.integers(0, 1))) for low in draw(st.tuples(*[st.integers(1, 2)] * stages))),
        widths=widths,
        stem_width=draw(st.none() | st.just(as_wide) | st.integers(1, 96)),
        strides=draw(st.none() | st.tuples(*[st.sampled_from([1, 2])] * stages)),
    )


SMALL = InputShape(in_channels=1, size=6, classes=3)


def all_of(space: SearchSpace) -> list[Architecture]:
    found = []
    for part in space.parts():
        ranges = part.ranges()
        for values in product(*(steps.values for steps in ranges.values())):
            params = space.choices_of(part) | dict(zip(ranges, values, strict=True))
            found.append(space.architecture(params, SMALL))
    assert len(set(found)) == len(found) == space.size()
    return found


@given(small_spaces())
def test_no_network_has_lower_counts_than_every_floor(space: SearchSpace) -> None:
    floors = [count(one) for one in space.floors(SMALL)]
    assert space.floors(SMALL)[0] == space.smallest(SMALL)
    for one in all_of(space):
        counts = count(one)
        assert any(all(low <= much for low, much in zip(floor, counts, strict=True)) for floor in floors)


@given(small_spaces(), st.data(), seeds)
def test_a_space_is_rejected_exactly_if_no_network_meets_all_limits(
    space: SearchSpace, data: st.DataObject, seed: int
) -> None:
    counts = [count(one) for one in all_of(space)]
    tight = [data.draw(st.sampled_from(sorted({one[place] for one in counts}))) for place in range(3)]
    params, macs, activations = (much - data.draw(st.integers(0, 1)) for much in tight)
    budget = Budget(
        max(1, params),
        data.draw(st.none() | st.just(max(1, macs))),
        data.draw(st.none() | st.just(max(1, activations))),
    )
    if any(not budget.excesses(one) for one in counts):
        space.require_feasible(SMALL, budget)
        drawn = space.architecture(space.draw_feasible(SMALL, budget, random.Random(seed)), SMALL)
        assert budget.fits(drawn)
        assert budget.verdict(drawn).excesses == ()
    else:
        with pytest.raises(InputError, match="nothing in the space fits"):
            space.draw_feasible(SMALL, budget, random.Random(seed))


def test_every_parameter_at_its_lowest_can_have_more_activations_than_a_wider_network() -> None:
    """A stage as wide as the stem needs no projection."""
    space = SearchSpace(blocks=((1, 2),), widths=(6, 8), stem_width=8)
    narrow, wide = (count(one).activations for one in space.floors(SMALL))
    assert (narrow, wide) == ((8 + 3 * 6) * 36, (8 + 2 * 8) * 36)
    budget = Budget(10**6, max_activations=wide)
    assert not budget.fits(space.smallest(SMALL))
    params = space.draw_feasible(SMALL, budget, random.Random(0))
    assert params == {"blocks_1": 1, "width_1": 8}


def test_the_fewest_activations_can_need_several_stages_as_wide_as_the_stem() -> None:
    space = SearchSpace(blocks=((1, 1),) * 2, widths=(7, 8), stem_width=8, strides=(1, 1))
    found = [count(one).activations // 36 for one in space.floors(SMALL)]
    assert found == [8 + 3 * 7 + 2 * 7, 8 + 2 * 8 + 3 * 7, 8 + 2 * 8 + 2 * 8]
    budget = Budget(10**6, max_activations=36 * min(found))
    params = space.draw_feasible(SMALL, budget, random.Random(0))
    assert params == {"blocks_1": 1, "width_1": 8, "blocks_2": 1, "width_2": 8}


def test_limits_that_no_network_meets_are_rejected_with_sufficient_values() -> None:
    smallest = count(SPACE.smallest(INPUTS))
    with pytest.raises(InputError) as raised:
        SPACE.require_feasible(INPUTS, Budget(5_000_000, smallest.macs - 1, smallest.activations - 1))
    assert raised.value.argument == "--max-macs"
    assert f"has {smallest.macs:,} multiply-accumulates, {smallest.activations:,} activations" in str(raised.value)
    allowed = f"allow at least --max-macs {smallest.macs:,} and --max-activations {smallest.activations:,}"
    assert allowed in str(raised.value)
    with pytest.raises(InputError, match=rf"--max-activations '1k'.*allow at least {smallest.activations:,}, or"):
        SPACE.require_feasible(INPUTS, Budget(5_000_000, 10**12, 1000))


def test_a_number_of_a_table_moves_to_the_nearest_by_ratio() -> None:
    steps = Steps((8, 10, 16, 32))
    assert [steps.nearest(value) for value in (1, 8, 8.9, 9, 12, 13, 22, 23, 500)] == [8, 8, 8, 10, 10, 16, 16, 32, 32]
    assert (steps.middle, Steps((4,)).middle, Steps((4,)).only, steps.only) == (16, 4, 4, None)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"width_1": 40}, None),
        ({"width_1": 37}, "width_1 = 37 is not in the table 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96"),
        ({"width_1": 37}, "512; the nearest are 32 and 40"),
        ({"width_2": 600}, "512"),
        ({"blocks_1": 6}, "blocks_1 = 6 is not in the table 1, 2, 3, 4, 5, 7, 9; the nearest are 5 and 7"),
        ({"stages": 5}, "stages = 5 must be one of 3, 4"),
        ({"optimizer": "lion"}, "optimizer = lion must be one of sgd, adam"),
        ({"sgd_learning_rate": 0.6}, "sgd_learning_rate = 0.6 must be from 0.01 to 0.5"),
    ],
)
def test_a_value_outside_its_range_has_a_reason(params: dict[str, Any], problem: str | None) -> None:
    found = CANDIDATES.problem(params)
    assert found is None if problem is None else problem in str(found)
