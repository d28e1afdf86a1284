from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetnas.architecture import count, named
from budgetnas.budget import MAX_BUDGET, Budget, format_count, parse_budget
from budgetnas.errors import InputError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("5e6", 5_000_000),
        ("5E6", 5_000_000),
        ("5e+6", 5_000_000),
        ("5M", 5_000_000),
        ("5m", 5_000_000),
        ("5 M", 5_000_000),
        (" 5M ", 5_000_000),
        ("+5M", 5_000_000),
        ("5_000_000", 5_000_000),
        ("5.5M", 5_500_000),
        (".5M", 500_000),
        ("0.0005g", 500_000),
        ("300k", 300_000),
        ("1b", 10**9),
        ("1G", 10**9),
        ("2e3k", 2_000_000),
        ("1.000", 1),
        ("1e-3k", 1),
        ("1_891_658", 1_891_658),
        ("9007199254740993", 2**53 + 1),
        ("1e18", 10**18),
        (5_000_000, 5_000_000),
        (5e6, 5_000_000),
        (1e16, 10**16),
    ],
)
def test_what_may_be_written(written: str | float, meant: int) -> None:
    assert parse_budget(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "five", "M", "e5", "e", ".", "-", "+", "_", "5MM", "5Mk", "5 000 000", "5,000,000", "0x10", "5%"),
        *(
            "1_",
            "_1",
            "1__0",
            "1_.5",
            "1._5",
            "1e_5",
            "1e5_",
            "5.",
            "--5",
            "+-5",
            "٣",
            "５M",
            "5\N{KELVIN SIGN}",
            "1e٣",
            "True",
        ),
    ],
)
def test_what_is_no_number(written: str) -> None:
    with pytest.raises(InputError, match="is not a number of parameters") as raised:
        parse_budget(written)
    assert raised.value.argument == "--budget"


@pytest.mark.parametrize(
    "written", ["0", "-1", "-5M", "-0", "0.5", "1e-3", "1.5", "1e-999", "1.2345k", "1e400", "1e999", "1e19", 0, -1, 2.5]
)
def test_numbers_of_which_no_budget_can_be_made(written: str | float) -> None:
    with pytest.raises(InputError, match="must be a whole number of parameters, from 1 to 1e18"):
        parse_budget(written)


@pytest.mark.parametrize("written", ["nan", "NaN", "inf", "-inf", "Infinity", math.nan, math.inf, -math.inf])
def test_what_is_not_finite(written: str | float) -> None:
    with pytest.raises(InputError, match="must be a finite number of parameters"):
        parse_budget(written)


def test_an_error_names_the_argument_that_it_is_told() -> None:
    with pytest.raises(InputError, match=r"^max_params 'five': "):
        parse_budget("five", argument="max_params")


@given(st.text(alphabet="0123456789eE.+-_kKmMgGbB ", max_size=12) | st.text(max_size=8))
def test_any_text_is_a_whole_number_or_an_error_of_ours(text: str) -> None:
    try:
        assert 1 <= parse_budget(text) <= MAX_BUDGET
    except InputError as error:
        assert error.exit_code == 2


@given(st.integers(1, MAX_BUDGET) | st.integers(1, 10**7).map(lambda hundreds: hundreds * 100))
def test_a_formatted_count_is_read_as_the_same(value: int) -> None:
    assert parse_budget(format_count(value)) == value
    assert parse_budget(f"{value:_}") == value


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (5_000_000, "5M"),
        (5_500_000, "5.5M"),
        (300_000, "300k"),
        (50_000, "50k"),
        (1_500, "1.5k"),
        (999, "999"),
        (1_891_658, "1891658"),
        (1_234_500, "1234500"),
        (100_000_100, "100000100"),
        (999_900_000, "999.9M"),
        (10**9, "1000000000"),
    ],
)
def test_counts_as_people_write_them(value: int, written: str) -> None:
    assert format_count(value) == written
    assert str(Budget(value)) == written


def test_the_exact_limit_fits_and_one_less_does_not() -> None:
    v2 = named("v2")
    params = count(v2).params
    assert Budget(params).fits(v2)
    assert not Budget(params - 1).fits(v2)
    exact, short = Budget(params).verdict(v2), Budget(params - 1).verdict(v2)
    assert (exact.fits, exact.overshoot) == (True, 0)
    assert (short.fits, short.overshoot) == (False, 1)


def test_a_verdict_in_words() -> None:
    assert Budget(5_000_000).verdict(named("v2")).sentence() == (
        "fits: 1,891,658 of 5,000,000 parameters, 3,108,342 to spare"
    )
    assert Budget(5_000_000).verdict(named("resnet18")).sentence() == (
        "over the budget: 11,173,962 of 5,000,000 parameters, 6,173,962 too many (2.23 x)"
    )


def test_shares_of_the_parts_add_up() -> None:
    verdict = Budget(5_000_000).verdict(named("v1"))
    assert sum(part.counts.params for part in verdict.parts) == verdict.params == 4_903_242
    assert verdict.share(2_500_000) == 0.5


@pytest.mark.parametrize("value", [0, -1])
def test_a_budget_of_nothing_is_refused(value: int) -> None:
    with pytest.raises(InputError, match="--budget"):
        Budget(value)
