"""What must hold after every step and at the end: the sink's contents against the recount."""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import repeat

from rollup_engine.config.model import Rollup
from rollup_engine.packing import unpack
from rollup_engine.progress import ROUTE, Books
from rollup_engine.route.router import EVENT
from rollup_engine.runtime.memory import MemorySink
from tests.simulation.faults import SimulatedLog
from tests.simulation.oracle import UNMATCHED, Covered, Oracle, Row, Verdicts

KINDS = ("counted", "duplicate", "conflicting", "late", "invalid", "unmatched")


class Violation(AssertionError):
    """What a schedule found; the message repeats it."""


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Violation(otherwise)


class Checker:
    """Compares one schedule's sink with its oracle, as both grow."""

    def __init__(
        self, rollups: Sequence[Rollup], oracle: Oracle, log: SimulatedLog, sink: MemorySink, events_topic: str
    ) -> None:
        self._rollups, self._oracle, self._log, self._sink = rollups, oracle, log, sink
        self._topic = events_topic
        self._covered: dict[bytes, Covered] = {}  # by the record's bytes: unpacked once
        self._advances = 0
        self._partials: Counter[str] = Counter()  # rows looked at, per table
        self._revisions: dict[tuple[object, ...], int] = {}
        self._keys: set[object] = set()

    @property
    def size(self) -> int:
        """Grows with whatever is committed of new content."""
        books = sum(_booked(books).total() for books in self._sink.books.values())
        routed = sum(row.next_offset for (stage, _), row in self._sink.rows.items() if stage == ROUTE)
        return books + routed + sum(map(len, self._sink.partials.values()))

    def after_step(self) -> None:
        """Nothing that is committed exceeds what happened."""
        advances = sum(row.version for row in self._sink.rows.values())
        if advances == self._advances:
            return
        self._advances = advances
        verdicts = self._verdicts()
        for (event, source), books in self._sink.books.items():
            for kind, count in _booked(books).items():
                there = verdicts.books[event, source][kind]
                require(count <= there, f"{event} {source}: {count} {kind} booked, {there} happened")
        letters = self._letters()
        require(letters <= verdicts.letters, f"dead letters for nothing: {letters - verdicts.letters}")
        for rollup in self._rollups:
            self._check_new_rows(rollup.table)
            wanted = self._oracle.totals(verdicts, rollup)
            for key, (total, *_) in self._totals(rollup).items():
                happened = wanted.get(key, (0,))[0]
                require(_int(total) <= _int(happened), f"{rollup.table} {key}: {total} counted, {happened} happened")

    def _check_new_rows(self, table: str) -> None:
        rows = self._sink.partials.get(table, [])
        for row in rows[self._partials[table] :]:
            series = table, row["window_ms"], row["tuple_key"]
            revision = row["revision"]
            assert isinstance(revision, int)
            before = self._revisions.get(series, -1)
            require(revision > before, f"{series}: revision {revision} after {before}")
            require(
                row["idempotency_key"] not in self._keys, f"{series}: idempotency key of revision {revision} repeats"
            )
            self._revisions[series] = revision
            self._keys.add(row["idempotency_key"])
        self._partials[table] = len(rows)

    def at_end(self) -> None:
        """All equal."""
        self.after_step()
        verdicts = self._verdicts()
        missing = set(self._oracle.raw) - {(source, offset) for _, source, offset in verdicts.seen}
        require(not missing, f"never reached the events log: {sorted(missing)}")
        booked = {key: counts for key, books in self._sink.books.items() if (counts := _booked(books))}
        happened = {key: +counts for key, counts in verdicts.books.items() if +counts}
        require(booked == happened, f"books {booked}, but {happened} happened")
        letters = self._letters()
        require(letters == verdicts.letters, f"dead letters {letters}, but {verdicts.letters} happened")
        self._check_received(booked, verdicts)
        for rollup in self._rollups:
            totals, wanted = self._totals(rollup), self._oracle.totals(verdicts, rollup)
            require(totals == wanted, f"{rollup.table}: totals {totals}, but {wanted} happened")
        if not self._oracle.clock_set_back:  # then route may have forgotten a watermark that its rows still tell
            self._check_final()

    def _check_final(self) -> None:
        """No window stays open where no raw partition gives anything any more."""
        for event in self._oracle.configs[-1].events:
            for rollup in event.rollups if event.grace_ms is not None else ():
                for key, row in self._sink.latest(rollup.table).items():
                    require(row["final"] is True, f"{rollup.table} {key}: the latest partial is not final")

    def _check_received(self, booked: dict[tuple[str, str], Counter[str]], verdicts: Verdicts) -> None:
        """The books balance: against route's own count, and against the number of raw records."""
        received: Counter[tuple[str, str]] = Counter()
        for source, offset in self._oracle.raw:
            found = self._oracle.read(source, offset, verdicts.generation[source, offset])
            for event, outcome in found.items():
                received[event, source] += outcome != UNMATCHED
        received = +received
        sums = +Counter({key: counts.total() - counts[UNMATCHED] for key, counts in booked.items()})
        require(sums == received, f"books come to {sums}, but {dict(received)} were received")
        for source in {source for source, _ in self._oracle.raw}:
            state = self._sink.rows[ROUTE, source].state
            own = {event: count for (event, where), count in received.items() if where == source}
            require(state["received"] == own, f"route counted {state['received']} of {source}, not {own}")
            records = sum(books.records for (_, where), books in self._sink.books.items() if where == source)
            require(records == state["records"], f"{source}: {records} records booked, {state['records']} routed")

    def _verdicts(self) -> Verdicts:
        return self._oracle.judge(
            [[self._unpacked(value) for value in self._log.values(self._topic, p)] for p in self._log.all(self._topic)]
        )

    def _unpacked(self, value: bytes) -> Covered:
        if value not in self._covered:
            packed = unpack(value)
            rows: list[Row] = []
            for name, frame in packed.tables.items():
                event = name.removeprefix(EVENT) if name.startswith(EVENT) else ""
                if event:
                    timings = frame.select("clock_ms", "future", "late").iter_rows()
                    rows += zip(repeat(event), frame["offset"], timings, strict=False)
                else:
                    rows += [(event, offset, None) for offset in frame["offset"]]
            self._covered[value] = packed.generation, packed.source, packed.start, packed.end, tuple(rows)
        return self._covered[value]

    def _letters(self) -> Counter[tuple[str, str, int, str]]:
        return Counter(
            (str(row["event"]), str(row["source"]), _int(row["source_offset"]), str(row["outcome"]))
            for row in self._sink.dead_letters
        )

    def _totals(self, rollup: Rollup) -> dict[tuple[object, ...], tuple[object, ...]]:
        """The sink's latest partials in the shape of `Oracle.totals`."""
        columns = [column.column for column in rollup.group_by]
        numbers = [aggregate.column for aggregate in rollup.aggregates]
        totals: dict[tuple[object, ...], tuple[object, ...]] = {}
        for row in self._sink.latest(rollup.table).values():
            key = (row["window_ms"], row["external_customer_id"], *map(row.get, columns))
            require(key not in totals, f"{rollup.table}: two series for {key}")
            totals[key] = (row["count"], *_fractions(row.get(name) for name in numbers))
        return totals


def _booked(books: Books) -> Counter[str]:
    return Counter({kind: count for kind in KINDS if (count := getattr(books, kind))})


def _fractions(texts: Iterable[object]) -> list[Fraction | None]:
    return [None if text is None else Fraction(str(text)) for text in texts]


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
