"""Exact numbers in columns against `fractions`: no digit lost, nothing wrapped, what cannot be held is refused."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rollup_engine import numbers
from rollup_engine.numbers import BASE, NumberError, NumberText

LIMIT = Fraction(10) ** 36


@st.composite
def json_numbers(draw: st.DrawFn) -> str:
    """Any JSON number's text; many lie near the limits of digits and scale."""
    whole = draw(st.just("0") | st.from_regex(r"[1-9][0-9]{0,39}", fullmatch=True))
    fraction = draw(st.just("") | st.from_regex(r"\.[0-9]{1,24}", fullmatch=True))
    exponent = draw(st.just("") | st.from_regex(r"[eE][-+]?0{0,9}[0-9]{1,2}", fullmatch=True))
    return draw(st.sampled_from(["", "-"])) + whole + fraction + exponent


def naive_split(text: str, scale: int) -> tuple[int, int, int] | None:
    """None: refused."""
    value = Fraction(text)
    if abs(value) >= LIMIT or (value * 10**scale).denominator != 1:
        return None
    units = value * BASE
    assert units.denominator == 1
    return units.numerator // BASE // BASE, units.numerator // BASE % BASE, units.numerator % BASE


def value_of(parts: tuple[int, int, int]) -> Fraction:
    hi, lo, frac = parts
    return Fraction(hi) * BASE + lo + Fraction(frac, BASE)


@given(json_numbers(), st.integers(0, 18))
@example("9007199254740993", 0)
@example("9223372036854775808", 0)
@example("-9223372036854775809", 0)
@example("1000000000000000000000000000000", 0)
@example("999999999999999999999999999999999999.999999999999999999", 18)
@example("1000000000000000000000000000000000000", 0)
@example("-999999999999999999999999999999999999", 0)
@example("0.1", 1)
@example("0.1", 0)
@example("1.50", 1)
@example("-0.000000000000000001", 18)
@example("-0", 0)
@example("-0.0", 0)
@example("0e99", 0)
@example("1E+5", 0)
@example("1e0000000000000001", 0)
@example("1e-0000000000000001", 1)
@example("100e-2", 0)
def test_split_is_the_exact_number_or_refused(text: str, scale: int) -> None:
    expected = naive_split(text, scale)
    if expected is None:
        with pytest.raises(NumberError):
            numbers.split(text, scale)
        return
    parts = numbers.split(text, scale)
    assert parts == expected
    assert value_of(parts) == Fraction(text)
    assert all(0 <= part < BASE for part in parts[1:])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1e400", "before the decimal point"),
        ("-1e400", "before the decimal point"),
        ("1e" + "9" * 5_000, "before the decimal point"),
        ("9" * 4_300, "before the decimal point"),
        ("1e-400", "after the decimal point"),
        ("1e-" + "9" * 5_000, "after the decimal point"),
        ("0." + "3" * 100_000, "after the decimal point"),
        ("0.0000000001", "more than 9 digits after the decimal point"),
        ("NaN", "not a number"),
        ("Infinity", "not a number"),
        ("٣", "not a number"),
        ("1_000", "not a number"),
        (" 1", "not a number"),
        ("1\n", "not a number"),
        ("", "not a number"),
    ],
)
def test_the_reason_for_a_refusal_is_short_and_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(NumberError, match=why) as refused:
        numbers.split(text, 9)
    assert len(str(refused.value)) < 120


def test_zero_has_no_exponent_too_large() -> None:
    assert numbers.split("0e" + "9" * 5_000, 9) == numbers.split("-0.0e-" + "9" * 5_000, 9) == (0, 0, 0)


good_numbers: st.SearchStrategy[object] = (
    st.none() | st.integers(-(10**37), 10**37) | st.integers(-5, 5) | json_numbers().map(NumberText)
)
column_values = st.lists(good_numbers, max_size=8) | st.lists(
    good_numbers | st.booleans() | st.text(max_size=3) | st.just({}) | st.just([]), max_size=8
)


@given(column_values, st.integers(0, 18))
@example([2**53 + 1, 2**63 - 1, None], 9)
@example([2**63], 9)
@example([10**18 - 1], 9)
@example([10**18], 9)
@example([-1], 9)
@example([-(2**63) - 1, 5], 9)
@example([10**30, NumberText("0.1"), True, "1", None], 9)
@example([None, None], 9)
@example([], 9)
@example([NumberText("-0.0"), 0], 9)
@example([1, False], 9)
def test_columns_hold_what_split_gives_value_by_value(values: list[object], scale: int) -> None:
    series, errors = numbers.columns("n.x", values, scale)
    expected: list[tuple[int, int, int] | None] = []
    wrong: set[int] = set()
    for row, value in enumerate(values):
        number = type(value) in (int, NumberText)
        expected.append(naive_split(str(value), scale) if number else None)
        if value is not None and expected[-1] is None:
            wrong.add(row)
    assert set(errors) == wrong
    assert all(errors.values())
    frame = pl.DataFrame(series)
    assert all(dtype == pl.Int64 for dtype in frame.dtypes)
    assert frame["n.x.lo"].to_list() == [None if one is None else one[1] for one in expected]
    for index, part in ((0, "n.x.hi"), (2, "n.x.frac")):
        wanted = [None if one is None else one[index] for one in expected]
        assert (part in frame.columns) == any(wanted)  # left out exactly where zero throughout
        if part in frame.columns:
            assert frame[part].to_list() == wanted


@given(st.lists(st.integers(-(10**36) + 1, 10**36 - 1) | st.none(), min_size=1, max_size=5))
def test_whole_is_the_integer_as_int128(values: list[int | None]) -> None:
    series, _ = numbers.columns("n.x", values, 0)
    frame = pl.DataFrame(series)
    whole = frame.select(numbers.whole("n.x", frame.columns).alias("whole"))["whole"]
    assert whole.dtype == pl.Int128
    assert whole.to_list() == values


@given(st.lists(json_numbers().filter(lambda text: naive_split(text, 18) is not None), min_size=1, max_size=50))
def test_parts_summed_as_int128_are_the_exact_sum(texts: Sequence[str]) -> None:
    series, errors = numbers.columns("n.x", [NumberText(text) for text in texts], 18)
    assert not errors
    sums = pl.DataFrame(series).select(pl.all().cast(pl.Int128).sum()).row(0, named=True)
    parts = [int(sums.get(f"n.x.{part}", 0)) for part in numbers.PARTS]
    total = numbers.decimal(*parts)
    assert Fraction(total) == sum(map(Fraction, texts))


sums_of_parts = st.integers(-(2**127), 2**127 - 1)


@given(sums_of_parts, sums_of_parts, sums_of_parts)
@example(0, 0, 0)
@example(-1, BASE - 1, BASE - 1)
@example(0, 0, 1)
@example(0, 1, -1)
@example(0, 0, 5 * 10**17)
def test_decimal_is_exact_and_from_decimal_brings_it_back(hi: int, lo: int, frac: int) -> None:
    with localcontext(prec=3):  # no result may hang on the caller's context
        total = numbers.decimal(hi, lo, frac)
        text = f"{total:f}"
        back = numbers.from_decimal(Decimal(text))
    assert Fraction(text) == value_of((hi, lo, frac)) == value_of(back)
    assert "." not in text or not text.endswith("0")
    assert text != "-0"
    assert all(0 <= part < BASE for part in back[1:])


@given(st.decimals(allow_nan=False, allow_infinity=False, places=18) | st.integers().map(Decimal))
@example(Decimal("-0"))
@example(Decimal("1E+30"))
@example(Decimal("0.000"))
def test_from_decimal_is_exact(total: Decimal) -> None:
    assert value_of(numbers.from_decimal(total)) == Fraction(total)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1E-19"])
def test_from_decimal_refuses_what_no_total_can_be(text: str) -> None:
    with pytest.raises(NumberError, match="not a total"):
        numbers.from_decimal(Decimal(text))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (1, "a number"),
        (NumberText("1.5"), "a number"),
        ("x", "the text 'x'"),
        ({}, "an object"),
        ([], "a list"),
    ],
)
def test_describe_names_the_json_kind(value: object, words: str) -> None:
    assert numbers.describe(value) == words
