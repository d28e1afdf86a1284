from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetnas.data.splits import Purpose, choose, class_quotas, hold_out, share_size

class_sizes = st.lists(st.integers(1, 60), min_size=1, max_size=8)


@st.composite
def sizes_and_count(draw: st.DrawFn) -> tuple[list[int], int]:
    sizes = draw(class_sizes)
    return sizes, draw(st.integers(len(sizes), sum(sizes)))


@st.composite
def labels(draw: st.DrawFn, least: int = 1) -> np.ndarray:
    sizes = draw(st.lists(st.integers(least, 40), min_size=2, max_size=6))
    ordered = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(ordered).astype(np.int64)


@given(sizes_and_count())
def test_quotas_are_exact_in_sum_and_no_class_is_left_out_or_exceeded(case: tuple[list[int], int]) -> None:
    sizes, count = case
    quotas = class_quotas(sizes, count)
    assert sum(quotas) == count
    assert all(1 <= quota <= size for quota, size in zip(quotas, sizes, strict=True))


@given(sizes_and_count())
def test_quotas_are_proportional_to_within_one_image(case: tuple[list[int], int]) -> None:
    sizes, count = case
    total = sum(sizes)
    for quota, size in zip(class_quotas(sizes, count), sizes, strict=True):
        share = count * size / total
        assert quota < share + 1 or quota == 1
        if count * min(sizes) >= total:  # otherwise small classes, which give at least an image, take from the others
            assert quota > share - 1


@given(class_sizes)
def test_quotas_never_shrink_as_the_count_grows(sizes: list[int]) -> None:
    every = [class_quotas(sizes, count) for count in range(len(sizes), sum(sizes) + 1)]
    for fewer, more in pairwise(every):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))


def test_quotas_of_equal_classes_are_equal() -> None:
    assert class_quotas([5000] * 10, 2000) == [200] * 10


def test_quotas_skip_classes_without_images() -> None:
    assert class_quotas([4, 0, 4], 2) == [1, 0, 1]


@given(labels(), st.data(), st.integers(0, 2**40))
def test_choices_are_nested_and_deterministic(y: np.ndarray, data: st.DataObject, seed: int) -> None:
    classes = len(np.unique(y))
    more = data.draw(st.integers(classes, len(y)))
    fewer = data.draw(st.integers(classes, more))
    large = choose(y, more, seed=seed, purpose=Purpose.SUBSET)
    small = choose(y, fewer, seed=seed, purpose=Purpose.SUBSET)
    assert (len(large), len(small)) == (more, fewer)
    assert set(small) <= set(large)
    assert np.array_equal(large, np.unique(large))
    assert np.array_equal(large, choose(y, more, seed=seed, purpose=Purpose.SUBSET))


@given(labels(least=2), st.integers(0, 5))
def test_a_tenth_of_every_class_is_split_off_and_no_class_is_emptied(y: np.ndarray, seed: int) -> None:
    size = share_size(y, 10)
    kept, chosen = hold_out(y, size, seed=seed, purpose=Purpose.VALIDATION)
    assert size == len(chosen) == max(round(len(y) / 10), len(np.unique(y)))
    assert sorted([*kept, *chosen]) == list(range(len(y)))
    assert set(y[kept]) == set(y[chosen]) == set(y)


@given(labels(least=3), st.integers(0, 5))
def test_two_splits_in_a_row_leave_something_of_every_class(y: np.ndarray, seed: int) -> None:
    kept, _ = hold_out(y, share_size(y, 5), seed=seed, purpose=Purpose.TEST)
    left, _ = hold_out(y[kept], share_size(y[kept], 10), seed=seed, purpose=Purpose.VALIDATION)
    assert set(y[kept][left]) == set(y)


def test_seeds_and_purposes_choose_differently() -> None:
    y = np.repeat(np.arange(4), 50).astype(np.int64)
    chosen = [
        tuple(choose(y, 40, seed=seed, purpose=purpose))
        for seed in (0, 1)
        for purpose in (Purpose.SUBSET, Purpose.TEST)
    ]
    assert len(set(chosen)) == 4


@pytest.mark.parametrize(("seed", "expected"), [(0, [4, 7, 10, 18]), (7, [1, 3, 11, 18])], ids=["seed 0", "seed 7"])
def test_choices_are_pinned_across_platforms_and_versions(seed: int, expected: list[int]) -> None:
    y = np.repeat(np.arange(2), 10).astype(np.int64)
    assert choose(y, 4, seed=seed, purpose=Purpose.VALIDATION).tolist() == expected
