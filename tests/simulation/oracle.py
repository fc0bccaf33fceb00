"""The naive recount: what every raw record must come to, in plain Python from the raw records and the events log.

Shares no code with the engine but the configuration's objects and `unpack`. From the events log it takes two things,
the order in which raw records first appear, copies included, and the YAML that each was sent under; times, validity,
lateness and totals come from the raw log. Only where route's clock is set back are times taken as route told them.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rollup_engine.config.model import Config, EventType, Rollup
from tests.simulation.world import RawRecord

Timing = tuple[int, bool, bool]  # clock_ms, future and late, as route has told them
Row = tuple[str, int, Timing | None]  # (event or "" for refused and unmatched, raw offset, times of an event)
# One record of the events log: generation, source, start, end, rows.
Covered = tuple[int, str, int, int, tuple[Row, ...]]

COUNTED, DUPLICATE, CONFLICTING, LATE, INVALID, UNMATCHED = (
    "counted",
    "duplicate",
    "conflicting",
    "late",
    "invalid",
    "unmatched",
)


@dataclass(frozen=True)
class Event:
    """A well-formed event, as one event type sees it."""

    id: tuple[str, ...]
    at_ms: int
    customer: str
    groups: dict[str, str | None]
    numbers: dict[str, Decimal | None]
    clock_ms: int
    future: bool

    @property
    def fields(self) -> tuple[frozenset[str], frozenset[str]]:
        """The mapped paths that YAMLs differ in: copies mapped by others cannot be compared."""
        return frozenset(self.groups), frozenset(self.numbers)

    @property
    def payload(self) -> tuple[object, ...]:
        return self.at_ms, self.customer, self.groups, self.numbers


@dataclass(frozen=True)
class Raw:
    """A raw record as it was produced."""

    body: object  # None: no JSON
    record_ms: int
    clock_ms: int  # running maximum of its partition


@dataclass
class Verdicts:
    """What the records seen so far must come to."""

    books: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    letters: Counter[tuple[str, str, int, str]] = field(default_factory=Counter)  # event, source, offset, outcome
    counted: list[tuple[EventType, Event]] = field(default_factory=list)  # with the event type as in its generation
    seen: set[tuple[str, str, int]] = field(default_factory=set)  # event, source, offset
    generation: dict[tuple[str, int], int] = field(default_factory=dict)  # (source, offset) -> what it was sent under


class Oracle:
    """Recounts one schedule's raw log."""

    def __init__(
        self, configs: Sequence[Config], topic: str, first_offset: int, *, clock_set_back: bool = False
    ) -> None:
        """`configs`: of generations 1, 2, …; they differ in their rollups only. `first_offset` of raw partitions.
        `clock_set_back`: route's clock may lie behind the records it reads."""
        self.clock_set_back = clock_set_back
        self.configs, config = configs, configs[0]
        self._whose = config.events[0].event if len(config.events) == 1 else f"topic:{topic}"
        self._first_offset = first_offset
        self.raw: dict[tuple[str, int], Raw] = {}  # (source, offset) -> the record
        self._clock: dict[str, int] = {}
        self._read: dict[tuple[str, int, int], dict[str, Event | str]] = {}

    def produced(self, source: str, offset: int, record: RawRecord) -> None:
        """Take in a raw record, in the order of its partition."""
        clock_ms = self._clock[source] = max(self._clock.get(source, 0), record.timestamp_ms)
        self.raw[source, offset] = Raw(_parsed(record.value), record.timestamp_ms, clock_ms)

    def read(self, source: str, offset: int, generation: int) -> dict[str, Event | str]:
        """What a raw record is to each event type under a generation's YAML: an event, or why it is none."""
        key = source, offset, generation
        if key not in self._read:
            self._read[key] = self._reading(self.raw[source, offset], generation)
        return self._read[key]

    def _reading(self, raw: Raw, generation: int) -> dict[str, Event | str]:
        if not isinstance(raw.body, dict):
            return {self._whose: INVALID}
        found = {
            event.event: self._event(event, raw.body, raw)
            for event in self.configs[generation - 1].events
            if all(raw.body.get(match.path) == match.value for match in event.match)
        }
        return found or {self._whose: UNMATCHED}

    @staticmethod
    def _event(event: EventType, body: dict[str, Any], raw: Raw) -> Event | str:
        at_ms = body.get(event.timestamp.path)
        customer, id_ = body.get(event.customer_path), tuple(body.get(path) for path in event.id_paths)
        if not all(id_) or not customer or type(at_ms) is not int:
            return INVALID
        numbers: dict[str, Decimal | None] = {}
        groups: dict[str, str | None] = {}
        for rollup in event.rollups:
            for aggregate in rollup.aggregates:
                number = body.get(aggregate.path)
                if isinstance(number, str):
                    return INVALID
                if number is not None and aggregate.minimum is not None and number < aggregate.minimum:
                    return INVALID
                numbers[aggregate.path] = None if number is None else Decimal(number)
            for column in rollup.group_by:
                groups[column.path] = body.get(column.path)
        future = at_ms > raw.record_ms + event.max_future_ms
        return Event(id_, at_ms, customer, groups, numbers, raw.clock_ms, future)

    def judge(self, logs: Sequence[Sequence[Covered]]) -> Verdicts:
        """What the events log, as it stands, must have come to once it is all read."""
        verdicts = Verdicts()
        copies: dict[tuple[str, str], list[Event]] = defaultdict(list)
        for log in logs:
            marks: dict[str, int] = defaultdict(lambda: self._first_offset)
            late = _Lateness()
            for generation, source, start, end, rows in log:
                if start > marks[source]:
                    continue  # a hole: nothing of it counts until it is sent again
                for offset in range(marks[source], end):
                    self._cover(source, offset, generation, late, verdicts)
                for name, offset, timing in rows:
                    first = offset >= marks[source]
                    if timing is not None:
                        timing = self._timing(timing, name, source, offset, generation, late)
                    self._row(name, generation, source, offset, timing, copies, verdicts, first=first)
                marks[source] = max(marks[source], end)
        return verdicts

    def _cover(self, source: str, offset: int, generation: int, late: "_Lateness", verdicts: Verdicts) -> None:
        """A partition of the events log takes an offset for good, with or without a row for it."""
        found = self.read(source, offset, generation)
        known = verdicts.generation.setdefault((source, offset), generation)
        assert known == generation or self.read(source, offset, known) == found, (
            f"{source} offset {offset} reached some partitions under generation {known}, others under {generation}"
        )
        for event in self.configs[generation - 1].events:
            one = found.get(event.event)
            if isinstance(one, Event):
                late.take(event, source, offset, one)

    def _timing(self, told: Timing, name: str, source: str, offset: int, generation: int, late: "_Lateness") -> Timing:
        """What the raw log says of an event's times; where route's clock was set back, what route `told`, if it is not
        the wrong way: that may refuse an event as a future one, but closes no window and expires no id early."""
        event = self.read(source, offset, generation)[name]
        assert isinstance(event, Event), f"{source} offset {offset}: refused by the recount, but sent as well-formed"
        clock_ms, future, is_late = wanted = event.clock_ms, event.future, (name, source, offset) in late.events
        if not self.clock_set_back:
            assert told == wanted, f"{source} offset {offset}: clock, future, late are {told}, and should be {wanted}"
        assert told[0] <= clock_ms, f"{source} offset {offset}: its clock is ahead of the records"
        assert told[1] >= future, f"{source} offset {offset}: it lies in the future, and is not told as such"
        assert told[2] <= is_late, f"{source} offset {offset}: told as late, and is not"
        return told

    def _row(
        self,
        name: str,
        generation: int,
        source: str,
        offset: int,
        timing: Timing | None,
        copies: dict[tuple[str, str], list[Event]],
        verdicts: Verdicts,
        *,
        first: bool,
    ) -> None:
        found = self.read(source, offset, generation)
        if timing is None:
            if first:
                self._book_refused(found, source, offset, verdicts)
            return
        event = found[name]
        assert isinstance(event, Event)
        clock_ms, future, late = timing
        event = replace(event, clock_ms=clock_ms, future=future)
        spec = next(one for one in self.configs[generation - 1].events if one.event == name)
        known = copies[name, event.id]
        inside = [one for one in known if one.clock_ms >= event.clock_ms - spec.horizon_ms]
        if inside:
            earliest = next((one for one in inside if one.fields == event.fields), event)
            outcome = DUPLICATE if earliest.payload == event.payload else CONFLICTING
        else:
            outcome = INVALID if event.future else LATE if late else COUNTED
        if inside or outcome == COUNTED:
            known.append(event)
        if first:
            verdicts.books[name, source][outcome] += 1
            verdicts.seen.add((name, source, offset))
            if outcome == COUNTED:
                verdicts.counted.append((spec, event))
            elif outcome != DUPLICATE:
                verdicts.letters[name, source, offset, outcome] += 1

    @staticmethod
    def _book_refused(found: dict[str, Event | str], source: str, offset: int, verdicts: Verdicts) -> None:
        for name, outcome in found.items():
            if isinstance(outcome, str) and (name, source, offset) not in verdicts.seen:
                verdicts.seen.add((name, source, offset))
                verdicts.books[name, source][outcome] += 1
                if outcome == INVALID:
                    verdicts.letters[name, source, offset, INVALID] += 1

    def totals(self, verdicts: Verdicts, rollup: Rollup) -> dict[tuple[object, ...], tuple[object, ...]]:
        """(window start, customer, *groups) -> (count, *aggregates) of the counted events.

        An event counts towards what the YAML of its generation declares.
        """
        groups: dict[tuple[object, ...], list[tuple[set[str], Event]]] = defaultdict(list)
        columns = [column.column for column in rollup.group_by]
        for spec, event in verdicts.counted:
            for declared in spec.rollups:
                if declared.table == rollup.table:
                    start = event.at_ms - event.at_ms % rollup.window_ms
                    values_of = {column.column: event.groups[column.path] for column in declared.group_by}
                    key: tuple[object, ...] = (start, event.customer, *map(values_of.get, columns))
                    groups[key].append(({aggregate.column for aggregate in declared.aggregates}, event))
        totals: dict[tuple[object, ...], tuple[object, ...]] = {}
        for key, events in groups.items():
            values: list[object] = [len(events)]
            for aggregate in rollup.aggregates:
                numbers = [event.numbers[aggregate.path] for names, event in events if aggregate.column in names]
                there = [Fraction(number) for number in numbers if number is not None]
                if aggregate.kind == "sum":
                    values.append(sum(there, Fraction()))
                else:
                    values.append((min if aggregate.kind == "min" else max)(there, default=None))
            totals[key] = tuple(values)
        return totals


class _Lateness:
    """The watermarks of every event type and raw partition, and which events came too late for them."""

    def __init__(self) -> None:
        self._watermark: dict[tuple[str, str], int] = {}
        self.events: set[tuple[str, str, int]] = set()  # event type, source, offset

    def take(self, spec: EventType, source: str, offset: int, event: Event) -> None:
        key = spec.event, source
        if not event.future:
            self._watermark[key] = max(self._watermark.get(key, event.at_ms), event.at_ms)
        watermark = self._watermark.get(key)
        if spec.grace_ms is not None and watermark is not None and event.at_ms < watermark - spec.grace_ms:
            self.events.add((spec.event, source, offset))


def _parsed(value: bytes | None) -> object:
    try:
        return json.loads(value or b"", parse_float=Decimal)
    except ValueError:
        return None
