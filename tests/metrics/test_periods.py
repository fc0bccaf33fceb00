"""Where periods and calendars cut time."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from billable_metrics.catalog import Table
from billable_metrics.periods import (
    BUCKETS_MAX,
    GRANULARITIES,
    Period,
    Windows,
    buckets,
    checked_period,
    find_zone,
)
from billable_metrics.times import parse_instant, shown
from rollup_engine.errors import MetricError
from tests.metrics.calendars import EPOCH, naive_buckets

MINUTE = timedelta(minutes=1)


def windows(*minutes: float, names: tuple[str, ...] = ("downloads", "requests")) -> Windows:
    return Windows(
        Table(name=name, base_table=name, columns={}, window_ms=round(each * 60_000))
        for name, each in zip(names, minutes, strict=False)
    )


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


STARTS = {
    "UTC": "2024-02-28T00:00Z",
    "Europe/Berlin": "2024-10-26T22:00Z",  # 25 hours
    "America/New_York": "2024-03-10T05:00Z",  # 23 hours
    "America/St_Johns": "2010-11-06T02:30Z",  # clocks were put back at 00:01, to the day before
    "America/Sao_Paulo": "2018-11-03T03:00Z",  # no midnight
    "America/Asuncion": "2024-03-23T03:00Z",  # midnight twice, first as 00:00 and then as 23:00 of the day before
    "Australia/Lord_Howe": "2024-04-06T13:00Z",  # half an hour
    "Asia/Kathmandu": "2024-05-31T18:15Z",
    "Pacific/Chatham": "2024-09-28T11:15Z",
    "Pacific/Apia": "2011-12-28T10:00Z",  # without December 30th
    "Asia/Pyongyang": "2018-05-03T15:30Z",  # half an hour for good, shortly before midnight
    "Asia/Dhaka": "2009-06-18T18:00Z",  # an hour, up to midnight
}


@settings(max_examples=400)
@given(
    zone=st.sampled_from(sorted(STARTS)),
    shift=st.integers(-30 * 60, 30 * 60),
    length=st.integers(1, 4 * 1440),
    granularity=st.sampled_from(GRANULARITIES),
    window=st.sampled_from([1, 5, 10, 15, 30, 60]),
)
@example(zone="Pacific/Apia", shift=0, length=3 * 1440, granularity="day", window=10)
@example(zone="America/St_Johns", shift=0, length=2 * 1440, granularity="day", window=1)
@example(zone="America/Sao_Paulo", shift=0, length=2 * 1440, granularity="day", window=60)
@example(zone="Australia/Lord_Howe", shift=0, length=1440, granularity="hour", window=10)
@example(zone="Europe/Berlin", shift=0, length=1500, granularity="hour", window=60)
def test_buckets_are_those_of_a_look_at_every_minute(
    zone: str, shift: int, length: int, granularity: str, window: int
) -> None:
    widths = windows(window)
    start = widths.before(at(STARTS[zone]) + shift * MINUTE)
    period = Period(start, widths.after(start + length * MINUTE))
    naive = naive_buckets(period.start, period.end, granularity, ZoneInfo(zone), window * MINUTE)
    if any((edge - EPOCH) % (window * MINUTE) for _, edge in naive):
        with pytest.raises(MetricError, match="inside a "):
            buckets(period, granularity, ZoneInfo(zone), widths)  # type: ignore[arg-type]
        return
    found = buckets(period, granularity, ZoneInfo(zone), widths)  # type: ignore[arg-type]
    assert [(each.start, each.end) for each in found] == naive


def test_days_have_23_or_25_hours_where_clocks_change() -> None:
    berlin = find_zone("Europe/Berlin")
    spring = buckets(Period(at("2024-03-30T23:00Z"), at("2024-04-01T22:00Z")), "day", berlin, windows(10))
    assert [(each.end - each.start) / timedelta(hours=1) for each in spring] == [23, 24]
    autumn = buckets(Period(at("2024-10-26T22:00Z"), at("2024-10-28T23:00Z")), "day", berlin, windows(10))
    assert [(each.end - each.start) / timedelta(hours=1) for each in autumn] == [25, 24]


def test_a_repeated_hour_is_two() -> None:
    berlin = find_zone("Europe/Berlin")
    found = buckets(Period(at("2024-10-27T00:00Z"), at("2024-10-27T03:00Z")), "hour", berlin, windows(10))
    assert [each.start.astimezone(berlin).hour for each in found] == [2, 2, 3]


def test_months_are_cut_at_the_periods_edges() -> None:
    found = buckets(Period(at("2024-01-30T12:00Z"), at("2024-03-01T06:00Z")), "month", find_zone("UTC"), windows(10))
    edges = ["2024-01-30T12:00+00:00", "2024-02-01T00:00+00:00", "2024-03-01T00:00+00:00", "2024-03-01T06:00+00:00"]
    assert [each.start for each in found] == [at(edge) for edge in edges[:-1]]
    assert [each.end for each in found] == [at(edge) for edge in edges[1:]]


def test_a_bucket_that_cuts_a_window_is_refused_and_named() -> None:
    period = Period(at("2024-06-01T00:00Z"), at("2024-06-03T00:00Z"))
    with pytest.raises(MetricError) as refused:
        buckets(period, "day", find_zone("Asia/Kathmandu"), windows(10))
    assert str(refused.value) == (
        "by day in Asia/Kathmandu the period is cut at 2024-06-01T18:15:00Z, 00:00 there, inside a 10-minute window of"
        " 'downloads'; ask for another time zone or granularity, or roll up by shorter windows"
    )
    assert len(buckets(period, "day", find_zone("Asia/Kathmandu"), windows(15))) == 3


@pytest.mark.parametrize("granularity", ["window", "hour"])
def test_too_many_buckets_are_refused_before_they_are_made(granularity: str) -> None:
    period = Period(at("1970-01-01T00:00Z"), at("9000-01-01T00:00Z"))
    with pytest.raises(MetricError, match=f"more than {BUCKETS_MAX} buckets by {granularity}; ask for a shorter"):
        buckets(period, granularity, find_zone("UTC"), windows(10))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Europe/Berlim", "did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("", "write an IANA name, such as Europe/Berlin or UTC"),
        ("../../etc/passwd", "write an IANA name"),
        ("localtime", "there is no time zone 'localtime'"),
        ("x" * 500, "write an IANA name"),
    ],
)
def test_an_unknown_zone(name: str, hint: str) -> None:
    with pytest.raises(MetricError, match="there is no time zone") as refused:
        find_zone(name)
    assert hint in str(refused.value)


class TestEdges:
    def test_one_that_cuts_a_window_is_refused_with_the_nearest_that_do_not(self) -> None:
        with pytest.raises(MetricError) as refused:
            checked_period(at("2024-03-14T10:05Z"), at("2024-03-14T12:00Z"), windows(10))
        assert str(refused.value) == (
            "the period's start 2024-03-14T10:05:00Z cuts a 10-minute window of 'downloads'; the nearest edges that do"
            " not are 2024-03-14T10:00:00Z and 2024-03-14T10:10:00Z; or ask for snap=inward or snap=outward"
        )
        with pytest.raises(MetricError, match=r"the period's end 2024-03-14T12:00:00\.001Z cuts"):
            checked_period(at("2024-03-14T10:00Z"), at("2024-03-14T12:00:00.001Z"), windows(10))

    def test_snapping(self) -> None:
        asked = at("2024-03-14T10:05Z"), at("2024-03-14T12:01+00:30")
        assert checked_period(*asked, windows(10), "inward") == Period(at("2024-03-14T10:10Z"), at("2024-03-14T11:30Z"))
        assert checked_period(*asked, windows(10), "outward") == Period(
            at("2024-03-14T10:00Z"), at("2024-03-14T11:40Z")
        )
        with pytest.raises(MetricError, match="no whole window lies between"):
            checked_period(at("2024-03-14T10:05Z"), at("2024-03-14T10:15Z"), windows(10), "inward")

    @given(st.sampled_from([(10, 15), (10, 60), (1, 0.2), (1440, 10), (6, 10)]), st.integers(0, 10**11))
    def test_no_edge_cuts_a_window_of_any_rollup(self, minutes: tuple[float, float], ms: int) -> None:
        both = windows(*minutes)
        instant = EPOCH + timedelta(milliseconds=ms)
        for edge in (both.before(instant), both.after(instant)):
            assert both.cut_by(edge) is None
            assert not any((edge - EPOCH) % timedelta(minutes=each) for each in minutes)
        assert both.before(instant) <= instant <= both.after(instant)
        assert both.after(instant) - both.before(instant) in (timedelta(0), both.step)
        assert (both.cut_by(instant) is None) == (both.before(instant) == instant)

    @pytest.mark.parametrize(
        ("start", "end", "message"),
        [
            (datetime(2024, 3, 14), at("2024-03-15T00:00Z"), "start 2024-03-14T00:00:00 has no offset"),  # noqa: DTZ001
            (at("2024-03-15T00:00Z"), at("2024-03-15T00:00Z"), "is not before its end"),
            (at("0001-01-01T00:00+14:00"), at("2024-03-15T00:00Z"), "outside the years 1970 to 9998"),
            (at("2024-03-15T00:00Z"), datetime.max.replace(tzinfo=UTC), "outside the years 1970 to 9998"),
        ],
    )
    def test_what_is_no_period(self, start: datetime, end: datetime, message: str) -> None:
        for snap in (None, "outward"):
            with pytest.raises(MetricError) as refused:
                checked_period(start, end, windows(10), snap)  # type: ignore[arg-type]
            assert message in str(refused.value)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        ("2024-03-14T10:00+02:00", "2024-03-14T08:00:00Z"),
        ("2024-03-14T10:00:00.25Z", "2024-03-14T10:00:00.250Z"),
        ("2024-03-14T10:00:00.000001Z", "2024-03-14T10:00:00.000001Z"),
    ],
)
def test_instants_as_text(instant: str, text: str) -> None:
    assert shown(at(instant)) == text
    assert parse_instant(text, "it") == at(instant)
