"""Every point where a stage waits for the outside, as an operation that the schedule lets happen, fail or hang.

A session is one run of `pipeline.drive`. Its log, sink and reader hand each call to the schedule as an `Operation` and
wait. So the schedule decides the order of everything, two sessions' awaits included, and the outcome of each: done,
failed before it took effect, failed after (a lost acknowledgement, an ambiguous commit), or still under way when the
caller has given up. The store is synchronous: it may fail before or after a write.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import polars as pl

from rollup_engine.dedup.memory import MemoryIds
from rollup_engine.errors import BrokerUnavailable, DatabaseUnavailable, RollupError
from rollup_engine.pipeline import StagePartition, drive
from rollup_engine.ports import Span
from rollup_engine.progress import Claim, Position, Writes
from rollup_engine.runtime.memory import MemoryLog, MemoryRecord, MemorySink
from rollup_engine.tables import Schema

Result = TypeVar("Result")
PARTIALS_MAX = 2  # read at once to finish closed windows: a crash in the middle is to happen
Fault = Literal["", "before", "after"]  # the write


class StoreFault(Exception):
    """The disk failed."""


@dataclass(eq=False)
class Operation:
    """Something a session waits for. `writes`: it has an effect that outlives a failed call."""

    what: str
    effect: Callable[[], object]
    done: asyncio.Future[object]
    writes: bool
    fault: type[RollupError]

    def happen(self) -> None:
        try:
            result = self.effect()
        except Exception as error:  # noqa: BLE001 - handed to whoever called
            self.done.set_exception(error)
        else:
            self.done.set_result(result)

    def fail(self) -> None:
        self.done.set_exception(self.fault(f"injected: {self.what}"))


class Session:
    """One worker's hold on one partition, until it ends by itself or is killed."""

    def __init__(self, name: str, generation: int, *, persists: bool) -> None:
        """`persists`: tries again after a fault of the sink, instead of ending."""
        self.name, self.generation, self.persists = name, generation, persists
        self.pending: list[Operation] = []
        self.stop = asyncio.Event()
        self.claim: Claim | None = None  # the latest it got
        self.task: asyncio.Task[None]
        self.reader: GatedReader

    def start(self, partition: StagePartition, reader: "GatedReader") -> None:
        self.reader = reader
        self.task = asyncio.create_task(drive(partition, reader, self.stop), name=self.name)

    async def operation(
        self, what: str, effect: Callable[[], object], *, writes: bool, fault: type[RollupError]
    ) -> object:
        operation = Operation(what, effect, asyncio.get_running_loop().create_future(), writes, fault)
        self.pending.append(operation)
        try:
            return await operation.done
        finally:
            self.pending.remove(operation)


class SimulatedLog(MemoryLog):
    """The brokers' log: knows what was ever read of it, and can lose the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.read_to: dict[tuple[str, int], int] = {}
        self._former: dict[tuple[str, int], list[bytes]] = {}  # of a topic's life before, up to where its readers go on

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(self._topics)

    def all(self, topic: str) -> range:
        """The partitions of a topic."""
        return range(len(self._topics[topic]))

    def values(self, topic: str, partition: int) -> list[bytes]:
        """All that was read, or will be."""
        former = self._former.get((topic, partition), [])
        return former + [record.value or b"" for record in self._topics[topic][partition][len(former) :]]

    def end(self, topic: str, partition: int) -> int:
        return len(self._topics[topic][partition])

    def remake(self, topic: str, positions: Sequence[int]) -> None:
        """Delete the topic and make it again, empty. `positions`: where its readers go on, per partition."""
        for partition, position in enumerate(positions):
            self._former[topic, partition] = self.values(topic, partition)[:position]
            self._starts.pop((topic, partition), None)
            self._topics[topic][partition] = []

    def lose_last(self, topic: str, partition: int) -> bool:
        """Lose the last record, acknowledged as it is, unless someone has read it."""
        records = self._topics[topic][partition]
        if len(records) <= self.read_to.get((topic, partition), 0):
            return False
        records.pop()
        return True


class GatedReader:
    """Implements `ports.Reader`; the schedule sets how many records the next read returns."""

    def __init__(self, session: Session, log: SimulatedLog, topic: str, partition: int) -> None:
        self._session, self._log, self._topic, self._partition = session, log, topic, partition
        self.position = 0
        self.next_read = 0  # records that the next read may return

    def seek(self, offset: int) -> None:
        self.position = offset

    @property
    def what(self) -> str:
        """How its operation is called."""
        return f"read {self._topic}/{self._partition}"

    @property
    def lag(self) -> int:
        return self._log.end(self._topic, self._partition) - self.position

    async def read(self, records_max: int, timeout_ms: int) -> Sequence[MemoryRecord]:
        records: list[MemoryRecord] = []
        await self._session.operation(
            self.what, lambda: records.extend(self._read()), writes=False, fault=BrokerUnavailable
        )
        return records

    def _read(self) -> Sequence[MemoryRecord]:
        records = self._log.read(self._topic, self._partition, self.position, self.next_read)
        self.position += len(records)
        where = self._topic, self._partition
        self._log.read_to[where] = max(self.position, self._log.read_to.get(where, 0))
        return records

    async def close(self) -> None:
        pass


class GatedLog:
    """Implements `ports.Log` for one session."""

    def __init__(self, session: Session, log: SimulatedLog) -> None:
        self._session, self._log = session, log

    async def partitions(self, topic: str) -> int:
        return await self._log.partitions(topic)

    async def create(self, topic: str, partitions: int, config: Mapping[str, str]) -> bool:
        return await self._log.create(topic, partitions, config)

    async def append(self, topic: str, partition: int, value: bytes) -> int:
        def effect() -> int:
            return self._log.put(topic, partition, value, timestamp_ms=0)

        offset = await self._session.operation(
            f"append to {topic}/{partition}", effect, writes=True, fault=BrokerUnavailable
        )
        assert isinstance(offset, int)
        return offset

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return await self._log.bounds(topic, partition)

    async def known_ms_ago(self, topic: str) -> int:
        return await self._log.known_ms_ago(topic)

    async def reader(self, topic: str, partition: int, offset: int) -> GatedReader:
        reader = GatedReader(self._session, self._log, topic, partition)
        reader.seek(offset)
        reader.next_read = 4
        return reader

    async def trim(self, topic: str, partition: int, before: int) -> None:
        await self._log.trim(topic, partition, before)


class GatedSink:
    """Implements `ports.Sink` for one session."""

    def __init__(self, session: Session, sink: MemorySink) -> None:
        self._session, self._sink = session, sink

    async def claim(self, stage: str, partition: str, first_offset: int) -> Claim:
        def effect() -> Claim:
            return _now(self._sink.claim(stage, partition, first_offset))

        claim = await self._session.operation(f"claim {stage}", effect, writes=True, fault=DatabaseUnavailable)
        assert isinstance(claim, Claim)
        self._session.claim = claim
        return claim

    async def position(self, stage: str, partition: str) -> Position | None:
        return await self._sink.position(stage, partition)

    async def positions(self, stages: Sequence[str]) -> Mapping[tuple[str, str], Position]:
        def effect() -> Mapping[tuple[str, str], Position]:
            return _now(self._sink.positions(stages))

        found = await self._session.operation("positions", effect, writes=False, fault=DatabaseUnavailable)
        assert isinstance(found, Mapping)
        return found

    async def accepted(self, stage: str, partition: str) -> Collection[str]:
        return await self._sink.accepted(stage, partition)

    async def advance(self, claim: Claim, next_offset: int, state: Mapping[str, object], writes: Writes) -> Claim:
        def effect() -> Claim:
            return _now(self._sink.advance(claim, next_offset, state, writes))

        what = f"advance {claim.stage} {claim.partition} to {next_offset}"
        while True:
            try:
                moved = await self._session.operation(what, effect, writes=True, fault=DatabaseUnavailable)
            except DatabaseUnavailable:
                if not self._session.persists:
                    raise
                # As the adapter does: read back whether it took place, otherwise try again with the same claim.
                moved = claim.advanced(next_offset, state)
                row = self._sink.rows[claim.stage, claim.partition]
                if (row.epoch, row.version) != (claim.position.epoch, moved.position.version):
                    continue
            assert isinstance(moved, Claim)
            return moved

    async def read_back(self, schema: Schema, wanted: pl.DataFrame) -> pl.DataFrame:
        def effect() -> pl.DataFrame:
            return _now(self._sink.read_back(schema, wanted))

        found = await self._session.operation("read back", effect, writes=False, fault=DatabaseUnavailable)
        assert isinstance(found, pl.DataFrame)
        return found

    async def last_window_ms(self, schema: Schema) -> int | None:
        def effect() -> int | None:
            return _now(self._sink.last_window_ms(schema))

        found = await self._session.operation("last window", effect, writes=False, fault=DatabaseUnavailable)
        assert found is None or isinstance(found, int)
        return found

    async def not_final(
        self, schema: Schema, span: Span, partition: int, partitions: int, partials_max: int
    ) -> tuple[pl.DataFrame, Span | None]:
        def effect() -> tuple[pl.DataFrame, Span | None]:
            return _now(self._sink.not_final(schema, span, partition, partitions, min(partials_max, PARTIALS_MAX)))

        found = await self._session.operation("not final", effect, writes=False, fault=DatabaseUnavailable)
        assert isinstance(found, tuple)
        return found


def _now(coroutine: Coroutine[None, None, Result]) -> Result:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise AssertionError("the memory sink waited for something")


class FaultyStore(MemoryIds):
    """One disk's remembered ids, which outlive the sessions that use them."""

    def __init__(self, fault: Callable[[], Fault]) -> None:
        """`fault`: asked at every write whether the disk fails."""
        super().__init__()
        self._fault = fault
        self.taken = False  # by a session, as RocksDB's lock

    def write(self, keys: Sequence[bytes], values: Sequence[bytes], position: int, incarnation: str) -> None:
        fault = self._fault()
        if fault == "before":
            raise StoreFault("before the write")
        super().write(keys, values, position, incarnation)
        if fault == "after":
            raise StoreFault("after the write")

    def close(self) -> None:
        self.taken = False

    def restore(self, image: MemoryIds) -> None:
        copy = image.copy()
        self.ids, self._position, self._incarnation = copy.ids, copy._position, copy._incarnation
