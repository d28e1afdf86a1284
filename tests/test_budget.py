from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetnas.architecture import Architecture, Counts, count, named
from budgetnas.architecture.budget import (
    FLAGS,
    MAX_BUDGET,
    QUANTITIES,
    WORDS,
    Budget,
    Excess,
    Limit,
    format_count,
    parse_budget,
    parse_limit,
)
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
        ("5,000,000", 5_000_000),
        ("9007199254740993", 2**53 + 1),
        ("1e18", 10**18),
        (5_000_000, 5_000_000),
        (5e6, 5_000_000),
        (1e16, 10**16),
    ],
)
def test_valid_budgets(written: str | float, meant: int) -> None:
    assert parse_budget(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "five", "M", "e5", "e", ".", "-", "+", "_", "5MM", "5Mk", "5 000 000", "5,0000", "0x10", "5%"),
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
def test_text_that_is_not_a_number(written: str) -> None:
    with pytest.raises(InputError, match="is not a number of parameters") as raised:
        parse_budget(written)
    assert raised.value.argument == "--budget"


@pytest.mark.parametrize(
    "written", ["0", "-1", "-5M", "-0", "0.5", "1e-3", "1.5", "1e-999", "1.2345k", "1e400", "1e999", "1e19", 0, -1, 2.5]
)
def test_numbers_that_are_not_a_budget(written: str | float) -> None:
    with pytest.raises(InputError, match="must be a whole number of parameters, from 1 to 1e18"):
        parse_budget(written)


@pytest.mark.parametrize("written", ["nan", "NaN", "inf", "-inf", "Infinity", math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(written: str | float) -> None:
    with pytest.raises(InputError, match="must be a finite number of parameters"):
        parse_budget(written)


def test_an_error_names_the_given_argument() -> None:
    with pytest.raises(InputError, match=r"^max_params 'five': "):
        parse_budget("five", argument="max_params")


@given(st.text(alphabet="0123456789eE.+-_kKmMgGbB ", max_size=12) | st.text(max_size=8))
def test_any_text_is_a_whole_number_or_an_input_error(text: str) -> None:
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
    assert (exact.fits, exact.excesses) == (True, ())
    assert not short.fits
    assert [excess.amount for excess in short.excesses] == [1]


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
def test_a_budget_of_zero_is_rejected(value: int) -> None:
    with pytest.raises(InputError, match="--budget"):
        Budget(value)


@pytest.mark.parametrize(
    ("argument", "unit"), [("--max-macs", "multiply-accumulates"), ("--max-activations", "activations")]
)
@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("inf", "must be a finite number of {}"),
        ("five", "is not a number of {}"),
        ("1.5", "must be a whole number of {}, from 1 to 1e18"),
        ("0", "must be a whole number of {}, from 1 to 1e18"),
    ],
)
def test_an_invalid_limit_is_reported_in_its_own_unit(argument: str, unit: str, written: str, rule: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_budget(written, argument=argument)
    assert str(raised.value).startswith(f"{argument} '{written}': {rule.format(unit)}; ")


def test_a_limit_may_be_missing() -> None:
    assert parse_limit(None, "macs") is None
    assert parse_limit("600M", "macs") == 600_000_000
    with pytest.raises(InputError, match=r"^--max-activations '-1'"):
        parse_limit("-1", "activations")


V2 = Counts(params=1_891_658, macs=335_480_064, activations=542_720, weight_bytes=1_905_168, ram_bytes=196_608)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_network_fits_a_limit_equal_to_its_count_and_not_one_below(quantity: str) -> None:
    assert count(named("v2")) == V2
    exact = Budget(*V2)
    assert exact.fits(named("v2"))
    assert exact.verdict(named("v2")).excesses == ()
    short = Budget(*V2._replace(**{quantity: getattr(V2, quantity) - 1}))
    verdict = short.verdict(named("v2"))
    assert not short.fits(named("v2")) and not verdict.fits
    (excess,) = verdict.excesses
    assert (excess.quantity, excess.count, excess.amount) == (quantity, getattr(V2, quantity), 1)


def test_limits_are_those_that_are_set_in_one_order() -> None:
    assert Budget(5).limits == (Limit("params", 5),)
    assert Budget(5, max_activations=7).limits == (Limit("params", 5), Limit("activations", 7))
    assert Budget(5, 6, 7).limits == (Limit("params", 5), Limit("macs", 6), Limit("activations", 7))
    assert [one.flag for one in Budget(5, 6, 7, 8, 9).limits] == list(FLAGS.values())
    assert str(Budget(5_000_000, 10**9, 600_000)) == (
        "5M parameters, 1,000,000,000 multiply-accumulates, 600k activations"
    )


@pytest.mark.parametrize("value", [0, -1])
def test_a_further_limit_of_zero_is_rejected(value: int) -> None:
    with pytest.raises(InputError, match="--max-macs"):
        Budget(1, max_macs=value)
    with pytest.raises(InputError, match="--max-activations"):
        Budget(1, max_activations=value)


def test_a_verdict_names_every_exceeded_limit_in_one_line() -> None:
    verdict = Budget(5_000_000, 300_000_000, 500_000).verdict(named("resnet18"))
    assert verdict.sentence() == (
        "over the budget: 11,173,962 of 5,000,000 parameters, 6,173,962 too many (2.23 x); "
        "555,422,720 of 300,000,000 multiply-accumulates, 255,422,720 too many (1.85 x); "
        "614,400 of 500,000 activations, 114,400 too many (1.23 x)"
    )
    assert Budget(5_000_000, 300_000_000, 600_000).verdict(named("v2")).sentence() == (
        "over the budget: 335,480,064 of 300,000,000 multiply-accumulates, 35,480,064 too many (1.12 x)"
    )
    assert Budget(5_000_000, max_activations=600_000).verdict(named("v2")).sentence() == (
        "fits: 1,891,658 of 5,000,000 parameters, 3,108,342 to spare; 542,720 of 600,000 activations, 57,280 to spare"
    )
    assert Excess("macs", 12, 10).to_dict() == {"quantity": "macs", "count": 12, "most": 10, "over": 2}


def plain_convolutions(width: int, side: int) -> Architecture:
    """One stage of one block, as wide as its stem: three 3x3 convolutions and no projection."""
    return Architecture((1,), (width,), (1,), stem_width=width, in_channels=1, size=side, classes=2)


@given(st.integers(1, 64), st.integers(1, 32), st.data())
def test_a_verdict_is_arithmetic(width: int, side: int, data: st.DataObject) -> None:
    closed = {
        "params": 9 * width + 18 * width**2 + 6 * width + 2 * width + 2,
        "macs": (9 * width + 18 * width**2) * side**2 + 2 * width,
        "activations": 3 * width * side**2,
    }
    limits = {name: data.draw(st.integers(1, 2 * much)) for name, much in closed.items()}
    budget = Budget(*limits.values())
    verdict = budget.verdict(plain_convolutions(width, side))
    broken = {name: closed[name] - limits[name] for name in closed if closed[name] > limits[name]}
    assert {one.quantity: one.amount for one in verdict.excesses} == broken
    assert verdict.fits == budget.fits(plain_convolutions(width, side)) == (not broken)
    assert all(WORDS[one.quantity] in verdict.sentence() for one in verdict.excesses)
