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
from rollup_engine.config.model import Config, EventType, Timestamp
from rollup_engine.numbers import NumberText
from rollup_engine.route.columns import EventColumns
from rollup_engine.route.decode import Decoder, Undecodable

EVENT_BYTES_MAX: Final = 1_000_000  # with a batch's head below Kafka's `max.message.bytes`, 1,048,588 by default
PART_BYTES: Final = 1 << 20  # judged at a time: decoded, a value can take 30 times its bytes
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
        self._topics = {
            topic: _Topic([event for event in config.events if topic in event.kafka_topics])
            for topic in config.kafka_topics
        }
        self._matcher = _Matcher([event for event in config.events if event.match and event.kafka_topics])
        self._kafka_topics = {event.event: event.kafka_topics for event in config.events}
        self._unmatched = {event.event for event in config.events if not event.match}

    def judge(self, requests: Sequence[Request], now_ms: int) -> list[Judged]:
        """The verdicts on each request. Several at once cost little more than one; none depends on another.

        `now_ms`: what timestamps are compared with. Where a key stands for different values in one request, all of it
        is refused, as Orb does. What is decoded of `PART_BYTES` of events is in memory at a time.
        """
        events = [event for request in requests for event in request.events]
        bound = [request.customer for request in requests for _ in request.events]
        errors: list[list[str]] = [list(event.errors) for event in events]
        chosen: list[Sequence[str]] = [()] * len(events)
        for row, event in enumerate(events):
            if not errors[row] and len(event.value) > EVENT_BYTES_MAX:
                errors[row].append(f"the event has {len(event.value):,} bytes; {EVENT_BYTES_MAX:,} are allowed")
        for rows in _parts(events, [row for row in range(len(events)) if not errors[row]]):
            for row, taken in self._matcher.takers(events, rows, errors):
                chosen[row] = self._choose(events[row].name, taken)
                if not chosen[row]:
                    errors[row].append(self._nobody(events[row].name))
            for name, topic in self._topics.items():
                mine = [row for row in rows if name in chosen[row]]
                for row, why in topic.problems(events, mine, now_ms, bound) if mine else ():
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

    def _choose(self, name: str, taken: Sequence[str]) -> Sequence[str]:
        """As few topics as reach every event type that it is for: those whose `match` takes it, and its name's."""
        wanted: dict[str, set[str]] = {}
        for event in (*taken, *([name] if name in self._unmatched else [])):
            for topic in self._kafka_topics[event]:
                wanted.setdefault(topic, set()).add(event)
        return tuple(wanted) if len(wanted) <= 1 else _cover(wanted)

    def _nobody(self, name: str) -> str:
        shown = ", ".join(self._names[:_NAMES_SHOWN]) + (", …" if len(self._names) > _NAMES_SHOWN else "")
        return (
            f"no event type takes {name[:100]!r} over HTTP; those declared: {shown}. One with `match` takes what that"
            " fits, one without it takes the events of its name, and it needs a Kafka topic."
        )


class _Matcher:
    """Which event types' `match` takes an event: decoded once for all topics, and only the paths of `match`."""

    def __init__(self, events: Sequence[EventType]) -> None:
        only = [_match_only(event) for event in events]
        self._decoder = Decoder(only)
        self._columns = [EventColumns(event, self._decoder) for event in only]
        self._getters = [self._decoder.getter(path) for path in sorted({m.path for e in only for m in e.match})]

    def takers(
        self, events: Sequence[Submitted], rows: Sequence[int], errors: Sequence[list[str]]
    ) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Of each row the names of those that take it, asked once per combination of values; none with what is wrong,
        which is added to `errors`."""
        if not self._columns:
            yield from ((row, ()) for row in rows)
            return
        known: dict[object, tuple[str, ...]] = {}
        for row, one in zip(rows, self._decoder.decode([events[row].value for row in rows]), strict=True):
            if type(one) is Undecodable:
                errors[row].append(one.detail)
                continue
            values = (get(one) for get in self._getters)
            key = tuple((type(value), value) if type(value) in _COMPARED else None for value in values)
            if key not in known:
                known[key] = tuple(columns.event.event for columns in self._columns if columns.matches(one))
            yield row, known[key]


class _Topic:
    """One raw topic, with its own decoder: what that cannot decode depends on the paths of all its event types."""

    def __init__(self, events: Sequence[EventType]) -> None:
        self._decoder = Decoder(events)
        self._columns = [EventColumns(event, self._decoder) for event in events]

    def problems(
        self, events: Sequence[Submitted], rows: Sequence[int], now_ms: int, bound: Sequence[str | None]
    ) -> Iterator[tuple[int, str]]:
        """What is wrong with these records on this topic. `bound`: to which customer each event's API key is."""
        decoded: dict[int, Any] = {}
        for row, one in zip(rows, self._decoder.decode([events[row].value for row in rows]), strict=True):
            if type(one) is Undecodable:
                yield row, one.detail
            else:
                decoded[row] = one
        for columns in self._columns:
            own = [row for row, one in decoded.items() if columns.takes_all or columns.matches(one)]
            if own:
                for row, why in _problems(columns, decoded, own, now_ms, bound):
                    yield row, f"event type {columns.event.event!r}: {why}"


def _problems(
    columns: EventColumns, decoded: Mapping[int, Any], rows: Sequence[int], now_ms: int, bound: Sequence[str | None]
) -> Iterator[tuple[int, str]]:
    places = pl.DataFrame({"row": pl.Series(rows, dtype=pl.Int64)})
    frame, bad = columns.frame([decoded[row] for row in rows], places)
    for place, why in bad.items():
        yield rows[place], why.detail
    latest_ms = now_ms + columns.event.max_future_ms
    for row in frame.filter(pl.col("timestamp_ms") > latest_ms)["row"]:
        yield row, f"the timestamp is more than {format_duration(columns.event.max_future_ms)} in the future"
    if any(bound[row] is not None for row in rows):
        for row, customer in zip(frame["row"], frame["customer"], strict=True):
            if bound[row] not in (None, customer):
                yield row, "this API key is bound to another customer"


def _match_only(event: EventType) -> EventType:
    """The event type as if its `match` were all that it reads."""
    path = event.match[0].path
    none: dict[str, Any] = {"id_paths": (path,), "timestamp": Timestamp(path=path), "customer_path": path}
    return event.model_copy(update={**none, "rollups": ()})


def _parts(events: Sequence[Submitted], rows: Sequence[int]) -> Iterator[list[int]]:
    """The rows in order, as many at a time as have `PART_BYTES` together, or one."""
    part: list[int] = []
    size = 0
    for row in rows:
        size += len(events[row].value)
        if part and size > PART_BYTES:
            yield part
            part, size = [], len(events[row].value)
        part.append(row)
    if part:
        yield part


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
    compact: dict[str, bytes] = {}  # the first ones again, of keys that come more than once
    several: set[str] = set()
    for event in events:
        before = first.setdefault(event.key, event.value)
        if event.key and event.key not in several and before != event.value:
            if event.key not in compact:
                compact[event.key] = _compact(before)
            if compact[event.key] != _compact(event.value):
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
