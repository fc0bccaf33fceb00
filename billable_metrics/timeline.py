"""Half-open ranges of time in milliseconds since the epoch: cutting them, and joining them up.

Owns: the arithmetic. Must never know what a range is read from. Lists of ranges are sorted, disjoint and not empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, TypeAlias

Range: TypeAlias = tuple[int, int]

FOREVER_MS: Final = 1 << 62
"""A range that ends here has no end; one that starts at the negative has no start."""

ALWAYS: Final[Range] = (-FOREVER_MS, FOREVER_MS)

CALENDAR_MS: Final[Range] = (-62_000_000_000_000, 253_000_000_000_000)
"""Within it, and some years around it, every instant is a datetime: the years 6 to 9987."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(instant: datetime) -> int:
    """Microseconds since the epoch of an aware datetime."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def to_datetime(millis: int) -> datetime:
    """The instant, in UTC. Raises OverflowError beyond the years 1 to 9999."""
    return _EPOCH + timedelta(milliseconds=millis)


def steps_around(millis: Iterable[int], step_ms: int) -> Iterator[Range]:
    """The whole steps that an instant strictly inside them cuts."""
    for each in millis:
        if each % step_ms:
            yield (each - each % step_ms, each - each % step_ms + step_ms)


def union(ranges: Iterable[Range]) -> list[Range]:
    """The ranges in order, those that touch or overlap as one."""
    joined: list[Range] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif start < end:
            joined.append((start, end))
    return joined


def intersect(left: Iterable[Range], right: list[Range]) -> list[Range]:
    """What is in both lists."""
    both = ((max(a[0], b[0]), min(a[1], b[1])) for a in left for b in right)
    return sorted(each for each in both if each[0] < each[1])


def subtract(ranges: Iterable[Range], holes: list[Range]) -> list[Range]:
    """What is in `ranges` and in none of the holes."""
    left = []
    for start, end in ranges:
        for hole_start, hole_end in holes:
            if hole_end <= start or hole_start >= end:
                continue
            if start < hole_start:
                left.append((start, hole_start))
            start = hole_end
        if start < end:
            left.append((start, end))
    return left


def join_up(ranges: list[Range], whole: list[Range], count_max: int) -> list[Range]:
    """At most `count_max` ranges, or one for each of `whole` if those are more: the shortest gaps are filled.

    Each range lies in one of `whole`, and so does each gap that is filled.
    """
    gaps = sorted(
        (following[0] - before[1], before[1], following[0])
        for before, following in pairwise(ranges)
        if any(start <= before[1] and following[0] <= end for start, end in whole)
    )
    return union([*ranges, *((start, end) for _, start, end in gaps[: max(0, len(ranges) - count_max)])])
