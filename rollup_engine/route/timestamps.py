"""Event times to milliseconds since the epoch, exactly: RFC 3339 text with an offset, or a number since the epoch.

`parse_rfc3339` and `parse_epoch` are the definition; `column` gives the same for whole columns, faster.
Parts of a millisecond are cut off towards the past, so that no event slips into the next window.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from rollup_engine.clock import FIRST_MS, LAST_MS
from rollup_engine.config.model import Timestamp
from rollup_engine.numbers import BASE, NumberError, NumberText, describe, split

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)
_ZULU = [
    np.frombuffer(f"0000-00-00T00:00:00{fraction}Z".encode(), dtype=np.uint8)
    for fraction in ("", *("." + digits * "0" for digits in range(1, 10)))
]
_ZULU_MAX = max(map(len, _ZULU))
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
    times, common = _zulu(values) if timestamp.unit is None else _integers(values, timestamp.unit)
    if common.all():
        return pl.Series(times), {}
    found: list[int | None] = times.tolist()
    errors: dict[int, str] = {}
    for row in np.flatnonzero(~common).tolist():
        try:
            found[row] = parse(values[row], timestamp)
        except TimestampError as error:
            found[row], errors[row] = None, str(error)
    return pl.Series(found, dtype=pl.Int64), errors


Times = tuple["NDArray[np.int64]", "NDArray[np.bool_]"]  # milliseconds; true only of values of a common form: these


def _integers(values: Sequence[object], unit: str) -> Times:
    times, over = _UNITS_PER_MS[unit]
    limit = min(LAST_MS * over // times, _INT64_MAX)  # nanoseconds reach the column's end in 2262
    common = np.fromiter((type(value) is int and 0 <= value <= limit for value in values), np.bool_, len(values))
    known = values if common.all() else [value if is_one else 0 for value, is_one in zip(values, common, strict=True)]
    return np.array(known, dtype=np.int64) * times // over, common


def _zulu(values: Sequence[object]) -> Times:
    """Of texts such as 2022-08-14T15:14:31.132Z, which nearly all producers write."""
    texts = [value if type(value) is str and len(value) <= _ZULU_MAX else "" for value in values]
    characters = np.frombuffer("".join(texts).encode("ascii", "replace"), dtype=np.uint8)
    lengths = np.fromiter(map(len, texts), np.intp, len(texts))
    starts = lengths.cumsum() - lengths
    times, common = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.bool_)
    for form in _ZULU:
        rows = np.flatnonzero(lengths == len(form))
        if rows.size:
            text = characters[starts[rows] + np.arange(len(form))[:, np.newaxis]]
            times[rows], common[rows] = _zulu_of(form, text)
    return times, common


def _zulu_of(form: "NDArray[np.uint8]", text: "NDArray[np.uint8]") -> Times:
    """Of texts of one form, each a column of `text`."""
    digit = form == ord("0")
    digits = text[digit] - np.uint8(ord("0"))  # below "0" it wraps around
    common = (digits <= 9).all(axis=0) & (text[~digit] == form[~digit, np.newaxis]).all(axis=0)
    digits = digits.astype(np.int32)
    century, year, month, day, hour, minute, second = digits[0:14:2] * 10 + digits[1:14:2]
    months = (century * 100 + year - 1970) * 12 + month - 1
    days = months.astype("M8[M]").astype("M8[D]") + (day - 1)
    common &= (century + year > 0) & (month >= 1) & (month <= 12) & (days.astype("M8[M]").astype(np.int64) == months)
    common &= (hour < 24) & (minute < 60) & (second < 60)
    times = ((days.astype(np.int64) * 24 + hour) * 60 + minute) * 60 + second
    for fraction in (digits[place] if place < len(digits) else 0 for place in (14, 15, 16)):
        times = times * 10 + fraction
    return times, common
