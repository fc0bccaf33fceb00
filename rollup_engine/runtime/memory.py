"""In-memory log and sink with the semantics of the real ones, for tests and simulation.

The log's records are those that a broker would hold; the sink's `advance` is one transaction: all or nothing, and
only for the claim that still has its row.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from rollup_engine.errors import ClaimLost, PartitionHalted
from rollup_engine.ports import Span
from rollup_engine.progress import KINDS, Books, Claim, Position, Writes
from rollup_engine.tables import Schema


class MemoryRecord(NamedTuple):
    """Implements `ports.Record`."""

    offset: int
    timestamp: int
    value: bytes | None


class MemoryLog:
    """Implements `ports.Log`."""

    def __init__(self) -> None:
        self._topics: dict[str, list[list[MemoryRecord]]] = {}
        self._starts: dict[tuple[str, int], int] = {}

    async def partitions(self, topic: str) -> int:
        return len(self._topics.get(topic, ()))

    async def create(self, topic: str, partitions: int, config: Mapping[str, str]) -> bool:
        if topic in self._topics:
            return False
        self._topics[topic] = [[] for _ in range(partitions)]
        return True

    async def append(self, topic: str, partition: int, value: bytes) -> int:
        return self.put(topic, partition, value, timestamp_ms=0)

    def put(self, topic: str, partition: int, value: bytes | None, timestamp_ms: int) -> int:
        """Append with a record time of the caller's choice, as a raw producer does."""
        records = self._topics[topic][partition]
        records.append(MemoryRecord(len(records), timestamp_ms, value))
        return len(records) - 1

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return self._starts.get((topic, partition), 0), len(self._topics[topic][partition])

    async def known_ms_ago(self, topic: str) -> int:
        return 0

    async def reader(self, topic: str, partition: int, offset: int) -> "MemoryReader":
        return MemoryReader(self, topic, partition, offset)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        self._starts[topic, partition] = max(before, self._starts.get((topic, partition), 0))

    def read(self, topic: str, partition: int, offset: int, records_max: int) -> Sequence[MemoryRecord]:
        records, start = self._topics[topic][partition], self._starts.get((topic, partition), 0)
        if not start <= offset <= len(records):
            raise PartitionHalted(
                cause=f"{topic}/{partition} holds offsets {start} to {len(records)}, but {offset} is next",
                remedy="Bring the records back.",
            )
        return records[offset : offset + records_max]


class MemoryReader:
    """Implements `ports.Reader`."""

    def __init__(self, log: MemoryLog, topic: str, partition: int, offset: int) -> None:
        self._log, self._topic, self._partition, self._position = log, topic, partition, offset

    @property
    def position(self) -> int:
        return self._position

    def seek(self, offset: int) -> None:
        self._position = offset

    async def read(self, records_max: int, timeout_ms: int) -> Sequence[MemoryRecord]:
        records = self._log.read(self._topic, self._partition, self._position, records_max)
        self._position += len(records)
        return records

    async def close(self) -> None:
        pass


class MemorySink:
    """Implements `ports.Sink`; keeps what a database would hold after its commits."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Position] = {}
        self.books: dict[tuple[str, str], Books] = {}
        self.dead_letters: list[dict[str, object]] = []
        self.partials: dict[str, list[dict[str, object]]] = {}
        self.losses: set[tuple[str, str, str]] = set()  # accepted: stage, partition, loss

    async def claim(self, stage: str, partition: str, first_offset: int) -> Claim:
        row = self.rows.get((stage, partition)) or Position(first_offset, first_offset, 0, 0, {})
        row = Position(row.next_offset, row.first_offset, row.epoch + 1, row.version, row.state)
        self.rows[stage, partition] = row
        return Claim(stage, partition, row)

    async def position(self, stage: str, partition: str) -> Position | None:
        return self.rows.get((stage, partition))

    async def positions(self, stages: Sequence[str]) -> Mapping[tuple[str, str], Position]:
        return {key: row for key, row in self.rows.items() if key[0] in stages}

    async def accepted(self, stage: str, partition: str) -> Collection[str]:
        return {loss for one, where, loss in self.losses if (one, where) == (stage, partition)}

    async def advance(self, claim: Claim, next_offset: int, state: Mapping[str, object], writes: Writes) -> Claim:
        row = self.rows[claim.stage, claim.partition]
        if (row.epoch, row.version) != (claim.position.epoch, claim.position.version):
            raise ClaimLost
        moved = claim.advanced(next_offset, json.loads(json.dumps(state)))  # as a database would keep it
        self.rows[claim.stage, claim.partition] = moved.position
        for books in writes.books:
            before = self.books.get((books.event, books.source), Books(books.event, books.source))
            self.books[books.event, books.source] = _added(before, books)
        if writes.dead_letters is not None:
            self.dead_letters += writes.dead_letters.to_dicts()
        for partials in writes.partials:
            self.partials.setdefault(partials.table, []).extend(partials.frame.to_dicts())
        return moved

    async def read_back(self, schema: Schema, wanted: pl.DataFrame) -> pl.DataFrame:
        keys = set(wanted.iter_rows())
        return _back_frame([row for key, row in self.latest(schema.table).items() if key in keys], schema)

    async def last_window_ms(self, schema: Schema) -> int | None:
        return max((window_ms for window_ms, _ in self.latest(schema.table)), default=None)

    async def not_final(
        self, schema: Schema, span: Span, partition: int, partitions: int, partials_max: int
    ) -> tuple[pl.DataFrame, Span | None]:
        latest = self.latest(schema.table)
        within = sorted((key for key in latest if (span.from_ms,) <= key < (span.to_ms, span.to_key)), reverse=True)
        scanned = within[:partials_max]
        rows = [latest[key] for key in scanned if key[1] % partitions == partition and not latest[key].get("final")]
        return _back_frame(rows, schema), Span(span.from_ms, *scanned[-1]) if scanned else None

    def latest(self, table: str) -> dict[tuple[int, int], dict[str, object]]:
        """Per (window_ms, tuple_key) the partial of the greatest revision."""
        latest: dict[tuple[int, int], dict[str, object]] = {}
        for row in self.partials.get(table, ()):
            key = int(str(row["window_ms"])), int(str(row["tuple_key"]))
            if key not in latest or int(str(row["revision"])) > int(str(latest[key]["revision"])):
                latest[key] = row
        return latest


def _back_frame(rows: Sequence[Mapping[str, object]], schema: Schema) -> pl.DataFrame:
    columns: dict[str, pl.DataType | type[pl.DataType]] = {"window_ms": pl.Int64, "tuple_key": pl.UInt128}
    columns |= dict.fromkeys(schema.tuple_columns, pl.String) | {"count": pl.Int64}
    columns |= {aggregate.name: pl.String for aggregate in schema.aggregates}
    return pl.DataFrame([{name: row.get(name) for name in columns} for row in rows], schema=columns)


def _added(before: Books, more: Books) -> Books:
    kinds = (*KINDS, "records")
    return Books(more.event, more.source, **{kind: getattr(before, kind) + getattr(more, kind) for kind in kinds})
