"""Event times to milliseconds since the epoch, exactly: RFC 3339 text with an offset, or a number since the epoch.

`parse_rfc3339` and `parse_epoch` are the definition; `column` gives the same for whole columns, faster.
Parts of a millisecond are cut off towards the past, so that no event slips into the next window.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from rollup_engine.clock import FIRST_MS, LAST_MS
from rollup_engine.config.model import Timestamp
from rollup_engine.numbers import BASE, NumberError, NumberText, describe, split

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)
_ZULU = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$"  # what nearly all producers write
_FRACTIONS = {20: "", 24: ".%3f", 27: ".%6f", 30: ".%9f"}  # by length: a fixed one is parsed in a quarter of the time
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS_PER_MS = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}  # ms = value * a // b
_INT64_MAX = (1 << 63) - 1


class TimestampError(ValueError):
    """A timestamp that cannot be read; the text says why."""


def parse_rfc3339(text: str) -> int:
    """Milliseconds since the epoch of an RFC 3339 timestamp. Raises `TimestampError`."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        if _RFC3339.fullmatch(f"{text}Z"):
            raise TimestampError(f"{shown!r} has no offset; write e.g. {shown}Z")
        raise TimestampError(f"{shown!r} is no RFC 3339 timestamp such as 2022-08-14T15:14:31.132Z")
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise TimestampError(f"{text[:40]!r} is no time that exists: {error}") from error
    offset_minutes = 0
    if found[9]:
        if int(found[10]) > 23 or int(found[11]) > 59:
            raise TimestampError(f"{text[:40]!r} has an offset that does not exist")
        offset_minutes = (int(found[10]) * 60 + int(found[11])) * (1 if found[9] == "+" else -1)
    seconds_ms = (at - _EPOCH) // timedelta(milliseconds=1)
    return _in_range(seconds_ms + int((found[7] or "0")[:3].ljust(3, "0")) - offset_minutes * 60_000, text)


def parse_epoch(text: str, unit: str) -> int:
    """Milliseconds since the epoch of a JSON number in `unit`. Raises `TimestampError`."""
    try:
        hi, lo, frac = split(text, 18)
    except NumberError as error:
        raise TimestampError(str(error)) from error
    times, over = _UNITS_PER_MS[unit]
    return _in_range(((hi * BASE + lo) * BASE + frac) * times // (over * BASE), text)


def _in_range(at_ms: int, text: str) -> int:
    if not FIRST_MS <= at_ms <= LAST_MS:
        raise TimestampError(f"{text[:40]!r} lies outside the years 1 to 9999")
    return at_ms


def parse(value: object, timestamp: Timestamp) -> int:
    """Milliseconds since the epoch of a decoded JSON value. Raises `TimestampError`."""
    if timestamp.unit is None:
        if type(value) is not str:
            raise TimestampError(f"must be RFC 3339 text, not {describe(value)}")
        return parse_rfc3339(value)
    if type(value) is not int and type(value) is not NumberText:
        raise TimestampError(f"must be a number ({timestamp.unit} since 1970), not {describe(value)}")
    return parse_epoch(str(value), timestamp.unit)


def column(values: Sequence[object], timestamp: Timestamp) -> tuple[pl.Series, dict[int, str]]:
    """Int64 milliseconds for `values`, null where {row: reason} says why not."""
    fast = _fast(values, timestamp)
    times: list[int | None] = fast.to_list() if fast is not None else [None] * len(values)
    if fast is not None and not fast.null_count():
        return fast, {}
    errors: dict[int, str] = {}
    for row, (value, at_ms) in enumerate(zip(values, times, strict=True)):
        if at_ms is None:
            try:
                times[row] = parse(value, timestamp)
            except TimestampError as error:
                errors[row] = str(error)
    return pl.Series(times, dtype=pl.Int64), errors


def _fast(values: Sequence[object], timestamp: Timestamp) -> pl.Series | None:
    """The common forms, null elsewhere; None where the column's types rule them out."""
    types = set(map(type, values))
    if timestamp.unit is None and types == {str}:
        text = pl.Series(values, dtype=pl.String)
        at = text.str.to_datetime(
            f"%Y-%m-%dT%H:%M:%S{_FRACTIONS.get(len(text[0]), '%.f')}Z", strict=False, time_unit="us", time_zone="UTC"
        )
        milliseconds = at.dt.timestamp("us") // 1000
        in_range = text.str.contains(_ZULU) & (milliseconds >= FIRST_MS) & (text.str.slice(17, 2) != "60")
        return milliseconds.to_frame().select(pl.when(in_range).then(pl.first()))[:, 0]
    if timestamp.unit is not None and types == {int}:
        times, over = _UNITS_PER_MS[timestamp.unit]
        limit = min(LAST_MS * over // times, _INT64_MAX)  # nanoseconds reach the column's end in 2262
        if all(0 <= value <= limit for value in values):  # type: ignore[operator]
            return pl.Series(values, dtype=pl.Int64) * times // over
    return None
