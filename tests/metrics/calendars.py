"""Buckets of a calendar by the naive definition: look at every minute, and see where its label changes."""

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LOOK_BACK = timedelta(hours=4)
"""Longer than any clock is ever put back: a date shown before the period began has begun."""


def naive_buckets(
    start: datetime, end: datetime, granularity: str, zone: ZoneInfo, window: timedelta = MINUTE
) -> list[tuple[datetime, datetime]]:
    """A day (month) begins at the first minute whose local date (month) was never shown before; an hour wherever the
    local date, hour or offset changes; a window at its multiples since 1970."""
    edges = [start]
    last = None
    moment = start - LOOK_BACK
    while moment < end:
        label = _label(moment, granularity, zone, window)
        new = last is None or (label > last if granularity in ("day", "month") else label != last)
        if new:
            last = label
            if moment > start:
                edges.append(moment)
        moment += MINUTE
    edges.append(end)
    return list(itertools.pairwise(edges))


def _label(moment: datetime, granularity: str, zone: ZoneInfo, window: timedelta) -> tuple[object, ...]:
    local = moment.astimezone(zone)
    if granularity == "none":
        return ()
    if granularity == "window":
        return ((moment - EPOCH) // window,)
    if granularity == "month":
        return local.year, local.month
    if granularity == "day":
        return local.year, local.month, local.day
    return local.year, local.month, local.day, local.hour, local.utcoffset()
