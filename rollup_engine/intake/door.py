"""The door: what is wrong with submitted events, and which raw Kafka topics the good ones go to.

Owns: the promise that what passes is not refused later for its form. It asks the code that route itself uses
(`Decoder`, `EventColumns`), topic by topic, in columns. Judges neither duplicates nor lateness: those follow from the
log, and only dedup knows them. Must never send anything, and never change an event's bytes.

An event goes to event types whose `match` takes it, and to those without `match` that bear its name. It is appended to
as few topics as reach them all; every event type that reads one of these and takes it has to find it well-formed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import polars as pl

from rollup_engine.config.durations import format_duration
from rollup_engine.config.model import Config, EventType
from rollup_engine.numbers import NumberText
from rollup_engine.route.columns import EventColumns
from rollup_engine.route.decode import Decoder, Undecodable

EVENT_BYTES_MAX: Final = 1_000_000  # with a batch's head below Kafka's `max.message.bytes`, 1,048,588 by default
_NAMES_SHOWN: Final = 20
_COMPARED: Final = (str, int, bool, NumberText)  # what a `match` can be equal to


class Submitted(NamedTuple):
    """One event of a request, as its envelope's reader hands it over.

    `value`: the bytes of the raw record. `name`: what an event type without `match` is found by. `key`: what the client
    calls it. `errors`: what is wrong with the envelope; such an event is not looked at further.
    """

    value: bytes
    name: str
    key: str
    errors: Sequence[str] = ()


class Request(NamedTuple):
    """The events of one call. `customer`: the one that its API key is bound to; every customer that an event type reads
    off them has to be that one."""

    events: Sequence[Submitted]
    customer: str | None = None


@dataclass(frozen=True)
class Judged:
    """The verdicts, by the events' place in the request: `errors` is empty for a good one, `topics` for a bad one."""

    events: Sequence[Submitted]
    errors: Sequence[Sequence[str]]
    topics: Sequence[Sequence[str]]

    @property
    def accepted(self) -> list[Submitted]:
        """The good ones, in order."""
        return [event for event, errors in zip(self.events, self.errors, strict=True) if not errors]

    @property
    def refused(self) -> list[tuple[Submitted, Sequence[str]]]:
        """The bad ones, each with what is wrong."""
        return [(event, errors) for event, errors in zip(self.events, self.errors, strict=True) if errors]


def by_topic(judged: Iterable[Judged]) -> dict[str, list[bytes]]:
    """The records to append."""
    values: dict[str, list[bytes]] = {}
    for one in judged:
        for event, topics in zip(one.events, one.topics, strict=True):
            for topic in topics:
                values.setdefault(topic, []).append(event.value)
    return values


class Door:
    """Judges batches of events under one YAML. Building one costs milliseconds: keep it while the YAML is in force."""

    def __init__(self, config: Config) -> None:
        self._names = sorted(event.event for event in config.events)
        self._topics = [
            _Topic(topic, [event for event in config.events if topic in event.kafka_topics])
            for topic in config.kafka_topics
        ]

    def judge(self, requests: Sequence[Request], now_ms: int) -> list[Judged]:
        """The verdicts on each request. Several at once cost little more than one; none depends on another.

        `now_ms`: what timestamps are compared with. Where a key stands for different values in one request, all of it
        is refused, as Orb does.
        """
        events = [event for request in requests for event in request.events]
        bound = [request.customer for request in requests for _ in request.events]
        errors: list[list[str]] = [list(event.errors) for event in events]
        for row, event in enumerate(events):
            if not errors[row] and len(event.value) > EVENT_BYTES_MAX:
                errors[row].append(f"the event has {len(event.value):,} bytes; {EVENT_BYTES_MAX:,} are allowed")
        good = [row for row in range(len(events)) if not errors[row]]
        chosen: list[Sequence[str]] = [()] * len(events)
        seen = [seen for topic in self._topics if (seen := topic.look(events, good)) is not None]
        for row in good:
            chosen[row] = self._choose(events[row], row, seen, errors[row])
        for one in seen:
            rows = [row for row in good if one.topic.name in chosen[row]]
            for row, why in one.problems(rows, now_ms, bound):
                if why not in errors[row]:
                    errors[row].append(why)
        judged, start = [], 0
        for request in requests:
            part = slice(start, start + len(request.events))
            _refuse_keys_with_several_values(request.events, own := errors[part])
            topics = [() if found else to for found, to in zip(own, chosen[part], strict=True)]
            judged.append(Judged(request.events, own, topics))
            start = part.stop
        return judged

    def _choose(self, event: Submitted, row: int, seen: Sequence[_Seen], errors: list[str]) -> Sequence[str]:
        """As few topics as reach every event type that the event is for; none with what is wrong."""
        wanted: dict[str, set[str]] = {}
        for one in seen:
            if (why := one.undecodable.get(row)) is not None:
                if why.detail not in errors:
                    errors.append(why.detail)
            elif targets := one.targets(row):
                wanted[one.topic.name] = targets
        if errors:
            return ()
        if len(wanted) <= 1:
            if not wanted:
                errors.append(self._nobody(event.name))
            return tuple(wanted)
        return _cover(wanted)

    def _nobody(self, name: str) -> str:
        shown = ", ".join(self._names[:_NAMES_SHOWN]) + (", …" if len(self._names) > _NAMES_SHOWN else "")
        return (
            f"no event type takes {name[:100]!r} over HTTP; those declared: {shown}. One with `match` takes what that"
            " fits, one without it takes the events of its name, and it needs a Kafka topic."
        )


class _Topic:
    """One raw topic, with its own decoder: what that cannot decode depends on the paths of all its event types."""

    def __init__(self, name: str, events: Sequence[EventType]) -> None:
        self.name = name
        self.decoder = Decoder(events)
        self.columns = [EventColumns(event, self.decoder) for event in events]
        self.by_match = any(not one.takes_all for one in self.columns)
        self.named = {one.event.event for one in self.columns if one.takes_all}
        self.getters = [self.decoder.getter(path) for path in sorted({m.path for e in events for m in e.match})]

    def look(self, events: Sequence[Submitted], rows: Sequence[int]) -> _Seen | None:
        """The events decoded as this topic's records would be; None where none of them can be for it."""
        if not self.by_match:
            rows = [row for row in rows if events[row].name in self.named]
        if not rows:
            return None
        decoded = self.decoder.decode([events[row].value for row in rows])
        return _Seen(self, dict(zip(rows, decoded, strict=True)), events)


class _Seen:
    """The events of one batch as one topic's event types see them."""

    def __init__(self, topic: _Topic, decoded: Mapping[int, Any], events: Sequence[Submitted]) -> None:
        self.topic, self._decoded, self._events = topic, decoded, events
        self.undecodable = {row: one for row, one in decoded.items() if type(one) is Undecodable}
        self._takers: dict[object, tuple[EventColumns, ...]] = {}

    def takers(self, row: int) -> tuple[EventColumns, ...]:
        """The event types to which route would give the record, asked once per combination of matched values."""
        one = self._decoded[row]
        values = (get(one) for get in self.topic.getters)
        key = tuple((type(value), value) if type(value) in _COMPARED else None for value in values)
        found = self._takers.get(key)
        if found is None:
            found = tuple(columns for columns in self.topic.columns if columns.takes_all or columns.matches(one))
            self._takers[key] = found
        return found

    def targets(self, row: int) -> set[str]:
        """Those of them that the event is meant for."""
        if row not in self._decoded:
            return set()
        name = self._events[row].name
        return {one.event.event for one in self.takers(row) if not one.takes_all or one.event.event == name}

    def problems(self, rows: Sequence[int], now_ms: int, bound: Sequence[str | None]) -> Iterator[tuple[int, str]]:
        """What is wrong with these records on this topic. `bound`: to which customer each event's API key is."""
        for columns in self.topic.columns:
            own = rows if len(self.topic.columns) == 1 else [row for row in rows if columns in self.takers(row)]
            if own:
                for row, why in self._problems_of(columns, own, now_ms, bound):
                    yield row, f"event type {columns.event.event!r}: {why}"

    def _problems_of(
        self, columns: EventColumns, rows: Sequence[int], now_ms: int, bound: Sequence[str | None]
    ) -> Iterator[tuple[int, str]]:
        places = pl.DataFrame({"row": pl.Series(rows, dtype=pl.Int64)})
        frame, bad = columns.frame([self._decoded[row] for row in rows], places)
        for place, why in bad.items():
            yield rows[place], why.detail
        latest_ms = now_ms + columns.event.max_future_ms
        for row in frame.filter(pl.col("timestamp_ms") > latest_ms)["row"]:
            yield row, f"the timestamp is more than {format_duration(columns.event.max_future_ms)} in the future"
        if any(bound[row] is not None for row in rows):
            for row, customer in zip(frame["row"], frame["customer"], strict=True):
                if bound[row] not in (None, customer):
                    yield row, "this API key is bound to another customer"


def _cover(wanted: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Topics that together reach all event types named: each time the one that reaches most of those left."""
    left, chosen = set().union(*wanted.values()), []
    while left:
        best = max(sorted(wanted), key=lambda topic: len(wanted[topic] & left))
        chosen.append(best)
        left -= wanted[best]
    return tuple(chosen)


def _refuse_keys_with_several_values(events: Sequence[Submitted], errors: Sequence[list[str]]) -> None:
    """Adds to the errors of one request's events."""
    first: dict[str, bytes] = {}
    several: set[str] = set()
    for event in events:
        before = first.setdefault(event.key, event.value)
        if event.key and before != event.value and _compact(before) != _compact(event.value):
            several.add(event.key)
    if not several:
        return
    rest = f"not taken: the call has events with different bodies under the key {min(several)[:100]!r}; send it again"
    for event, found in zip(events, errors, strict=True):
        if event.key in several:
            found.append("its key stands in this call for events with different bodies")
        elif not found:
            found.append(rest)


def _compact(value: bytes) -> bytes:
    """JSON without whitespace between its parts."""
    try:
        return msgspec.json.format(value, indent=-1)
    except (msgspec.MsgspecError, RecursionError):
        return value
