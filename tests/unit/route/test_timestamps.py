"""Event times: exact to the millisecond against calendar arithmetic, and the fast column equal to the definition."""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import date
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rollup_engine.clock import FIRST_MS, LAST_MS
from rollup_engine.config.model import Timestamp, Unit
from rollup_engine.numbers import NumberText
from rollup_engine.route.timestamps import TimestampError, column, parse, parse_epoch, parse_rfc3339

TEXT = Timestamp(path="at")
PER_SECOND: dict[Unit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
DAYS_TO_1970 = date(1970, 1, 1).toordinal()


@st.composite
def rfc3339(draw: st.DrawFn) -> tuple[str, int | None]:
    """A text of the right form, perhaps of no time that exists; and its milliseconds, or None."""
    year = draw(st.integers(1, 9999) | st.sampled_from([0, 1, 1900, 1969, 1970, 2000, 2023, 2024, 2100, 9999]))
    month, day = draw(st.integers(0, 13) | st.just(2)), draw(st.integers(0, 32) | st.sampled_from([28, 29]))
    hour, minute, second = draw(st.integers(0, 25)), draw(st.integers(0, 60)), draw(st.integers(0, 61))
    fraction = draw(st.just("") | st.from_regex(r"\.[0-9]{1,12}", fullmatch=True))
    zone = draw(st.sampled_from("ZZZz+-"))
    offset = (draw(st.integers(0, 24)), draw(st.integers(0, 60))) if zone in "+-" else (0, 0)
    text = f"{year:04}-{month:02}-{day:02}{draw(st.sampled_from('TTTt '))}{hour:02}:{minute:02}:{second:02}{fraction}"
    text += zone + (f"{offset[0]:02}:{offset[1]:02}" if zone in "+-" else "")
    exists = (
        year >= 1
        and 1 <= month <= 12
        and 1 <= day <= calendar.monthrange(year, month)[1]
        and hour <= 23
        and minute <= 59
        and second <= 59
        and offset[0] <= 23
        and offset[1] <= 59
    )
    if not exists:
        return text, None
    seconds = (date(year, month, day).toordinal() - DAYS_TO_1970) * 86_400 + hour * 3_600 + minute * 60 + second
    seconds -= (offset[0] * 3_600 + offset[1] * 60) * (-1 if zone == "-" else 1)
    at_ms = (seconds + Fraction(f"0{fraction}")) * 1_000 // 1
    return text, at_ms if FIRST_MS <= at_ms <= LAST_MS else None


def one(value: object, timestamp: Timestamp) -> int | None:
    try:
        return parse(value, timestamp)
    except TimestampError:
        return None


def assert_column_is_parse(values: Sequence[object], timestamp: Timestamp) -> None:
    times, errors = column(values, timestamp)
    expected = [one(value, timestamp) for value in values]
    assert times.dtype == pl.Int64
    assert times.to_list() == expected
    assert set(errors) == {row for row, at_ms in enumerate(expected) if at_ms is None}


@given(st.lists(rfc3339(), min_size=1, max_size=20))
def test_rfc3339_is_the_exact_time_cut_to_milliseconds(cases: list[tuple[str, int | None]]) -> None:
    texts = [text for text, _ in cases]
    assert [one(text, TEXT) for text in texts] == [at_ms for _, at_ms in cases]
    assert_column_is_parse(texts, TEXT)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2022-08-14T15:14:31.132Z", 1_660_490_071_132),
        ("2022-08-14T15:14:31Z", 1_660_490_071_000),
        ("2022-08-14t15:14:31z", 1_660_490_071_000),
        ("2022-08-14 15:14:31Z", 1_660_490_071_000),
        ("2022-08-14T17:14:31.132+02:00", 1_660_490_071_132),
        ("2022-08-14T04:44:31.132-10:30", 1_660_490_071_132),
        ("2022-08-14T15:14:31.132-00:00", 1_660_490_071_132),
        ("2022-08-14T15:14:31.1Z", 1_660_490_071_100),
        ("2022-08-14T15:14:31.1329999Z", 1_660_490_071_132),
        ("2022-08-14T15:14:31.999999999999Z", 1_660_490_071_999),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("2000-02-29T00:00:00Z", 951_782_400_000),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("1969-12-31T23:59:59.0001Z", -1000),
        ("0001-01-01T00:00:00Z", FIRST_MS),
        ("9999-12-31T23:59:59.999999999Z", LAST_MS),
    ],
)
def test_rfc3339_written_out(text: str, at_ms: int) -> None:
    assert parse_rfc3339(text) == at_ms
    assert column([text], TEXT)[0].to_list() == [at_ms]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2022-08-14T15:14:31.132", "no offset; write e.g. 2022-08-14T15:14:31.132Z"),
        ("2022-08-14 15:14:31", "no offset"),
        ("2022-08-14", "no RFC 3339"),
        ("", "no RFC 3339"),
        ("2023-02-29T00:00:00Z", "no time that exists"),
        ("1900-02-29T00:00:00Z", "no time that exists"),
        ("2022-04-31T00:00:00Z", "no time that exists"),
        ("2022-00-10T00:00:00Z", "no time that exists"),
        ("2022-13-10T00:00:00Z", "no time that exists"),
        ("2022-08-00T00:00:00Z", "no time that exists"),
        ("0000-01-01T00:00:00Z", "no time that exists"),
        ("2022-08-14T24:00:00Z", "no time that exists"),
        ("2022-08-14T15:60:00Z", "no time that exists"),
        ("2016-12-31T23:59:60Z", "no time that exists"),
        ("2016-12-31T23:59:60.5Z", "no time that exists"),
        ("2022-08-14T15:14:31+24:00", "offset that does not exist"),
        ("2022-08-14T15:14:31+01:60", "offset that does not exist"),
        ("0001-01-01T00:59:59+01:00", "outside the years"),
        ("9999-12-31T23:59:59-00:01", "outside the years"),
        ("2022-08-14T15:14:31.Z", "no RFC 3339"),
        ("2022-08-14T15:14:31,5Z", "no RFC 3339"),
        ("2022-08-14T15:14:31+0200", "no RFC 3339"),
        ("2022-08-14T15:14:31 Z", "no RFC 3339"),
        (" 2022-08-14T15:14:31Z", "no RFC 3339"),
        ("2022-08-14T15:14:31Z\n", "no RFC 3339"),
        ("2022-8-14T15:14:31Z", "no RFC 3339"),
        ("22-08-14T15:14:31Z", "no RFC 3339"),
        ("+2022-08-14T15:14:31Z", "no RFC 3339"),
        ("12022-08-14T15:14:31Z", "no RFC 3339"),
        ("٢٠٢٢-08-14T15:14:31Z", "no RFC 3339"),
        ("2022-08-14T15:14Z", "no RFC 3339"),
        ("x" * 100_000, "no RFC 3339"),
    ],
)
def test_what_is_no_timestamp_says_why(text: str, why: str) -> None:
    with pytest.raises(TimestampError, match=why) as refused:
        parse_rfc3339(text)
    assert len(str(refused.value)) < 160
    times, errors = column([text, "2022-08-14T15:14:31Z"], TEXT)
    assert times.to_list() == [None, 1_660_490_071_000]
    assert errors == {0: str(refused.value)}


near_rfc3339 = rfc3339().map(lambda case: case[0])
mutated = st.tuples(
    near_rfc3339, st.integers(0, 30), st.sampled_from(["", "0", "5", "-", ":", ".", "Z", " ", "é", "٣"])
).map(lambda cut: cut[0][: cut[1]] + cut[2] + cut[0][cut[1] + 1 :])
anything: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers() | st.just({}) | st.just([]) | st.just(NumberText("1.5")) | st.text()
)


@given(st.lists(mutated, min_size=1, max_size=10) | st.lists(mutated | anything, max_size=10))
def test_the_column_of_any_values_is_the_definition_value_by_value(values: list[object]) -> None:
    assert_column_is_parse(values, TEXT)


epochs = (
    st.integers(-(10**24), 10**24)
    | st.integers(FIRST_MS // 1_000 - 2, LAST_MS // 1_000 + 2)
    | st.integers(0, LAST_MS)
    | st.sampled_from([2**63 - 1, 2**63, LAST_MS * 10**6, LAST_MS * 10**6 + 999_999, LAST_MS * 10**6 + 10**6])
)
fractional_epochs = st.tuples(
    st.integers(-(10**13), 10**13), st.from_regex(r"\.[0-9]{1,20}([eE][-+]?0?[0-3])?", fullmatch=True)
).map(lambda parts: NumberText(f"{parts[0]}{parts[1]}"))


@given(st.lists(epochs, min_size=1, max_size=8) | st.lists(epochs | fractional_epochs | anything, max_size=8))
@example([10**19])
@example([2**63])
@example([-1, 1])
@example([-(10**20)])
@example([FIRST_MS - 1])
@example([LAST_MS, LAST_MS + 1])
@example([NumberText("1660490071.132"), 5])
@example([True])
def test_epochs_are_exact_in_every_unit_and_the_column_is_the_definition(values: list[object]) -> None:
    for unit, per_second in PER_SECOND.items():
        timestamp = Timestamp(path="at", unit=unit)
        assert_column_is_parse(values, timestamp)
        for value in values:
            expected = None
            if type(value) in (int, NumberText):
                exact = Fraction(str(value))
                if abs(exact) < 10**36 and (exact * 10**18).denominator == 1:
                    expected = exact * 1_000 / per_second // 1
            if expected is not None and not FIRST_MS <= expected <= LAST_MS:
                expected = None
            assert one(value, timestamp) == expected


@pytest.mark.parametrize(
    ("value", "unit", "at_ms"),
    [
        ("1660490071", "s", 1_660_490_071_000),
        ("1660490071.1329", "s", 1_660_490_071_132),
        ("1.660490071132e9", "s", 1_660_490_071_132),
        ("-0.0001", "s", -1),
        ("1660490071132", "ms", 1_660_490_071_132),
        ("-1", "ms", -1),
        ("-0.5", "ms", -1),
        ("1660490071132999", "us", 1_660_490_071_132),
        ("-1", "us", -1),
        ("1660490071132999999", "ns", 1_660_490_071_132),
        ("-999999", "ns", -1),
        ("-1000000", "ns", -1),
        ("9223372036854775808", "ns", 9_223_372_036_854),
    ],
)
def test_epochs_written_out(value: str, unit: Unit, at_ms: int) -> None:
    assert parse_epoch(value, unit) == at_ms


@pytest.mark.parametrize("value", ["253402300800", "-62135596801", "1e400", "1e-400", "1" * 4_000])
def test_epochs_out_of_reach_are_refused(value: str) -> None:
    with pytest.raises(TimestampError):
        parse_epoch(value, "s")


@pytest.mark.parametrize(
    ("value", "timestamp", "why"),
    [
        (None, TEXT, "must be RFC 3339 text, not null"),
        (1_660_490_071, TEXT, "must be RFC 3339 text, not a number"),
        (NumberText("1.5"), TEXT, "must be RFC 3339 text, not a number"),
        ({}, TEXT, "must be RFC 3339 text, not an object"),
        ("1660490071", Timestamp(path="at", unit="s"), r"must be a number \(s since 1970\), not the text '1660490071'"),
        (True, Timestamp(path="at", unit="ms"), "not true"),
    ],
)
def test_a_wrong_type_says_what_was_expected(value: object, timestamp: Timestamp, why: str) -> None:
    with pytest.raises(TimestampError, match=why):
        parse(value, timestamp)
