"""How fresh totals are: through which event time they hold what came in, and which windows are closed. Reads only.

`data_through`: each raw partition has a watermark, the largest event time of the event type in it so far. Of each, this
is the watermark of that part of it which the committed partials contain whole; the oldest of them is given. What comes
in order after that is still to come; what comes out of order may be older, until its window is closed.

    1 rollup's rows    marks: deltas are contained up to events offset M of each events partition
    2 dedup's rows     the latest look at which it was not beyond M: its marks then, raw offset C per raw partition
    3 route's rows     the latest look at which it was not beyond C: its watermark then

The rows tell where each stage is, not where it was, so looks are kept as long as they are needed. While the engine is
at rest one look tells all; right after a start in the midst of traffic nothing is known for about an `emit_every`, and
nothing is claimed. Looks far apart make the answer older than it could be, never newer.

A raw partition that gave nothing for a `grace_period` and is contained whole (it is *quiet*, as in `windows/closing`)
holds nothing back, nor does one that never had such an event; where all are quiet, the newest of them counts. So
`data_through` can go back where a quiet partition begins again.

`closed`: windows that start before it are closed in every partition of the rollup, and no raw partition that is not
quiet is behind that. What can still change one of those are letters replayed on purpose, and a quiet partition that
wakes up with old events.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

import asyncpg
import msgspec

from rollup_engine.clock import FIRST_MS
from rollup_engine.config.model import Config, EventType, Rollup
from rollup_engine.progress import DEDUP, ROLLUP, ROUTE
from rollup_engine.route.state import NO_WATERMARK_MS
from rollup_engine.runtime import sql
from rollup_engine.runtime.database import Connection, at_ms, at_time
from rollup_engine.topology import deltas_topic, events_topic, source_name, split_source

LOOKS_MAX = 128  # kept of each row; beyond it every second is given up, and answers get a little older
Value = TypeVar("Value")


class StateOf(msgspec.Struct, frozen=True):
    """What freshness reads of the state of any stage's row; the names are those of the stages' own states."""

    watermarks: dict[str, int] = {}
    quiet_ms: int = 0
    marks: dict[str, int] = {}
    closed_ms: int = FIRST_MS


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A stage's row for one input partition."""

    stage: str
    source: str
    next_offset: int
    first_offset: int
    state: StateOf


@dataclass(frozen=True)
class Look:
    """All rows as of one instant. `topics`: the internal ones, with incarnation and number of partitions."""

    topics: Mapping[str, tuple[str, int]]
    rows: Mapping[tuple[str, str], Row]


@dataclass(frozen=True)
class Freshness:
    """How fresh an answer is. `data_through` None: nothing came in so far, or it is not known yet."""

    data_through: datetime | None
    final: bool


@dataclass(frozen=True)
class Tables:
    """How fresh each rollup's table was at one look: (`through_ms`, `closed_ms`)."""

    by_table: Mapping[str, tuple[int | None, int]] = field(default_factory=dict)

    def of(self, tables: Collection[str], end: datetime | None) -> Freshness:
        """Of an answer made of these tables; `end` of its period, exclusive, None for one without an end."""
        if not tables or not all(table in self.by_table for table in tables):
            return Freshness(None, final=False)
        known = [through for through, _ in map(self.by_table.__getitem__, tables) if through is not None]
        closed = min(self.by_table[table][1] for table in tables)
        through = at_time(min(known)) if len(known) == len(tables) else None
        return Freshness(through, final=end is not None and at_ms(end) <= closed)


async def token(connection: "Connection | asyncpg.Pool[asyncpg.Record]", app_id: str) -> tuple[int, int, int]:
    """Differs from an earlier one if anything was emitted since, or the YAML changed; its last part is the generation,
    0 where the app id has not run yet."""
    row = await connection.fetchrow(sql.queries("freshness")["token"], app_id)
    assert row is not None
    return row["epochs"], row["versions"], row["generation"]


async def look(connection: "Connection | asyncpg.Pool[asyncpg.Record]", app_id: str) -> Look:
    """Where all stages are now. Give it to a `Tracker` before the totals are read, never after."""
    row = await connection.fetchrow(sql.queries("freshness")["look"], app_id)
    assert row is not None
    topics = msgspec.json.decode(row["topics"] or "{}", type=dict[str, tuple[str, int]])
    rows = msgspec.json.decode(row["rows"] or "[]", type=list[Row])
    return Look(topics, {(one.stage, one.source): one for one in rows})


class _History(Generic[Value]):
    """What was so at which position of one row, bounded."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._values: list[Value] = []

    def add(self, position: int, value: Value) -> None:
        if self._positions and position <= self._positions[-1]:
            return
        self._positions.append(position)
        self._values.append(value)
        if len(self._positions) > LOOKS_MAX:
            del self._positions[1:-1:2], self._values[1:-1:2]

    def before(self, position: int) -> bool:
        """Whether the row has been beyond this position."""
        return bool(self._positions) and position < self._positions[-1]

    def at(self, position: int) -> Value | None:
        """The latest that was so at this position or before it."""
        number = bisect_right(self._positions, position)
        return self._values[number - 1] if number else None

    def forget_before(self, position: int) -> None:
        """Keep what `at` needs for this position and later ones."""
        number = max(0, bisect_right(self._positions, position) - 1)
        del self._positions[:number], self._values[:number]


@dataclass
class _Seen:
    """The looks so far, within one life of the topics."""

    route: dict[str, _History[Mapping[str, int]]] = field(default_factory=dict)  # raw source -> watermarks
    dedup: dict[str, _History[Mapping[str, int]]] = field(default_factory=dict)  # events partition -> marks


class Tracker:
    """Follows one app id's rows. Pure; `observe` often, at least as often as an answer is to be newer."""

    def __init__(self, app_id: str) -> None:
        self._app_id = app_id
        self._events = events_topic(app_id)
        self._seen = _Seen()
        self._now = Look({}, {})

    def observe(self, now: Look) -> bool:
        """Take in a look, later than all before it. Whether anything has moved since the one before."""
        moved = now != self._now
        if self._another_life(now):
            self._seen = _Seen()
        self._now = now
        for (stage, source), row in now.rows.items():
            if stage == ROUTE:
                self._seen.route.setdefault(source, _History()).add(row.next_offset, row.state.watermarks)
            elif stage == DEDUP:
                self._seen.dedup.setdefault(source, _History()).add(row.next_offset, row.state.marks)
        self._forget()
        return moved

    def _another_life(self, now: Look) -> bool:
        """Positions mean something only within one: topics were made again, or the database was set back."""
        before = self._now.topics
        if any(incarnation != before.get(topic, (incarnation,))[0] for topic, (incarnation, _) in now.topics.items()):
            return True
        kept = {ROUTE: self._seen.route, DEDUP: self._seen.dedup}
        return any(
            source in kept.get(stage, {}) and kept[stage][source].before(row.next_offset)
            for (stage, source), row in now.rows.items()
        )

    def _forget(self) -> None:
        """Looks older than what the slowest rollup partition has taken in."""
        taken: dict[str, int] = {}
        for (stage, _), row in self._now.rows.items():
            for source, mark in row.state.marks.items() if stage == ROLLUP else ():
                taken[source] = min(mark, taken.get(source, mark))
        judged: dict[str, int] = {}
        for events, history in self._seen.dedup.items():
            history.forget_before(taken.get(events, 0))
            for source, mark in (history.at(taken.get(events, 0)) or {}).items():
                judged[source] = min(mark, judged.get(source, mark))
        for source, routed in self._seen.route.items():
            routed.forget_before(judged.get(source, 0))

    def tables(self, config: Config) -> "Tables":
        """How fresh each rollup is at the latest look, under the YAML that the app id runs under."""
        found = {}
        for event in config.events:
            for rollup in event.rollups:
                found[rollup.table] = self.through_ms(event, rollup), self.closed_ms(event, rollup)
        return Tables(found)

    def closed_ms(self, event: EventType, rollup: Rollup) -> int:
        """Windows of the rollup that start before it are closed, in every partition."""
        rows = self._rollup_rows(rollup)
        if event.grace_ms is None or not rows:  # `unlimited` closes none, whatever was closed under a YAML before
            return FIRST_MS
        # What was closed under a shorter grace period, or before a partition came that is behind, is open again.
        open_ms = [
            row.state.watermarks[event.event] - event.grace_ms
            for row in self._raw_rows(event)
            if not _is_silent(row, event)
        ]
        return min(
            [*(row.state.closed_ms for row in rows), *(at // rollup.window_ms * rollup.window_ms for at in open_ms)]
        )

    def through_ms(self, event: EventType, rollup: Rollup) -> int | None:
        """The event time through which the rollup's committed partials contain what came in; None: not known."""
        rows = self._rollup_rows(rollup)
        contained = self._contained(rows) if rows else None
        if contained is None:
            return None
        flowing: list[int] = []
        quiet: list[int] = []
        for row in self._raw_rows(event):
            source = row.source
            reached = min((marks.get(source, row.first_offset) for marks in contained), default=row.first_offset)
            watermark = (self._seen.route[source].at(reached) or {}).get(event.event, NO_WATERMARK_MS)
            if watermark == NO_WATERMARK_MS:
                return None  # it has such events, and none of them is known to be contained
            (quiet if _is_silent(row, event) and reached >= row.next_offset else flowing).append(watermark)
        return min(flowing) if flowing else max(quiet, default=None)

    def _raw_rows(self, event: EventType) -> Iterator[Row]:
        """Route's rows of the raw partitions that have had such an event."""
        for (stage, source), row in self._now.rows.items():
            watermark_ms = row.state.watermarks.get(event.event, NO_WATERMARK_MS)
            if stage == ROUTE and split_source(source)[0] in event.topics and watermark_ms != NO_WATERMARK_MS:
                yield row

    def _rollup_rows(self, rollup: Rollup) -> list[Row]:
        """One for every partition of the rollup's deltas; empty where one is missing, and so nothing is known."""
        topic = deltas_topic(self._app_id, rollup.table)
        _, partitions = self._now.topics.get(topic, ("", 0))
        return _all_of(self._now.rows.get((ROLLUP, source_name(topic, number))) for number in range(partitions))

    def _contained(self, rows: Iterable[Row]) -> list[Mapping[str, int]] | None:
        """For every events partition, dedup's marks at what all these rows contain of it; None: not known."""
        _, partitions = self._now.topics.get(self._events, ("", 0))
        found = []
        for events in (source_name(self._events, number) for number in range(partitions)):
            judge = self._now.rows.get((DEDUP, events))
            if judge is None:
                return None
            taken = min(row.state.marks.get(events, judge.first_offset) for row in rows)
            marks = self._seen.dedup[events].at(taken)
            if marks is None:
                return None
            found.append(marks)
        return found or None


def _is_silent(row: Row, event: EventType) -> bool:
    """Whether a raw partition gave nothing for a grace period, so that nobody waits for it."""
    return event.grace_ms is not None and 0 < row.state.quiet_ms >= event.grace_ms


def _all_of(rows: Iterable[Row | None]) -> list[Row]:
    found = list(rows)
    return [] if None in found else [row for row in found if row is not None]
