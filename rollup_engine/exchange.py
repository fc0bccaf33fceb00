"""Rule 1: the hand-over between two stages, without Kafka transactions.

A flush of a sender writes one packed record (or several, where one would be too large) to every destination
partition, rows or not. A record names its source partition and covers source offsets [start, end); every row carries
its own source offset in the column `offset`. The receiver keeps a mark per source, the next offset it expects. So
repeats after a crash, batches cut differently the second time, zombies and lost acknowledgements are all harmless.
This module never reads a clock and never drops a row that is not below the mark.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from rollup_engine.errors import BrokerUnavailable, PartitionHalted
from rollup_engine.packing import KEYS, REST, TEXT, Packed, pack, unpack
from rollup_engine.ports import Log

HOLE_MS_MAX = 60_000
NO_CLOCK_MS = -1
WAITING_ROWS_MAX = 1_000_000  # behind a hole, in memory


async def read_range(
    log: Log,
    topic: str,
    partition: int,
    start: int,
    end: int,
    records_max: int = 32,
    wanted: Collection[str] = (KEYS, REST, TEXT),
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
            read = [(record.offset, unpack(record.value or b"", wanted)) for record in records if record.offset < end]
            yield [(offset, replace(packed, value=b"")) for offset, packed in read]  # many are kept in memory
    finally:
        await reader.close()


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
