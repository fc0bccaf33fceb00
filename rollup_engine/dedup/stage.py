"""The dedup stage on one events partition: judge, send deltas, advance, remember.

    1 judge the batch          pure, `deduplicator`
    2 send the deltas          to every partition of every rollup's deltas topic, all acknowledged
    3 advance in the sink      next offset, marks, books and dead letters, in one transaction
    4 remember in the store    ids and position in one write

The store is written last, so it is never ahead of the sink. After a crash it is behind, or gone, and is brought up
from the events topic, judging nothing, before the first record is judged.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest

import msgspec
import polars as pl
import structlog

from rollup_engine import exchange, injection, keys
from rollup_engine.clock import Clock
from rollup_engine.config.model import Config
from rollup_engine.dedup.deduplicator import DedupState, deduplicate, remember
from rollup_engine.dedup.rebuilding import RebuildLookup
from rollup_engine.dedup.verdicts import Lookup, Puts
from rollup_engine.errors import PartitionHalted
from rollup_engine.exchange import Marks
from rollup_engine.packing import KEYS, REST, Packed, unpack
from rollup_engine.ports import Log, Record, SeenIds, Sink, Stores
from rollup_engine.progress import DEDUP, ROUTE, Claim
from rollup_engine.topology import (
    INTERNAL_REMEDY,
    Topology,
    check_held,
    check_last,
    deltas_topic,
    events_topic,
    source_name,
    split_source,
)

log = structlog.get_logger(__name__)
BATCH_ROWS_MAX = 25_000  # judged at a stretch: nothing else of the process runs meanwhile, heartbeats neither
REBUILD_ROWS = 500_000  # the more ids in order at once, the less each costs; some 100 MB, and half a second
THREAD_ROWS_MIN = 100_000
REBUILD_RECORDS = 10_000  # of senders that are idle, and have no rows
_judge = ThreadPoolExecutor(1, "judge")  # of a rebuild, one batch after the other: each takes some 100 MB
_EXPIRE_STEPS_PER_PUT = 2  # the round over the store keeps pace with its growth


class DedupPartition:
    """Implements `pipeline.StagePartition`."""

    stage = DEDUP
    records_max = 256  # small ones, of senders that have little; of large ones a fetch holds fewer
    pause_seconds = 0.2  # a batch takes some 6 ms whatever its rows

    def __init__(
        self,
        topology: Topology,
        partition: int,
        log: Log,
        sink: Sink,
        clock: Clock,
        stores: Stores,
        idle_ms: int,
    ) -> None:
        self._topology, self._partition = topology, partition
        self._log, self._sink, self._clock, self._idle_ms = log, sink, clock, idle_ms
        self._stores = stores
        self._topic = events_topic(topology.app_id)
        self.source = source_name(self._topic, partition)
        self._incarnation = topology.incarnations[self._topic]
        self._sent_ms = clock.elapsed_ms()
        self._claim: Claim
        self._store: SeenIds | None = None
        self._state = DedupState()
        self._marks = Marks({})
        self._raw: frozenset[str] = frozenset()

    async def open(self) -> int:
        self._topology.check_partition(self._topic, self._partition)
        self._claim = await self._sink.claim(DEDUP, self.source, 0)
        start, end = await self._log.bounds(self._topic, self._partition)  # as of the claim: nobody else moves now
        self._state = msgspec.convert(self._claim.position.state, DedupState)
        self._topology.check_generation(self._state.generation)
        self._marks = Marks(self._state.marks)
        check_held(self.source, self._claim.next_offset, start, end)
        self._raw = await self._raw_sources()
        self._store = self._stores.open(self._partition)
        await self._catch_up(self._store, start)
        return self._claim.next_offset

    async def _raw_sources(self) -> frozenset[str]:
        topics = self._topology.config.topics
        return frozenset(
            [source_name(topic, number) for topic in topics for number in range(await self._log.partitions(topic))]
        )

    async def _catch_up(self, store: SeenIds, log_start: int) -> None:
        """Bring the store to the sink's position from the log, judging nothing."""
        to = self._claim.next_offset
        if store.incarnation != self._incarnation and store.incarnation:
            # Another life of the events topic, taken over on purpose: ids are kept, the position means nothing now.
            store.write([], [], 0, self._incarnation)
        if store.position > to:  # the sink was set back, by a restored backup: the store knows too much
            store.clear()
        if log_start <= self._state.last_offset and store.position < to:
            last = self._state.last_offset, self._state.last_crc
            await check_last(self._log, self._topic, self._partition, *last, INTERNAL_REMEDY)
        lacking = store.position < log_start
        if lacking:
            await self._check_lost(store.position, log_start)
        position = max(store.position, log_start)
        lookup: Lookup = store.get if store.incarnation or position >= to else RebuildLookup(store.get)
        waiting: list[tuple[int, Packed]] = []
        rows = 0
        async for records in exchange.read_range(
            self._log, self._topic, self._partition, position, to, self.records_max, (KEYS,)
        ):
            waiting += records
            rows += sum(packed.rows for _, packed in records)
            if rows >= REBUILD_ROWS or len(waiting) >= REBUILD_RECORDS:
                await self._remember(store, waiting, lookup)
                await store.flush()  # not faster than the disk keeps up
                waiting, rows = [], 0
        await self._remember(store, waiting, lookup)
        if lacking:
            await store.flush()  # or the next crash would find it lacking again

    async def _remember(self, store: SeenIds, records: list[tuple[int, Packed]], lookup: Lookup) -> None:
        for batch in _batches(records, REBUILD_ROWS):
            config = await self._topology.config_of(batch[0][1].generation)
            position = batch[-1][0] + 1  # in one write with the ids: taken in twice, their order would be another
            puts = await _beside_others([packed for _, packed in batch], config, lookup)
            store.write(*puts, position, self._incarnation)

    async def _check_lost(self, wanted: int, log_start: int) -> None:
        """What the store lacks and the log no longer holds must be too old to tell a repeat by."""
        to, unseen = self._claim.next_offset, dict(self._state.clocks)
        lost_ms = -1
        async for records in exchange.read_range(self._log, self._topic, self._partition, log_start, to, wanted=()):
            for _, packed in records:
                known = packed.clock_ms > 0 and unseen.pop(packed.source, None) is not None
                if known and packed.start > await self._first_mark(packed.source):
                    lost_ms = max(lost_ms, packed.clock_ms)  # what is gone of this source came before
            if not unseen:
                break
        lost_ms = max([lost_ms, *unseen.values()])
        horizon_ms = max(event.horizon_ms for event in self._topology.config.events)
        needed_ms = self._state.expired_before_ms(horizon_ms, self._raw & self._state.clocks.keys())
        loss = f"ids before events offset {to}"
        if not self._state.clocks or (needed_ms is not None and lost_ms < needed_ms):
            return
        if loss not in await self._sink.accepted(DEDUP, self.source):
            raise PartitionHalted(
                cause=f"the remembered ids of {self.source} are not on this machine, and cannot be rebuilt in full: the"
                f" topic is needed from offset {wanted} on, and holds it from {log_start} on. Repeats of what is gone"
                " would be counted again",
                remedy="Bring the state directory back, or let the worker run that has it; and set the topic's"
                " `retention.ms` as documented. Or go on with the ids there are by `rollup-engine accept-loss"
                f" {self.source}`.",
                loss=loss,
            )

    async def process(self, records: Sequence[Record], position: int) -> None:
        unpacked = [(record.offset, unpack(record.value or b"", (KEYS, REST))) for record in records]
        for _, packed in unpacked:
            self._topology.check(self._topic, packed)
            if packed.source not in self._marks.by_source:
                self._marks.by_source[packed.source] = await self._first_mark(packed.source)
                if split_source(packed.source)[0] in self._topology.config.topics:  # a raw partition that was added
                    self._raw |= {packed.source}
        ready, position = self._marks.admit(unpacked, position)
        batches = _batches(ready)
        for batch, after in zip_longest(batches, batches[1:]):
            await self._process(batch, batch[0][1].generation, position if after is None else after[0][0])

    async def _first_mark(self, source: str) -> int:
        """A mark begins at the sender's first position, which the sink holds before the first record is sent."""
        sender = await self._sink.position(ROUTE, source)
        if sender is None:
            raise PartitionHalted(
                cause=f"{self.source} holds records of {source}, of which the database knows nothing",
                remedy="Use the database that belongs to this Kafka, or start under a new ROLLUP_APP_ID.",
            )
        return sender.first_offset

    async def _process(self, batch: list[tuple[int, Packed]], generation: int, position: int) -> None:
        assert self._store is not None
        config = await self._topology.config_of(generation)
        outcome = deduplicate(self._state, self._marks, batch, config, self._store.get)
        for rollup in config.rollups:
            frame = outcome.deltas.get(rollup.table)
            tables = {}
            if frame is not None:
                parts = keys.spread(frame, keys.partition_of("tuple_key", self._topology.partitions))
                tables = {to: {rollup.table: part} for to, part in parts.items()}
            # From where it was told last: while no YAML declared it, there was nothing for it.
            await self._send(rollup.table, generation, self._state.covered.get(rollup.table, 0), position, tables)
        injection.passing("dedup.sent")
        covered = {**self._state.covered, **{rollup.table: position for rollup in config.rollups}}
        after = msgspec.structs.replace(outcome.state, generation=generation, covered=covered)
        state: dict[str, object] = msgspec.to_builtins(after)
        self._claim = await self._sink.advance(self._claim, position, state, outcome.writes)
        self._state = after
        injection.passing("dedup.advanced")
        self._store.write(*outcome.puts, position, self._incarnation)
        injection.passing("dedup.stored")
        horizon_ms = max(event.horizon_ms for event in config.events)
        before_ms = outcome.state.expired_before_ms(horizon_ms, self._raw)
        if before_ms is not None and outcome.puts[0]:
            self._store.expire(before_ms, _EXPIRE_STEPS_PER_PUT * len(outcome.puts[0]))

    async def _send(
        self, table: str, generation: int, start: int, end: int, tables: dict[int, dict[str, pl.DataFrame]]
    ) -> None:
        topic = deltas_topic(self._topology.app_id, table)
        covers = Packed(
            incarnation=self._topology.incarnations[topic],
            generation=generation,
            source=self.source,
            start=start,
            end=end,
            clock_ms=0,
        )
        await exchange.send_to_all(self._log, topic, self._topology.partitions, covers, tables)
        self._sent_ms = self._clock.elapsed_ms()

    async def tick(self) -> int:
        if self._clock.elapsed_ms() - self._sent_ms >= self._idle_ms:
            for table, covered in sorted(self._state.covered.items()):
                await self._send(table, self._state.generation, covered, covered, {})
            self._sent_ms = self._clock.elapsed_ms()
        self._marks.watch(self.source, self._clock.elapsed_ms())
        return self._sent_ms + self._idle_ms - self._clock.elapsed_ms()

    async def close(self) -> None:
        if self._store is not None:
            self._stores.leave(self._partition, self._store)
            self._store = None

    @property
    def held_up(self) -> bool:
        return self._marks.behind_a_hole

    def release(self) -> None:
        if self._store is not None:
            self._store.close()


async def _beside_others(records: Sequence[Packed], config: Config, lookup: Lookup) -> Puts:
    """`remember`, in a thread where it is worth one: most of it is done outside of Python, and it is other partitions'
    turn meanwhile. What has begun is waited for, however often we are cancelled: its store is closed next."""
    if sum(packed.rows for packed in records) < THREAD_ROWS_MIN:
        return remember(records, config, lookup)
    job = _judge.submit(remember, records, config, lookup)
    judging = asyncio.wrap_future(job)
    cancelled: asyncio.CancelledError | None = None
    while not judging.done():
        try:
            await asyncio.wait((judging,))
        except asyncio.CancelledError as again:
            if job.cancel():  # it had not begun
                raise
            cancelled = again
    if cancelled is not None:
        raise cancelled
    return judging.result()


def _batches(records: Sequence[tuple[int, Packed]], rows_max: int = BATCH_ROWS_MAX) -> list[list[tuple[int, Packed]]]:
    """Runs of (offset, record) of one generation, and of so many rows at most where a record alone has not more."""
    batches: list[list[tuple[int, Packed]]] = []
    rows = 0
    for one in records:
        rows += one[1].rows
        if not batches or one[1].generation != batches[-1][-1][1].generation or rows > rows_max:
            batches.append([])
            rows = one[1].rows
        batches[-1].append(one)
    return batches
