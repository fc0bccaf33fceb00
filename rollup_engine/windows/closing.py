"""When a window is over for good, as far as one rollup partition can know. Pure, and guesses nothing.

An event is late where the watermark at its place in its raw partition is more than `grace_period` ahead of it. So a
window is closed once every raw partition's watermark is that far beyond its end, and all that made them so is in the
totals. Three looks at positions tell that, none before the one above it:

    1 route's rows       position and watermark of each raw partition of the event type
    2 dedup's rows       every events partition has judged up to those positions; note how far it was itself
    3 our own marks      deltas up to there are taken in, and part of an emission

A raw partition that gave nothing for a `grace_period` holds no window open; nor does one that never had such an event.
No total depends on what this module says.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from rollup_engine.clock import FIRST_MS, LAST_MS
from rollup_engine.config.model import EventType
from rollup_engine.dedup.deduplicator import DedupState
from rollup_engine.progress import DEDUP, ROUTE, Position
from rollup_engine.route.state import NO_WATERMARK_MS, RouteState
from rollup_engine.topology import split_source

Rows = Mapping[tuple[str, str], Position]  # (stage, source) -> its row


class _Raw(NamedTuple):
    """A raw partition as step 1 found it."""

    position: int
    watermark_ms: int
    quiet: bool


class Closing:
    """Follows one rollup partition's inputs, over one session: positions are compared within one life of the topics."""

    def __init__(self, event: EventType, window_ms: int, judges: Collection[str]) -> None:
        """`judges`: sources of all partitions of the events topic. An unlimited grace period closes no window."""
        assert event.grace_ms is not None
        self._event, self._topics, self._grace_ms = event.event, event.topics, event.grace_ms
        self._window_ms, self._judges = window_ms, judges
        self._raw: Mapping[str, _Raw] = {}
        self._judged: Mapping[str, int] = {}

    def look(self, rows: Rows, taken: Mapping[str, int]) -> int | None:
        """Windows that start before the time returned are closed; None: nothing new is known.

        `rows`: route's and dedup's, as of one instant. `taken`: the marks of the latest emission that is committed.
        """
        closed_ms = None
        for _ in range(2):  # what was waited for; and then a fresh look, which at rest is through at once
            self._raw = self._raw or self._watermarks(rows)
            self._judged = self._judged or self._judged_to(rows)
            if not self._raw or not self._judged or not _reached(taken, self._judged):
                break
            closed_ms = max(self._closed_ms(), FIRST_MS if closed_ms is None else closed_ms)
            self._raw, self._judged = {}, {}
        return closed_ms

    def _watermarks(self, rows: Rows) -> Mapping[str, _Raw]:
        found = {}
        for (stage, source), row in rows.items():
            if stage == ROUTE and split_source(source)[0] in self._topics:
                state = msgspec.convert(row.state, RouteState)
                watermark_ms = state.watermarks.get(self._event, NO_WATERMARK_MS)
                if watermark_ms != NO_WATERMARK_MS:
                    quiet = 0 < state.quiet_ms >= self._grace_ms
                    found[source] = _Raw(row.next_offset, watermark_ms, quiet)
        return found

    def _judged_to(self, rows: Rows) -> Mapping[str, int]:
        """Positions of all events partitions; empty while one of them has not judged what step 1 saw."""
        wanted = {source: raw.position for source, raw in self._raw.items()}
        judged = {}
        for source in self._judges:
            row = rows.get((DEDUP, source))
            if row is None or not _reached(msgspec.convert(row.state, DedupState).marks, wanted):
                return {}
            judged[source] = row.next_offset
        return judged

    def _closed_ms(self) -> int:
        flowing = [raw.watermark_ms for raw in self._raw.values() if not raw.quiet]
        if flowing:
            end_ms = min(flowing) - self._grace_ms
        else:  # nothing is to come: so are all windows that there are
            end_ms = max(raw.watermark_ms for raw in self._raw.values()) + self._window_ms
        return min(end_ms // self._window_ms * self._window_ms, LAST_MS)


def _reached(marks: Mapping[str, int], wanted: Mapping[str, int]) -> bool:
    return all(marks.get(source, 0) >= position for source, position in wanted.items())
