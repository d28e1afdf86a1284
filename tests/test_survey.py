from __future__ import annotations

import random
import tomllib
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from budgetnas.architecture import Counts, count, named
from budgetnas.architecture.budget import QUANTITIES, Budget
from budgetnas.errors import InputError
from budgetnas.searching.options import SearchOptions
from budgetnas.space.initial_trials import INITIAL_TRIALS
from budgetnas.space.ranges import Params
from budgetnas.space.search_space import InputShape, SearchSpace
from budgetnas.space.survey import Tally, survey
from budgetnas.space.survey.counted import count_space
from budgetnas.space.survey.drawn import draw_space, lower_bound
from budgetnas.space.survey.suggestion import GAIN, KEPT

INPUTS = InputShape(in_channels=3, size=32, classes=10)
TINY = SearchSpace(blocks=((1, 2),), widths=(4, 8))
LARGE = SearchSpace(blocks=((1, 40),) * 4)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces of at most some thousand networks, with every key of a study file."""
    stages = draw(st.integers(1, 4))
    lows = draw(st.lists(st.integers(1, 3), min_size=stages, max_size=stages))
    widths = draw(st.sets(st.integers(1, 70), min_size=1, max_size=3))
    blocks = tuple((low, low + draw(st.integers(0, 2))) for low in lows)
    space = SearchSpace(
        stages=draw(st.none() | st.tuples(st.integers(1, stages), st.just(stages))),
        se=draw(st.sampled_from([(False,), (True,), (False, True)])),
        depths=draw(st.none() | st.just(tuple(sorted({*lows, *(high for _, high in blocks)})))),
        stem_stride=draw(st.sampled_from([None, 2, 4])),
        block=draw(st.sampled_from(["basic", "bottleneck"])),
        blocks=blocks,
        widths=tuple(sorted(widths)),
        stem_width=draw(st.none() | st.integers(1, 70) | st.sampled_from(sorted(widths))),
        strides=draw(st.none() | st.tuples(*[st.sampled_from([1, 2])] * stages)),
    )
    assume(space.size() <= 2_500)
    return space


def every(space: SearchSpace) -> list[Params]:
    return [
        space.choices_of(part) | dict(zip(part.ranges(), values, strict=True))
        for part in space.parts()
        for values in product(*(steps.values for steps in part.ranges().values()))
    ]


def by_part(space: SearchSpace, fits: list[bool], params: list[Params]) -> float:
    """The share that fits where every number of stages, with and without SE, is equally likely."""
    parts = [space.choices_of(part) for part in space.parts()]
    shares = []
    for part in parts:
        inside = [fit for fit, one in zip(fits, params, strict=True) if part.items() <= one.items()]
        shares.append(sum(inside) / len(inside))
    return sum(shares) / len(shares)


@st.composite
def budgets(draw: st.DrawFn, counts: list[Counts]) -> Budget:
    """Limits that some network of a space meets exactly: on parameters alone, or with others."""
    at = st.sampled_from(counts)
    others = {quantity: draw(st.none() | at) for quantity in QUANTITIES[1:]}
    exact = {f"max_{name}": getattr(one, name) for name, one in others.items() if one is not None}
    return Budget(draw(at).params, **exact)


def test_a_tiny_space_counted_by_hand() -> None:
    """One stage of 1 or 2 blocks, 4 or 8 wide, the stem as wide: four networks.

    With w channels the stem has 27 w + 2 w parameters, a block 2 (9 w^2 + 2 w), the head 10 w + 10.
    """
    by_hand = {(blocks, w): 29 * w + blocks * (18 * w**2 + 4 * w) + 10 * w + 10 for blocks in (1, 2) for w in (4, 8)}
    assert sorted(by_hand.values()) == [470, 774, 1506, 2690]
    tally = survey(TINY, INPUTS, Budget(774)).tally
    assert (tally.share.fits, tally.share.of, tally.share.counted) == (2, 4, True)
    assert tally.share.interval == (0.5, 0.5)
    assert {name: [one.share.estimate for one in values] for name, values in tally.values.items()} == {
        "blocks_1": [0.5, 0.5],
        "width_1": [1.0, 0.0],
    }
    assert [one.possible for one in tally.values["width_1"]] == [True, False]
    assert tally.largest_fitting is not None
    ends = (tally.smallest, tally.largest_fitting, tally.largest)
    assert [count(one.architecture).params for one in ends] == [470, 774, 2690]


@settings(max_examples=60)
@given(spaces(), st.data())
def test_the_count_of_a_space_equals_an_enumeration(space: SearchSpace, data: st.DataObject) -> None:
    params = every(space)
    counts = [count(space.architecture(one, INPUTS)) for one in params]
    budget = data.draw(budgets(counts))
    fits = [not budget.excesses(one) for one in counts]
    tally = count_space(space, INPUTS, budget)
    assert tally is not None
    assert (tally.share.fits, tally.share.of) == (sum(fits), len(params))
    assert tally.share.estimate == pytest.approx(by_part(space, fits, params))
    assert list(tally.values) == list(space.ranges())
    for name, values in tally.values.items():
        assert [one.value for one in values] == list(space.ranges()[name].values)
        for one in values:
            with_it = [fit for fit, each in zip(fits, params, strict=True) if each.get(name) == one.value]
            assert (one.share.fits, one.share.of, one.possible) == (sum(with_it), len(with_it), any(with_it))
        if name in ("stages", "se") or not name.endswith(tuple("234")):
            assert sum(one.weight for one in values) == pytest.approx(1)
            assert sum(one.weight * one.share.estimate for one in values) == pytest.approx(tally.share.estimate)
    assert count(tally.smallest.architecture).params == min(one.params for one in counts)
    known = draw_space(space, INPUTS, budget, seed=0, draws=0).smallest
    assert known.certain
    assert count(known.architecture).params == count(tally.smallest.architecture).params
    assert count(tally.largest.architecture).params == max(one.params for one in counts)
    largest = max((one.params for one, fit in zip(counts, fits, strict=True) if fit), default=None)
    found = tally.largest_fitting
    assert (None if found is None else count(found.architecture).params) == largest
    assert found is None or budget.fits(found.architecture)


@settings(max_examples=60)
@given(spaces(), st.data())
def test_only_a_space_in_which_nothing_fits_is_rejected(space: SearchSpace, data: st.DataObject) -> None:
    counts = [count(space.architecture(one, INPUTS)) for one in every(space)]
    budget = data.draw(budgets(counts))
    tally = count_space(space, INPUTS, budget)
    assert tally is not None
    if tally.share.fits:
        space.require_feasible(INPUTS, budget)
    else:
        with pytest.raises(InputError, match="nothing in the space fits"):
            survey(space, INPUTS, budget)


@settings(max_examples=60)
@given(spaces(), st.data())
def test_values_proved_impossible_without_counting_fit_nowhere(space: SearchSpace, data: st.DataObject) -> None:
    counts = [count(space.architecture(one, INPUTS)) for one in every(space)]
    budget = data.draw(budgets(counts))
    counted = count_space(space, INPUTS, budget)
    assert counted is not None
    for name, values in draw_space(space, INPUTS, budget, seed=0, draws=0).values.items():
        for drawn, exact in zip(values, counted.values[name], strict=True):
            assert drawn.possible or not exact.share.fits


@settings(max_examples=60)
@given(spaces(), st.data())
def test_no_network_is_below_the_lower_bound(space: SearchSpace, data: st.DataObject) -> None:
    part = data.draw(st.sampled_from(space.parts()))
    least = lower_bound(part.smallest(INPUTS))
    counts = count(part.architecture(data.draw(st.sampled_from(every(part))), INPUTS))
    assert all(low <= found for low, found in zip(least, counts, strict=True))


def test_a_stage_of_stride_1_as_wide_as_the_stem_can_be_the_cheaper_one() -> None:
    """The case for which the least counts leave projections out."""
    space = SearchSpace(blocks=((1, 1),), widths=(63, 64), stem_width=64)
    narrow, wide = (count(space.architecture({"blocks_1": 1, "width_1": w}, INPUTS)).params for w in (63, 64))
    assert wide < narrow
    assert lower_bound(space.smallest(INPUTS)).params < wide
    tally = survey(space, INPUTS, Budget(wide)).tally
    assert [one.share.fits for one in tally.values["width_1"]] == [0, 1]


def test_the_default_space_is_counted_within_its_documented_share() -> None:
    tally = survey(SearchSpace(), INPUTS, Budget(5_000_000)).tally
    assert tally.share.counted
    assert tally.share.of == SearchSpace().size() == 1_886_500_000
    assert tally.share.groups == (
        (2_891_310, 5_359_375),
        (2_882_962, 5_359_375),
        (392_413_390, 937_890_625),
        (390_628_571, 937_890_625),
    )
    assert tally.share.estimate == pytest.approx(0.47808, abs=1e-5)
    one_less = survey(SearchSpace(), INPUTS, Budget(4_999_999)).tally
    assert tally.largest_fitting is not None
    assert count(tally.largest_fitting.architecture).params == 5_000_000
    assert one_less.share.fits < tally.share.fits


def test_intervals_of_draws_cover_the_counted_share_as_often_as_claimed() -> None:
    space, budget = SearchSpace(blocks=((1, 2),) * 3, widths=(8, 16, 24, 32, 48, 64)), Budget(40_000)
    counted = count_space(space, INPUTS, budget)
    assert counted is not None
    covered = 0
    for seed in range(200):
        low, high = draw_space(space, INPUTS, budget, seed, draws=150).share.interval
        covered += low <= counted.share.estimate <= high
    assert covered >= 180  # of 200 at least 190 are expected; below 180 chance has one in a thousand


def test_draws_are_those_of_their_seed_and_agree_with_counting() -> None:
    budget = Budget(5_000_000)
    first, again, other = (draw_space(SearchSpace(), INPUTS, budget, seed, draws=2_000) for seed in (1, 1, 2))
    assert first == again
    assert first.share != other.share or first.values != other.values
    assert sum(one.share.of for one in first.values["width_2"]) == 2_000
    assert not first.largest.certain
    assert first.largest_fitting is not None
    assert budget.fits(first.largest_fitting.architecture)


def test_a_space_too_large_to_count_is_sampled_and_marked() -> None:
    found = survey(LARGE, INPUTS, Budget(5_000_000, 300_000_000))
    assert not found.tally.share.counted
    assert found.tally.share.of == 200_000
    low, high = found.tally.share.interval
    assert low < found.tally.share.estimate < high < low + 0.005


def test_values_that_can_never_fit_are_proved_in_a_space_too_large_to_be_counted() -> None:
    found = survey(LARGE, INPUTS, Budget(100_000, 10**9))
    never = [one.value for one in found.tally.values["width_4"] if not one.possible]
    lowest = {name: one.values[0] for name, one in LARGE.ranges().items()}
    for width in LARGE.widths:
        least = count(LARGE.architecture(lowest | {"width_4": width}, INPUTS)).params
        assert (width in never) == (least > 100_000)


@pytest.mark.parametrize("limits", [(1_000_000,), (300_000,), (50_000,), (6_000,), (5_000_000, 50_000_000, 400_000)])
def test_suggested_ranges_fit_more_and_keep_what_fits(limits: tuple[int, ...]) -> None:
    space, budget = SearchSpace(), Budget(*limits)
    found = survey(space, INPUTS, budget)
    one = found.suggestion
    assert one is not None
    again = count_space(one.space, INPUTS, budget)
    assert again is not None
    assert again.share == one.share
    assert one.share.estimate >= GAIN * found.tally.share.estimate
    shares = zip(again.share.groups, found.tally.share.groups, strict=True)
    kept = sum(now / of for (now, _), (_, of) in shares) / sum(was / of for was, of in found.tally.share.groups)
    assert one.kept == pytest.approx(kept)
    assert kept >= KEPT
    assert set(one.space.widths) | set(one.widths_dropped) == set(space.widths)
    assert not set(one.space.widths) & set(one.widths_dropped)
    for stage, gone in enumerate(one.blocks_dropped, start=1):
        assert one.space.depths_of(stage) + gone == space.depths_of(stage)


@settings(max_examples=40)
@given(spaces(), st.data())
def test_suggestions_in_any_space(space: SearchSpace, data: st.DataObject) -> None:
    counts = [count(space.architecture(one, INPUTS)) for one in every(space)]
    budget = data.draw(budgets(counts))
    tally = count_space(space, INPUTS, budget)
    assert tally is not None
    assume(tally.share.fits)
    one = survey(space, INPUTS, budget).suggestion
    if one is None:
        values = [value for values in tally.values.values() for value in values]
        blocks = [values for name, values in tally.values.items() if name.startswith("blocks")]
        tops = [shares[-1].possible for shares in blocks if any(one.possible for one in shares)]
        assert all(tops) or not values
        return
    assert one.share.estimate > tally.share.estimate
    assert one.kept >= KEPT
    if one.never:
        assert one.share.fits == tally.share.fits
    assert SearchOptions.parse(tomllib.loads(one.toml())).space == one.space


@pytest.mark.parametrize("budget", [Budget(5_000_000), Budget(2_000_000), Budget(5_000_000, 340_000_000)])
def test_initial_networks_that_fit_stay_in_the_suggested_ranges(budget: Budget) -> None:
    space = SearchSpace(blocks=((1, 6),) * 4)
    found = survey(space, INPUTS, budget)
    kept = [one for one in found.initial_networks if one.fits]
    assert kept
    assert found.suggestion is not None
    for one in kept:
        assert found.suggestion.space.params_of(one.architecture) is not None
    without = survey(space, INPUTS, budget, seeds=()).suggestion
    assert without is not None
    assert set(without.space.widths) <= set(found.suggestion.space.widths)
    if budget.max_params == 5_000_000:
        assert 512 in {*found.suggestion.space.widths} - {*without.space.widths}


def test_ranges_that_do_not_raise_the_share_are_not_suggested() -> None:
    """Nothing of two stages fits, so dropping one of its numbers of blocks leaves the share as it was."""
    space = SearchSpace(blocks=((1, 1), (1, 2)), widths=(1,), stages=(1, 2), se=(False,))
    found = survey(space, INPUTS, Budget(71))
    assert found.tally.share.estimate == 0.5
    assert found.suggestion is None


def test_a_suggestion_keeps_the_other_keys_of_the_space() -> None:
    space = SearchSpace(block="bottleneck", blocks=((1, 3),) * 3, stem_width=16, stem_kernel=5, strides=(1, 2, 1))
    found = survey(space, INPUTS, Budget(60_000)).suggestion
    assert found is not None
    assert SearchOptions.parse(tomllib.loads(found.toml())).space == found.space
    same = ("block", "stem_width", "stem_kernel", "strides")
    assert {name: getattr(found.space, name) for name in same} == {name: getattr(space, name) for name in same}


def test_suggestions_from_draws_keep_most_of_what_fits() -> None:
    budget = Budget(1_000_000, 100_000_000)
    found = survey(LARGE, INPUTS, budget)
    one = found.suggestion
    assert one is not None
    assert not one.kept_counted
    assert one.kept >= KEPT
    fresh, generator = draw_space(LARGE, INPUTS, budget, seed=99), random.Random(5)
    drawn = (LARGE.architecture(LARGE.draw(generator), INPUTS) for _ in range(20_000))
    inside = [one.space.params_of(each) is not None for each in drawn if budget.fits(each)]
    assert sum(inside) / len(inside) > KEPT - 4 * 0.25 / len(inside) ** 0.5
    assert draw_space(one.space, INPUTS, budget, seed=99).share.estimate > GAIN * fresh.share.estimate


def test_initial_networks_and_their_distance_to_each_limit() -> None:
    v1, v2 = survey(SearchSpace(), INPUTS, Budget(5_000_000, 300_000_000, 10**6)).initial_networks
    assert (v1.name, v1.trials, v1.in_space, v1.fits) == ("v1", ("v1-sgd", "v1-adam"), True, True)
    assert v1.left == {"params": 96_758, "macs": 300_000_000 - 253_432_832, "activations": 10**6 - 368_640}
    assert (v2.name, v2.in_space, v2.fits, v2.left["macs"]) == ("v2", True, False, 300_000_000 - 335_480_064)
    assert v2.counts == count(named("v2"))


def test_initial_trials_that_a_study_omits_or_its_space_excludes() -> None:
    v1, v2 = survey(TINY, INPUTS, Budget(10**4), seeds=("v2-adam",)).initial_networks
    assert (v1.trials, v2.trials) == ((), ("v2-adam",))
    assert not v1.in_space
    assert not v2.in_space
    networks = survey(TINY, INPUTS, Budget(10**4)).initial_networks
    assert {trial for network in networks for trial in network.trials} == set(INITIAL_TRIALS)


def test_an_unknown_name_of_an_initial_trial_is_rejected() -> None:
    with pytest.raises(InputError, match="seeds 'v3-sgd': is not a network and an optimiser"):
        survey(TINY, INPUTS, Budget(10**4), seeds=("v1-sgd", "v3-sgd"))


def test_everything_fits() -> None:
    found = survey(SearchSpace(), INPUTS, Budget(10**9, 10**12))
    assert found.tally.share.fits == found.tally.share.of
    assert found.suggestion is None
    assert found.tally.largest_fitting == found.tally.largest


def _tally(space: SearchSpace, budget: Budget) -> Tally:
    found = count_space(space, INPUTS, budget)
    assert found is not None
    return found


@pytest.mark.parametrize("changes", [{"blocks": ((1, 3),) * 5}, {"blocks": ((1, 12),) * 4}])
def test_billions_of_networks_are_counted(changes: dict[str, Any]) -> None:
    space, budget = SearchSpace(**changes), Budget(5_000_000)
    tally, generator = _tally(space, budget), random.Random(3)
    assert tally.share.of == space.size() > 2 * 10**9
    drawn = sum(budget.fits(space.architecture(space.draw(generator), INPUTS)) for _ in range(4_000))
    assert abs(drawn / 4_000 - tally.share.estimate) < 4 * 0.5 / 4_000**0.5
