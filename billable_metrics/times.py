"""Instants as text: how they are read from a request, and how messages and answers show them.

Owns: the two directions. Must never guess a time zone: text without an offset is refused.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from rollup_engine.errors import MetricError

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def parse_instant(text: str, label: str) -> datetime:
    """The instant, in UTC, of RFC 3339 text with an offset. `label` says in messages what is read.

    Raises MetricError that says what to write instead.
    """
    if not _RFC3339.fullmatch(text):
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        if _DATE.fullmatch(text):
            hint = f"write {text}T00:00:00Z, or another offset than Z"
        elif _RFC3339.fullmatch(f"{text}Z"):
            hint = f"write its offset too, such as {text}Z"
        elif _RFC3339.fullmatch(text.replace(" ", "+")):
            hint = "in a URL the + of an offset is written %2B"
        else:
            hint = "write it as in 2024-03-14T10:00:00Z"
        raise MetricError(f"{label} is no time with an offset: {shown!r}; {hint}")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise MetricError(f"{label} is no time that exists: {text!r} ({error})") from error


def shown(instant: datetime) -> str:
    """RFC 3339 in UTC, with milli- or microseconds only where there are any: `2024-03-14T10:00:00Z`."""
    precision = "auto" if instant.microsecond % 1000 else "milliseconds" if instant.microsecond else "seconds"
    return instant.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")
