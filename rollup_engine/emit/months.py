"""Which month's partition of a rollup's table a window belongs to."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_YEAR, LAST_YEAR = 2000, 2099  # windows outside share one partition: junk times must not make thousands


class Month(NamedTuple):
    """`name` is yyyymm; `start` and `end` bound it, half-open."""

    name: str
    start: str
    end: str


def month_of(window_ms: int) -> Month | None:
    """The month of a window's start; None outside the years that have partitions of their own."""
    at = _EPOCH + timedelta(milliseconds=window_ms)
    if not FIRST_YEAR <= at.year <= LAST_YEAR:
        return None
    following = (at.year + 1, 1) if at.month == 12 else (at.year, at.month + 1)
    return Month(
        f"{at.year:04}{at.month:02}", f"{at.year:04}-{at.month:02}-01Z", f"{following[0]:04}-{following[1]:02}-01Z"
    )
