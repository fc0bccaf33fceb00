"""Rule 1: the hand-over between two stages, without Kafka transactions.

A flush of a sender writes one packed record (or several, where one would be too large) to every destination
partition, rows or not. A record names its source partition and covers source offsets [start, end); every row carries
its own source offset in the column `offset`. The receiver keeps a mark per source, the next offset it expects. So
repeats after a crash, batches cut differently the second time, zombies and lost acknowledgements are all harmless.
This module never reads a clock and never drops a row that is not below the mark.
"""

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import polars as pl

from rollup_engine.errors import BrokerUnavailable, PartitionHalted
from rollup_engine.ports import Log

VERSION = 1
RECORD_BYTES_MAX = 900_000  # below Kafka's default limit of 1 MiB a record
RECORD_ROWS_MAX = 8_000  # what one record comes to in the next stage cannot be cut: it must fit a record there too
HOLE_MS_MAX = 60_000
NO_CLOCK_MS = -1
WAITING_ROWS_MAX = 1_000_000  # behind a hole, in memory
_PREFIX = struct.Struct(">BI")  # version, CRC-32 of all that follows: Arrow's reader trusts what it is given
_LENGTH = struct.Struct(">I")  # of the header
Columns = Callable[[str], list[str] | None]  # those wanted of a table; None: all


class _Header(msgspec.Struct, array_like=True):
    incarnation: str
    generation: int
    source: str
    start: int
    end: int
    clock_ms: int
    tables: list[tuple[str, int]]


@dataclass(frozen=True)
class Packed:
    """What one sender hands to one destination for source offsets [start, end)."""

    incarnation: str  # of the topic that carries it
    generation: int  # the YAML under which later stages evaluate it
    source: str
    start: int
    end: int
    clock_ms: int  # running maximum of the raw records' time up to `end`, 0: not told; NO_CLOCK_MS: no raw source
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    checksum: int = 0  # CRC-32 of the record's bytes, where whoever read it wants to know it again

    @property
    def rows(self) -> int:
        return sum(frame.height for frame in self.tables.values())


def pack(packed: Packed, bytes_max: int = RECORD_BYTES_MAX) -> list[bytes]:
    """The record's bytes; several that cover the same range in turn where one would have too many bytes or rows."""
    value = _encoded(packed) if packed.rows <= RECORD_ROWS_MAX else b""
    middle = None if value and len(value) <= bytes_max else _middle(packed)
    if middle is None:  # it fits; or one source record's rows alone: nothing to cut
        return [value or _encoded(packed)]
    below, above = pl.col("offset") < middle, pl.col("offset") >= middle
    # The clock is known at the end only; taken for the middle's, it would age what the second part still needs.
    first = replace(packed, end=middle, clock_ms=min(0, packed.clock_ms))
    first = replace(first, tables={n: f.filter(below) for n, f in packed.tables.items()})
    second = replace(packed, start=middle, tables={n: f.filter(above) for n, f in packed.tables.items()})
    return pack(first, bytes_max) + pack(second, bytes_max)


def _encoded(packed: Packed) -> bytes:
    bodies: list[bytes] = []
    names: list[tuple[str, int]] = []
    for name, frame in packed.tables.items():
        if frame.height:
            buffer = io.BytesIO()
            frame.write_ipc_stream(buffer, compression="zstd")  # two fifths smaller than with lz4, for as much CPU
            bodies.append(buffer.getvalue())
            names.append((name, len(bodies[-1])))
    header = msgspec.msgpack.encode(
        _Header(
            packed.incarnation,
            packed.generation,
            packed.source,
            packed.start,
            packed.end,
            packed.clock_ms,
            names,
        )
    )
    content = b"".join((_LENGTH.pack(len(header)), header, *bodies))
    return _PREFIX.pack(VERSION, zlib.crc32(content)) + content


def _middle(packed: Packed) -> int | None:
    columns = [frame["offset"] for frame in packed.tables.values() if frame.height]
    offsets = pl.concat(columns or [pl.Series(dtype=pl.Int64)]).unique().sort()
    return int(offsets[offsets.len() // 2]) if offsets.len() > 1 else None


def unpack(value: bytes, columns: Columns = lambda table: None) -> Packed:
    """The inverse of `pack`; of each table, these columns. Raises `PartitionHalted` for bytes that no sender of this
    version wrote."""
    try:
        version, checksum = _PREFIX.unpack_from(value)
        if version != VERSION or checksum != zlib.crc32(memoryview(value)[_PREFIX.size :]):
            raise _foreign(value)
        start = _PREFIX.size + _LENGTH.size
        body = start + _LENGTH.unpack_from(value, _PREFIX.size)[0]
        header = msgspec.msgpack.decode(value[start:body], type=_Header)
        tables = {}
        for name, size in header.tables:
            tables[name] = pl.read_ipc_stream(io.BytesIO(value[body : body + size]), columns=columns(name))
            body += size
    except (struct.error, msgspec.MsgspecError, pl.exceptions.PolarsError, OSError) as error:
        raise _foreign(value) from error
    return Packed(
        header.incarnation,
        header.generation,
        header.source,
        header.start,
        header.end,
        header.clock_ms,
        tables,
    )


async def read_range(
    log: Log,
    topic: str,
    partition: int,
    start: int,
    end: int,
    records_max: int = 32,
    columns: Columns = lambda table: None,
) -> AsyncIterator[list[tuple[int, Packed]]]:
    """(offset, record) of what a partition holds in [start, end), in batches. Raises `BrokerUnavailable`."""
    if start >= end:
        return
    reader = await log.reader(topic, partition, start)
    try:
        while reader.position < end:
            before = reader.position
            records = await reader.read(records_max, 5_000)
            if reader.position == before:
                raise BrokerUnavailable(
                    f"Kafka did not show what it holds of {topic}/{partition} from offset {before}."
                )
            yield [(record.offset, unpack(record.value or b"", columns)) for record in records if record.offset < end]
    finally:
        await reader.close()


def _foreign(value: bytes | None) -> PartitionHalted:
    return PartitionHalted(
        cause=f"an internal topic holds a record that this engine did not write ({(value or b'')[:16]!r}…)",
        remedy="let nothing else write to internal topics; if a newer engine wrote it, run that version",
    )


@dataclass(frozen=True)
class Taken:
    """The receiver's verdict on one record: rows with an offset of `cut` or more are new."""

    cut: int
    mark: int


def accept(mark: int, start: int, end: int) -> Taken | None:
    """What to take of a record that covers [start, end), given the mark; None: a hole lies before it."""
    if start > mark:
        return None
    return Taken(cut=mark, mark=max(mark, end))


async def send_to_all(
    log: Log, topic: str, partitions: int, covers: Packed, tables: Mapping[int, Mapping[str, pl.DataFrame]]
) -> None:
    """One flush: to every destination partition a record like `covers` with that partition's tables, rows or not."""
    await send(log, topic, {to: pack(replace(covers, tables=tables.get(to, {}))) for to in range(partitions)})


async def send(log: Log, topic: str, records: Mapping[int, Sequence[bytes]]) -> None:
    """Append each destination's records in order, one unacknowledged at a time, all destinations side by side.

    Returns when all are acknowledged. At the first failure the session ends: what was sent stays, marks sort it out.
    """

    async def to_one(partition: int, values: Sequence[bytes]) -> None:
        for value in values:
            await log.append(topic, partition, value)

    try:
        async with asyncio.TaskGroup() as group:
            for partition, values in records.items():
                group.create_task(to_one(partition, values))
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


class Marks:
    """The receiver's marks, and the records that wait until a hole before them is closed.

    Nothing is taken past an open hole, so that what a record comes to depends on the log alone, not on restarts.
    """

    def __init__(self, marks: Mapping[str, int]) -> None:
        self.by_source: dict[str, int] = dict(marks)
        self._refused: dict[str, int] = {}  # source -> greatest end refused: so far must its mark come
        self._waiting: list[tuple[int, Packed]] = []
        self._holes: dict[str, int] = {}  # source -> first offset missing, before those that wait
        self._open_since_ms: int | None = None

    def take(self, source: str, start: int, end: int) -> Taken | None:
        """What to take of a record; None where it lies behind a hole, and nothing of it may be applied."""
        taken = accept(self.by_source[source], start, end)
        if taken is None:
            self._refused[source] = max(end, self._refused.get(source, end))
            return None
        self.by_source[source] = taken.mark
        if taken.mark >= self._refused.get(source, taken.mark):
            self._refused.pop(source, None)
        return taken

    def admit(self, records: Sequence[tuple[int, Packed]], position: int) -> tuple[list[tuple[int, Packed]], int]:
        """Those of the records waiting and now read that leave no hole open once taken, and the position after them.

        `records`: (log offset, record), read up to `position`. Every source must have a mark.
        """
        self._waiting += records
        ahead, whole = Marks(self.by_source), 0
        for number, (_, packed) in enumerate(self._waiting, 1):
            ahead.take(packed.source, packed.start, packed.end)
            if not ahead._refused:
                whole = number
        ready, self._waiting = self._waiting[:whole], self._waiting[whole:]
        self._holes = {source: ahead.by_source[source] for source in sorted(ahead._refused)}
        return ready, self._waiting[0][0] if self._waiting else position

    @property
    def behind_a_hole(self) -> bool:
        """Whether records wait until a hole before them is closed."""
        return bool(self._holes)

    def watch(self, where: str, elapsed_ms: int) -> None:
        """Call regularly with a clock's elapsed time: a hole that stays open is an alarm. Raises `PartitionHalted`."""
        if not self._holes:
            self._open_since_ms = None
            return
        if self._open_since_ms is None:
            self._open_since_ms = elapsed_ms
        waiting = sum(packed.rows for _, packed in self._waiting)
        if elapsed_ms - self._open_since_ms > HOLE_MS_MAX or waiting > WAITING_ROWS_MAX:
            holes = "; ".join(f"{source} from offset {mark}" for source, mark in self._holes.items())
            raise PartitionHalted(
                cause=f"{where} lacks records that were acknowledged: {holes}",
                remedy="The broker lost data. Restore the topic, or start under a new ROLLUP_APP_ID.",
            )
