"""Time zones, as far as coarser tables need to know them: whether local hours are whole hours of UTC.

Owns: that question. Must never be asked about zones in another spelling than the IANA database's: Postgres takes
`CET` for a fixed offset and `+2` for one to the west, so these are not known here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from billable_metrics.timeline import Range, to_micros

KNOWN_FROM: Final = datetime(1970, 1, 1, tzinfo=UTC)
KNOWN_TO: Final = datetime(2100, 1, 1, tzinfo=UTC)

KNOWN_MS: Final[Range] = (to_micros(KNOWN_FROM) // 1000, to_micros(KNOWN_TO) // 1000)
"""Only in this time is the answer of `has_whole_hours` true: before, most places had a time of their own."""

_UTC_NAMES: Final = frozenset({"utc", "etc/utc"})
_HOUR: Final = timedelta(hours=1)


def is_utc(zone: str) -> bool:
    """Whether the zone is UTC, so that local days are whole days of UTC."""
    return zone.lower() in _UTC_NAMES


@lru_cache(maxsize=1024)
def has_whole_hours(zone: str) -> bool:
    """Whether the zone's offset is whole hours at all times in `KNOWN_MS`. Offsets are looked at once a day."""
    if "/" not in zone:
        return is_utc(zone)
    try:
        info = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    days = range((KNOWN_TO - KNOWN_FROM).days)
    offsets = {(KNOWN_FROM + timedelta(days=day)).astimezone(info).utcoffset() for day in days}
    return all(offset is not None and not offset % _HOUR for offset in offsets)
