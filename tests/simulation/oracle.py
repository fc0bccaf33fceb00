"""The naive recount: what every raw record must come to, in plain Python from the raw records and the events log.

Shares no code with the engine but the configuration's objects and `unpack`. From the events log it takes one thing, the
order in which raw records first appear, copies included; times, validity, lateness and totals come from the raw log.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rollup_engine.config.model import Config, EventType, Rollup
from tests.simulation.world import RawRecord

Row = tuple[str, int]  # (event or "" for refused and unmatched, raw offset)
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

    id: str
    at_ms: int
    customer: str
    groups: dict[str, str | None]
    numbers: dict[str, Decimal | None]
    clock_ms: int
    late: bool
    future: bool

    @property
    def payload(self) -> tuple[object, ...]:
        return self.at_ms, self.customer, tuple(self.groups.items()), tuple(self.numbers.items())


@dataclass
class Verdicts:
    """What the records seen so far must come to."""

    books: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    letters: Counter[tuple[str, str, int, str]] = field(default_factory=Counter)  # event, source, offset, outcome
    counted: list[tuple[EventType, Event]] = field(default_factory=list)  # with the event type as in its generation
    seen: set[tuple[str, str, int]] = field(default_factory=set)  # event, source, offset


class Oracle:
    """Recounts one schedule's raw log."""

    def __init__(self, configs: Sequence[Config], topic: str, first_offset: int) -> None:
        """`configs`: of generations 1, 2, …; they differ in their rollups only. `first_offset` of raw partitions."""
        self._configs, config = configs, configs[0]
        self._whose = config.events[0].event if len(config.events) == 1 else f"topic:{topic}"
        self._first_offset = first_offset
        self._clock: dict[str, int] = {}
        self._watermark: dict[tuple[str, str], int] = {}
        self.wanted: dict[tuple[str, int], dict[str, Event | str]] = {}  # (source, offset) -> event type -> event

    def produced(self, source: str, offset: int, record: RawRecord) -> None:
        """Take in a raw record, in the order of its partition."""
        clock_ms = self._clock[source] = max(self._clock.get(source, 0), record.timestamp_ms)
        found: dict[str, Event | str] = {}
        body = _parsed(record.value)
        if not isinstance(body, dict):
            found[self._whose] = INVALID
        else:
            for event in self._configs[0].events:
                if all(body.get(match.path) == match.value for match in event.match):
                    found[event.event] = self._event(event, body, source, record.timestamp_ms, clock_ms)
            if not found:
                found[self._whose] = UNMATCHED
        self.wanted[source, offset] = found

    def _event(self, event: EventType, body: dict[str, Any], source: str, record_ms: int, clock_ms: int) -> Event | str:
        at_ms = body.get(event.timestamp.path)
        customer, id_ = body.get(event.customer_path), body.get(event.id_path)
        if not id_ or not customer or type(at_ms) is not int:
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
        future = at_ms > record_ms + event.max_future_ms
        key = event.event, source
        if not future:
            self._watermark[key] = max(self._watermark.get(key, at_ms), at_ms)
        watermark = self._watermark.get(key)
        late = event.grace_ms is not None and watermark is not None and at_ms < watermark - event.grace_ms
        return Event(id_, at_ms, customer, groups, numbers, clock_ms, late, future)

    def judge(self, logs: Sequence[Sequence[Covered]]) -> Verdicts:
        """What the events log, as it stands, must have come to once it is all read."""
        verdicts = Verdicts()
        copies: dict[tuple[str, str], list[tuple[int, object]]] = defaultdict(list)
        for log in logs:
            marks: dict[str, int] = defaultdict(lambda: self._first_offset)
            for generation, source, start, end, rows in log:
                if start > marks[source]:
                    continue  # a hole: nothing of it counts until it is sent again
                for name, offset in rows:
                    first = offset >= marks[source]
                    self._row(name, generation, source, offset, copies, verdicts, first=first)
                marks[source] = max(marks[source], end)
        return verdicts

    def _row(
        self,
        name: str,
        generation: int,
        source: str,
        offset: int,
        copies: dict[tuple[str, str], list[tuple[int, object]]],
        verdicts: Verdicts,
        *,
        first: bool,
    ) -> None:
        found = self.wanted[source, offset]
        if not name:
            if first:
                self._book_refused(found, source, offset, verdicts)
            return
        event = found[name]
        assert isinstance(event, Event), f"{source} offset {offset}: refused by the recount, but sent as well-formed"
        spec = next(one for one in self._configs[generation - 1].events if one.event == name)
        known = copies[name, event.id]
        inside = [payload for at_ms, payload in known if at_ms >= event.clock_ms - spec.horizon_ms]
        if inside:
            outcome = DUPLICATE if inside[0] == event.payload else CONFLICTING
        else:
            outcome = INVALID if event.future else LATE if event.late else COUNTED
        if inside or outcome == COUNTED:
            known.append((event.clock_ms, event.payload))
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
        for spec, event in verdicts.counted:
            for declared in spec.rollups:
                if declared.table == rollup.table:
                    start = event.at_ms - event.at_ms % rollup.window_ms
                    key: tuple[object, ...] = (
                        start,
                        event.customer,
                        *(event.groups[column.path] for column in rollup.group_by),
                    )
                    groups[key].append(({aggregate.column for aggregate in declared.aggregates}, event))
        totals: dict[tuple[object, ...], tuple[object, ...]] = {}
        for key, events in groups.items():
            values: list[object] = [len(events)]
            for aggregate in rollup.aggregates:
                numbers = [event.numbers[aggregate.path] for columns, event in events if aggregate.column in columns]
                there = [Fraction(number) for number in numbers if number is not None]
                if aggregate.kind == "sum":
                    values.append(sum(there, Fraction()))
                else:
                    values.append((min if aggregate.kind == "min" else max)(there, default=None))
            totals[key] = tuple(values)
        return totals


def _parsed(value: bytes | None) -> object:
    try:
        return json.loads(value or b"", parse_float=Decimal)
    except ValueError:
        return None
