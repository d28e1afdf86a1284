from __future__ import annotations

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
from budgetnas.space.initial_trials import INITIAL_TRIALS, initial_candidate
from budgetnas.space.recipe import RecipeSpace
from budgetnas.space.search_space import (
    DEFAULT_WIDTHS,
    CandidateSpace,
    Choice,
    InputShape,
    LogRange,
    SearchSpace,
    WholeRange,
)

INPUTS = InputShape(in_channels=3, size=32, classes=10)
SPACE = SearchSpace()
CANDIDATES = CandidateSpace(SPACE, RecipeSpace(), INPUTS)
SMALLEST = count(SPACE.smallest(INPUTS)).params
LARGEST = count(SPACE.architecture({name: one.high for name, one in SPACE.ranges().items()}, INPUTS)).params

seeds = st.integers(0, 2**32)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    stages = draw(st.integers(1, 5))
    lows = draw(st.lists(st.integers(1, 4), min_size=stages, max_size=stages))
    blocks = tuple((low, low + draw(st.integers(0, 3))) for low in lows)
    return SearchSpace(
        block=draw(st.sampled_from(["basic", "bottleneck"])),
        blocks=blocks,
        widths=tuple(sorted(draw(st.sets(st.integers(1, 512), min_size=1, max_size=8)))),
        stem_width=draw(st.none() | st.integers(1, 128)),
        stem_kernel=draw(st.sampled_from([1, 3, 7])),
        strides=draw(st.none() | st.tuples(*[st.sampled_from([1, 2])] * stages)),
    )


def test_widths_are_four_to_an_octave_and_hold_the_classic_ones() -> None:
    assert {64, 128, 256, 512} <= set(DEFAULT_WIDTHS)
    rises = [high / low for low, high in pairwise(DEFAULT_WIDTHS)]
    assert 1.12 < min(rises) <= max(rises) <= 1.25


def test_the_ranges_of_the_default_space() -> None:
    top = len(DEFAULT_WIDTHS) - 1
    assert SPACE.ranges() == {
        name: one
        for stage in (1, 2, 3, 4)
        for name, one in ((f"blocks_{stage}", WholeRange(1, 3)), (f"width_{stage}", WholeRange(0, top)))
    }
    assert SPACE.size() == (3 * len(DEFAULT_WIDTHS)) ** 4
    assert SMALLEST <= 50_000


def test_the_ranges_of_candidates() -> None:
    assert {name: one for name, one in CANDIDATES.ranges().items() if name not in SPACE.ranges()} == {
        "optimizer": Choice(("sgd", "adam")),
        "sgd_learning_rate": LogRange(0.01, 0.5),
        "sgd_weight_decay": Choice((0.0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3)),
        "adam_learning_rate": LogRange(1e-4, 0.1),
        "adam_weight_decay": Choice((0.0, 1e-6, 1e-5, 1e-4, 5e-4)),
    }


@pytest.mark.parametrize("name", ["v1", "v2", "resnet18"])
def test_the_default_space_holds_the_classic_networks(name: str) -> None:
    params = SPACE.params_of(named(name))
    assert params is not None
    assert SPACE.architecture(params, INPUTS) == named(name)


@pytest.mark.parametrize("seed", INITIAL_TRIALS)
def test_the_default_space_holds_the_seeds(seed: str) -> None:
    candidate = initial_candidate(seed, CANDIDATES.recipes, INPUTS)
    params = CANDIDATES.params_of(candidate)
    assert params is not None
    assert CANDIDATES.candidate(params) == candidate
    assert CANDIDATES.candidate(params).key == candidate.key


@pytest.mark.parametrize(
    "change",
    [
        {"block": "bottleneck"},
        {"blocks": (2, 2, 2, 4)},
        {"widths": (64, 128, 128, 127)},
        {"widths": (64, 128, 128, 4096)},
        {"stem_width": 32},
        {"stem_kernel": 5},
        {"strides": (1, 2, 2, 1)},
        {"blocks": (2, 2, 2), "widths": (64, 128, 128), "strides": (1, 2, 2)},
    ],
)
def test_what_the_default_space_does_not_hold(change: dict[str, Any]) -> None:
    assert SPACE.params_of(replace(named("v2"), **change)) is None


def test_any_shape_of_data_is_held() -> None:
    assert SPACE.params_of(named("v2", in_channels=1, size=8, classes=1)) is not None


@given(spaces(), seeds)
def test_parameters_and_architecture_are_one_to_one(space: SearchSpace, seed: int) -> None:
    params = space.draw(random.Random(seed))
    assert {name: one.low <= params[name] <= one.high for name, one in space.ranges().items()} == dict.fromkeys(
        params, True
    )
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
def test_recipes_outside_the_ranges_are_not_held(change: dict[str, float]) -> None:
    seed = initial_candidate("v2-sgd", CANDIDATES.recipes, INPUTS)
    assert CANDIDATES.params_of(replace(seed, recipe=seed.recipe.model_copy(update=change))) is None


@pytest.mark.parametrize("change", [{"epochs": 21}, {"t_max": 200}, {"batch": 64}, {"momentum": 0.8}])
def test_recipes_of_another_study_are_not_held(change: dict[str, float]) -> None:
    seed = initial_candidate("v2-sgd", CANDIDATES.recipes, INPUTS)
    assert CANDIDATES.params_of(replace(seed, recipe=seed.recipe.model_copy(update=change))) is None


def test_an_optimiser_that_is_not_searched_is_not_held() -> None:
    only_adam = CandidateSpace(SPACE, RecipeSpace(optimizers=("adam",)), INPUTS)
    assert only_adam.params_of(initial_candidate("v2-sgd", only_adam.recipes, INPUTS)) is None
    assert only_adam.params_of(initial_candidate("v2-adam", only_adam.recipes, INPUTS)) is not None
    assert not any(name.startswith("sgd") for name in only_adam.ranges())


@given(st.just(SMALLEST) | st.integers(SMALLEST, LARGEST), seeds)
def test_a_feasible_draw_fits(limit: int, seed: int) -> None:
    params = SPACE.draw_feasible(INPUTS, Budget(limit), random.Random(seed))
    assert set(params) == set(SPACE.ranges())
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
        assert f"its smallest network (basic 1-1-1-1 x 8-8-8-8, stem 8) has {SMALLEST:,} parameters" in str(
            raised.value
        )
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
        ({"widths": (8, 8)}, "widths must rise"),
        ({"widths": (16, 8)}, "widths must rise"),
        ({"widths": (0, 8)}, "greater than or equal to 1"),
        ({"strides": (1, 2)}, "strides must have 4 numbers"),
        ({"strides": (1, 2, 3, 1)}, "Input should be 1 or 2"),
        ({"stem_kernel": 4}, "stem_kernel must be odd"),
        ({"depth": 3}, "Extra inputs are not permitted"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        SearchSpace(**values)


def test_an_unknown_seed_is_refused() -> None:
    with pytest.raises(InputError, match=r"seeds 'v3-sgd': unknown; known are v1-sgd, v1-adam, v2-sgd, v2-adam"):
        initial_candidate("v3-sgd", RecipeSpace(), INPUTS)


def test_seeds_are_the_source_report_s_runs_fitted_to_the_data() -> None:
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
    widths = tuple(sorted(draw(st.sets(st.integers(1, 24), min_size=1, max_size=5))))
    block = draw(st.sampled_from(["basic", "bottleneck"]))
    as_wide = draw(st.sampled_from(widths)) * (4 if block == "bottleneck" else 1)
    return SearchSpace(
        block=block,
        blocks=tuple((low, low + draw(st.integers(0, 1))) for low in draw(st.tuples(*[st.integers(1, 2)] * stages))),
        widths=widths,
        stem_width=draw(st.none() | st.just(as_wide) | st.integers(1, 96)),
        strides=draw(st.none() | st.tuples(*[st.sampled_from([1, 2])] * stages)),
    )


SMALL = InputShape(in_channels=1, size=6, classes=3)


def all_of(space: SearchSpace) -> list[Architecture]:
    ranges = space.ranges()
    spans = (range(one.low, one.high + 1) for one in ranges.values())
    return [space.architecture(dict(zip(ranges, values, strict=True)), SMALL) for values in product(*spans)]


@given(small_spaces())
def test_no_network_has_less_of_anything_than_every_floor(space: SearchSpace) -> None:
    floors = [count(one) for one in space.floors(SMALL)]
    assert space.floors(SMALL)[0] == space.smallest(SMALL)
    for one in all_of(space):
        counts = count(one)
        assert any(all(low <= much for low, much in zip(floor, counts, strict=True)) for floor in floors)


@given(small_spaces(), st.data(), seeds)
def test_a_space_is_refused_exactly_where_nothing_keeps_all_limits(
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
    assert params == {"blocks_1": 1, "width_1": 1}


def test_it_can_take_several_stages_as_wide_as_the_stem_to_have_the_fewest_activations() -> None:
    space = SearchSpace(blocks=((1, 1),) * 2, widths=(7, 8), stem_width=8, strides=(1, 1))
    found = [count(one).activations // 36 for one in space.floors(SMALL)]
    assert found == [8 + 3 * 7 + 2 * 7, 8 + 2 * 8 + 3 * 7, 8 + 2 * 8 + 2 * 8]
    budget = Budget(10**6, max_activations=36 * min(found))
    params = space.draw_feasible(SMALL, budget, random.Random(0))
    assert params == {"blocks_1": 1, "width_1": 1, "blocks_2": 1, "width_2": 1}


def test_limits_that_nothing_keeps_are_refused_with_each_and_what_would_do() -> None:
    smallest = count(SPACE.smallest(INPUTS))
    with pytest.raises(InputError) as raised:
        SPACE.require_feasible(INPUTS, Budget(5_000_000, smallest.macs - 1, smallest.activations - 1))
    assert raised.value.argument == "--max-macs"
    assert f"has {smallest.macs:,} multiply-accumulates, {smallest.activations:,} activations" in str(raised.value)
    allowed = f"allow at least --max-macs {smallest.macs:,} and --max-activations {smallest.activations:,}"
    assert allowed in str(raised.value)
    with pytest.raises(InputError, match=rf"--max-activations '1k'.*allow at least {smallest.activations:,}, or"):
        SPACE.require_feasible(INPUTS, Budget(5_000_000, 10**12, 1000))
