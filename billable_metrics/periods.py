"""Periods and their buckets, as instants: where time may be cut, and where a calendar cuts it.

Owns: the rule that no edge cuts a window, and calendar days, months and hours of a zone. Must never know about SQL.

A rollup knows totals of whole windows, so half a window cannot be known: an edge inside one is refused, with the
nearest edges that are not, or moved only where that is asked for. Buckets are half-open and follow each other without
a gap. A day of a zone begins when its calendar first shows that date, so it has 23 or 25 hours where clocks change;
an hour begins on the full hour of the zone's clocks and wherever its offset changes, so a repeated hour is two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Final, Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

from billable_metrics.catalog import Table, nearest
from billable_metrics.times import shown
from rollup_engine.errors import MetricError

Granularity = Literal["none", "window", "hour", "day", "month"]
Snap = Literal["inward", "outward"]
GRANULARITIES: Final[tuple[Granularity, ...]] = get_args(Granularity)
SNAPS: Final[tuple[Snap, ...]] = get_args(Snap)

BUCKETS_MAX: Final = 10_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_HOUR: Final = timedelta(hours=1)
_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 9998


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open stretch of time, both edges in UTC."""

    start: datetime
    end: datetime


class Windows:
    """The windows of the rollups that a metric reads. `step` is the time between edges that cut none of them."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self._tables = sorted(tables, key=lambda table: (-table.window_ms, table.name))
        assert self._tables, "a metric reads at least one rollup"
        self.step = timedelta(milliseconds=math.lcm(*(table.window_ms for table in self._tables)))

    def before(self, instant: datetime) -> datetime:
        """The last edge at or before an instant."""
        return instant - (instant - _EPOCH) % self.step

    def after(self, instant: datetime) -> datetime:
        """The first edge at or after an instant."""
        return instant + (_EPOCH - instant) % self.step

    def cut_by(self, instant: datetime) -> str | None:
        """The window that an edge cuts, in words, or None."""
        for table in self._tables:
            window = timedelta(milliseconds=table.window_ms)
            if (instant - _EPOCH) % window:
                return f"a {_length(window)} window of {table.name!r}"
        return None


def checked_period(start: datetime, end: datetime, windows: Windows, snap: Snap | None = None) -> Period:
    """The period, in UTC. `snap` moves edges that cut a window: inward leaves that window out, outward takes it whole.

    Raises MetricError for an edge that cuts a window, naming the nearest that do not, and for a period that is empty,
    has no time zone or lies outside the years 1970 to 9998.
    """
    for name, edge in (("start", start), ("end", end)):
        if edge.tzinfo is None:
            raise MetricError(f"the period's {name} {edge.isoformat()} has no offset; add one, such as Z")
        if not _FIRST_YEAR <= edge.year <= _LAST_YEAR:
            raise MetricError(f"the period's {name} {edge.isoformat()} lies outside the years {_YEARS}")
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    if start >= end:
        raise MetricError(f"the period's start {shown(start)} is not before its end {shown(end)}")
    if snap is None:
        for name, edge in (("start", start), ("end", end)):
            if window := windows.cut_by(edge):
                raise MetricError(
                    f"the period's {name} {shown(edge)} cuts {window}; the nearest edges that do not are"
                    f" {shown(windows.before(edge))} and {shown(windows.after(edge))}; or ask for snap=inward or"
                    " snap=outward"
                )
        return Period(start, end)
    if snap == "outward":
        return Period(windows.before(start), windows.after(end))
    inner = Period(windows.after(start), windows.before(end))
    if inner.start >= inner.end:
        raise MetricError(
            f"no whole window lies between {shown(start)} and {shown(end)}; ask for a longer period, or snap=outward"
        )
    return inner


def find_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises MetricError with the nearest name for one that there is not."""
    if name not in _zone_names():
        close = nearest(name, _zone_names())
        hint = f"did you mean {close!r}?" if close else "write an IANA name, such as Europe/Berlin or UTC"
        raise MetricError(f"there is no time zone {name[:60]!r}; {hint}")
    return ZoneInfo(name)


def buckets(period: Period, granularity: Granularity, zone: ZoneInfo, windows: Windows) -> tuple[Period, ...]:
    """The period cut by its calendar in the zone; the first and the last bucket may be parts of a day or month.

    Raises MetricError where there would be more than BUCKETS_MAX, and for a cut that falls into a window.
    """
    if granularity == "none":
        return (period,)
    step = windows.step if granularity == "window" else _SHORTEST[granularity]
    if (period.end - period.start) // step > BUCKETS_MAX:
        raise MetricError(
            f"this period has more than {BUCKETS_MAX} buckets by {granularity}; ask for a shorter period, or a"
            " coarser granularity"
        )
    cuts = _window_cuts(period, windows) if granularity == "window" else _CUTS[granularity](period, zone)
    edges = [period.start]
    for cut in cuts:
        if window := windows.cut_by(cut):
            raise MetricError(
                f"by {granularity} in {zone.key} the period is cut at {shown(cut)}, {cut.astimezone(zone):%H:%M} there,"
                f" inside {window}; ask for another time zone or granularity, or roll up by shorter windows"
            )
        edges.append(cut)
    edges.append(period.end)
    return tuple(Period(*pair) for pair in pairwise(edges))


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones() - {"localtime", "Factory"})


def _length(window: timedelta) -> str:
    for unit, name in ((timedelta(days=1), "day"), (_HOUR, "hour"), (timedelta(minutes=1), "minute")):
        if not window % unit:
            return f"{window // unit}-{name}"
    return f"{window / _SECOND:g}-second"


def _window_cuts(period: Period, windows: Windows) -> Iterator[datetime]:
    cut = period.start + windows.step
    while cut < period.end:
        yield cut
        cut += windows.step


def _hour_cuts(period: Period, zone: ZoneInfo) -> Iterator[datetime]:
    cut = period.start
    while True:
        cut = _next_hour(cut, zone)
        if cut >= period.end:
            return
        yield cut


def _next_hour(instant: datetime, zone: ZoneInfo) -> datetime:
    offset = _offset(instant, zone)
    full = instant + _HOUR - (instant + offset - _EPOCH) % _HOUR
    if _offset(full, zone) == offset:
        return full
    return _first(instant, full, lambda at: _offset(at, zone) != offset)  # the clocks change on the way


def _day_cuts(period: Period, zone: ZoneInfo) -> Iterator[datetime]:
    yield from _date_cuts(period, zone, lambda day: day + timedelta(days=1))


def _month_cuts(period: Period, zone: ZoneInfo) -> Iterator[datetime]:
    yield from _date_cuts(period, zone, lambda day: (day.replace(day=1) + timedelta(days=32)).replace(day=1))


def _date_cuts(period: Period, zone: ZoneInfo, following: Callable[[date], date]) -> Iterator[datetime]:
    last = period.start
    day = following(period.start.astimezone(zone).date())
    while (cut := _begin(day, zone)) < period.end:
        if cut > last:  # a date that a zone leaves out has no length
            yield cut
            last = cut
        day = following(day)


def _begin(day: date, zone: ZoneInfo) -> datetime:
    """The first instant at which the zone's calendar shows this date, or a later one where it leaves it out."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    early, late = sorted((midnight.astimezone(UTC), midnight.replace(fold=1).astimezone(UTC)))
    if early.astimezone(zone).date() >= day:
        return early
    # Clocks jump over midnight, and `early` and `late` lie before and behind the jump.
    return _first(early, late, lambda at: at.astimezone(zone).date() >= day)


def _first(before: datetime, at: datetime, holds: Callable[[datetime], bool]) -> datetime:
    """The first full second at which something holds that does not `before`, and does from somewhere on until `at`."""
    before -= timedelta(microseconds=before.microsecond)
    while at - before > _SECOND:
        middle = before + (at - before) // _SECOND // 2 * _SECOND
        before, at = (before, middle) if holds(middle) else (middle, at)
    return at


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


_CUTS: Final[dict[Granularity, Callable[[Period, ZoneInfo], Iterator[datetime]]]] = {
    "hour": _hour_cuts,
    "day": _day_cuts,
    "month": _month_cuts,
}
_SHORTEST: Final[dict[Granularity, timedelta]] = {"hour": _HOUR, "day": timedelta(days=1), "month": timedelta(days=28)}
_YEARS: Final = f"{_FIRST_YEAR} to {_LAST_YEAR}"
