"""What the stages need from outside, as Protocols: a partitioned log, a fenced sink, the remembered ids.

Adapters live in `runtime`; the same contract tests run over every implementation of `Log`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from rollup_engine.progress import Claim, Position, Writes
from rollup_engine.tables import Schema

if TYPE_CHECKING:
    import polars as pl


class Record(Protocol):
    """One log record as read; aiokafka's `ConsumerRecord` is one, and what aiokafka makes it of: none is copied."""

    @property
    def offset(self) -> int: ...

    @property
    def timestamp(self) -> int:
        """The log's time for it, ms UTC."""
        ...

    @property
    def value(self) -> bytes | None:
        """None: a tombstone."""
        ...


class Unreadable(NamedTuple):
    """Among the records of a bucket: bytes that hold no event, which become a dead letter with this `reason`."""

    offset: int
    timestamp: int
    """Milliseconds UTC, as a record's."""
    value: bytes
    """What there is of it, for people to look at."""
    reason: str
    """One of UNREADABLE_REASONS."""
    detail: str
    """A sentence for people: what is wrong, and where."""


RECORD_TOO_LARGE: Final = "record_too_large"
MALFORMED_CSV: Final = "malformed_csv"
MALFORMED_PARQUET: Final = "malformed_parquet"
OBJECT_DAMAGED: Final = "object_damaged"
UNREADABLE_REASONS: Final = frozenset({RECORD_TOO_LARGE, MALFORMED_CSV, MALFORMED_PARQUET, OBJECT_DAMAGED})


class Reader(Protocol):
    """Reads one partition in order, from a position that `seek` sets."""

    @property
    def position(self) -> int:
        """The next offset to be read; above the last record's by the log's own control records."""
        ...

    def seek(self, offset: int) -> None: ...

    async def read(self, records_max: int, timeout_ms: int) -> Sequence[Record]:
        """Up to `records_max` records in offset order; empty after `timeout_ms` without any.

        Raises `PartitionHalted` where the position is no longer in the log: never skips on.
        """
        ...

    async def close(self) -> None:
        """Let go of what it holds; for a reader made by `Log.reader`."""
        ...


class Log(Protocol):
    """Partitioned, ordered, durable topics. `append` returns only when the record can no longer be lost."""

    async def partitions(self, topic: str) -> int:
        """Number of partitions; 0 where there is no such topic."""
        ...

    async def create(self, topic: str, partitions: int, config: Mapping[str, str]) -> bool:
        """Create the topic unless it is there. True where this call created it."""
        ...

    async def append(self, topic: str, partition: int, value: bytes) -> int:
        """Append and return the offset. Raises `BrokerUnavailable` when the outcome is unknown."""
        ...

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset still held, and the offset the next record will get."""
        ...

    async def known_ms_ago(self, topic: str) -> int:
        """How old what `bounds` says is: everything that was there so many ms ago is within them. 0 for a broker."""
        ...

    async def reader(self, topic: str, partition: int, offset: int) -> Reader: ...

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Let the log delete what lies below `before`. Best effort: a log that cannot, keeps it."""
        ...


class Span(NamedTuple):
    """Series of a table by window start and tuple key: from window `from_ms` on, and before (`to_ms`, `to_key`)."""

    from_ms: int
    to_ms: int
    to_key: int


class Sink(Protocol):
    """The authority on positions: one fenced row per stage and input partition, and what is written with it."""

    async def claim(self, stage: str, partition: str, first_offset: int) -> Claim:
        """Raise the epoch and become the only one who can advance; a new row starts at `first_offset`."""
        ...

    async def position(self, stage: str, partition: str) -> Position | None: ...

    async def positions(self, stages: Sequence[str]) -> Mapping[tuple[str, str], Position]:
        """All rows of these stages by (stage, partition), as of one instant."""
        ...

    async def accepted(self, stage: str, partition: str) -> Collection[str]:
        """The losses (`PartitionHalted.loss`) of a partition that an operator has accepted: it may go on without."""
        ...

    async def advance(self, claim: Claim, next_offset: int, state: Mapping[str, object], writes: Writes) -> Claim:
        """One transaction: the compare-and-set on the claim's row, and `writes`. Raises `ClaimLost`."""
        ...

    async def read_back(self, schema: Schema, wanted: pl.DataFrame) -> pl.DataFrame:
        """The latest partial of each (window_ms, tuple_key) in `wanted`, where there is one: window_ms, tuple_key,
        the tuple columns, count i64 and the aggregates as decimal text."""
        ...

    async def last_window_ms(self, schema: Schema) -> int | None:
        """The start of the last window of which the table has a partial, if it has any."""
        ...

    async def not_final(
        self, schema: Schema, span: Span, partition: int, partitions: int, partials_max: int
    ) -> tuple[pl.DataFrame, Span | None]:
        """Of the series in `span` with tuple_key % partitions = partition, the latest partials that are not final, in
        the shape of `read_back`; from the last series backwards, reading up to `partials_max` partials. And the span
        that remains to be read; None: nothing was left."""
        ...


class SeenIds(Protocol):
    """Remembered ids of one events partition; disposable, and never ahead of the sink's position."""

    @property
    def position(self) -> int:
        """The events offset up to which the ids were taken in."""
        ...

    @property
    def incarnation(self) -> str:
        """The incarnation of the events topic that `position` speaks of; empty for a new store."""
        ...

    def get(self, keys: list[bytes]) -> list[bytes | None]: ...

    def write(self, keys: Sequence[bytes], values: Sequence[bytes], position: int, incarnation: str) -> None:
        """Store ids (each key once, with its value) and position in one atomic write. Keys in order cost less."""
        ...

    async def flush(self) -> None:
        """Have on disk what was written so far, and room for what comes next; others work meanwhile."""
        ...

    def expire(self, before_ms: int, steps_max: int) -> int:
        """Look at up to `steps_max` ids in turn, delete those last seen before `before_ms`; returns how many."""
        ...

    def clear(self) -> None: ...

    def close(self) -> None: ...


class Stores(Protocol):
    """Where a process keeps the remembered ids of its events partitions."""

    def open(self, partition: int) -> SeenIds: ...

    def leave(self, partition: int, store: SeenIds) -> None:
        """Of a session that ended cleanly: to be written and closed as soon as nothing more urgent is to be done."""
        ...
