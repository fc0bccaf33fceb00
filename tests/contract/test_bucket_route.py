"""The route stage on a bucket: sessions, marks and quiet partitions where offsets are far apart."""

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from rollup_engine.buckets import ends, offsets
from rollup_engine.buckets.log import BucketLog
from rollup_engine.clock import ManualClock
from rollup_engine.config.model import Bucket, Config
from rollup_engine.errors import BrokerUnavailable
from rollup_engine.exchange import Marks
from rollup_engine.packing import unpack
from rollup_engine.progress import ROUTE
from rollup_engine.route.stage import RoutePartition
from rollup_engine.route.state import RouteState
from rollup_engine.runtime.memory import MemoryLog, MemorySink
from rollup_engine.topology import Topology, events_topic
from tests.contract.bucket_memory import MemoryLedger, MemoryStore
from tests.unit.route.specs import HOUR_MS, NOW_MS, event_type

BUCKET = Bucket(url="s3://test/", format="ndjson", poll_ms=1_000)
EVENTS, SOURCE = events_topic("app"), f"{BUCKET.topic}/0"
JUDGES = 3


async def no_other_config(generation: int) -> Config:
    raise LookupError(generation)


class Ledger(MemoryLedger):
    """With the time of route's clock."""

    def __init__(self, topic: str, clock: ManualClock) -> None:
        super().__init__(topic)
        self._clock = clock

    async def now_ms(self) -> int:
        return self._clock.now_ms()


class World:
    """A bucket whose partition 0 is routed, and an events topic."""

    def __init__(self) -> None:
        self.store, self.kafka = MemoryStore(), MemoryLog()
        self.sink, self.clock = MemorySink(), ManualClock(NOW_MS)
        self.ledger = Ledger(BUCKET.topic, self.clock)
        self.log = BucketLog(self.kafka, self.ledger, {BUCKET.topic: BUCKET}, lambda url: self.store)
        config = Config(events=(event_type(bucket=BUCKET),))
        self.topology = Topology("app", JUDGES, 1, {1: config}, {EVENTS: "life-1"}, {}, no_other_config)

    async def put(self, name: str, *ids: str) -> None:
        event = '{"id":"%s","at":"2022-08-14T15:14:31Z","customer":"c"}'
        self.store.put(name, "\n".join(event % one for one in ids).encode())
        await self.ledger.take_in(BUCKET.topic, self.store.listing())

    async def listed(self) -> None:
        """A complete listing, begun now."""
        await self.ledger.listed(BUCKET.topic, self.clock.now_ms())

    def quiet_ms(self) -> int:
        return RouteState(**self.sink.rows[ROUTE, SOURCE].state).quiet_ms  # type: ignore[arg-type]

    async def session(self, rows: int = 100) -> RoutePartition:
        """From the sink's position to the bucket's end."""
        partition = RoutePartition(self.topology, BUCKET.topic, 0, self.log, self.sink, self.clock, 5_000)
        reader = await self.log.reader(BUCKET.topic, 0, await partition.open())
        try:
            while reader.position < (await self.log.bounds(BUCKET.topic, 0))[1]:
                before = reader.position
                records = await reader.read(rows, 50)
                if reader.position != before:
                    await partition.process(records, reader.position)
        finally:
            await reader.close()
        return partition

    def taken(self) -> list[str]:
        """Ids that dedup takes in of all that was sent: each partition by its mark, and without a hole."""
        found: list[str] = []
        for number in range(JUDGES):
            marks = Marks({SOURCE: 0})
            for record in self.kafka.read(EVENTS, number, 0, 10_000):
                packed = unpack(record.value or b"")
                taken = marks.take(packed.source, packed.start, packed.end)
                assert taken is not None, "a hole"
                for frame in packed.tables.values():
                    found += [row["id"] for row in frame.iter_rows(named=True) if row["offset"] >= taken.cut]
        return sorted(found)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(ends, "ASK_SECONDS", 0.0)
    made = World()
    await made.kafka.create(EVENTS, JUDGES, {})
    yield made
    await made.log.close()


async def test_what_was_sent_and_not_advanced_is_cut_by_the_marks(world: World) -> None:
    for number in range(6):
        await world.put(f"{number}", *(f"{number}-{line}" for line in range(5)))
    advance, calls = world.sink.advance, 0

    async def dies(*args: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise BrokerUnavailable
        return await advance(*args, **more)  # type: ignore[arg-type]

    world.sink.advance = dies  # type: ignore[assignment]
    for rows in 10 * (2, 3, 1, 4):
        with suppress(BrokerUnavailable):
            await world.session(rows)
    assert calls > 10
    assert world.sink.rows[ROUTE, SOURCE].next_offset == offsets.after(4)
    assert world.taken() == sorted(f"{number}-{line}" for number in (0, 4) for line in range(5))
    assert world.ledger.rows[4].object.outcome == "read"


async def test_an_object_may_be_deleted_once_it_is_read(world: World) -> None:
    await world.put("a", "1", "2")
    await world.session()
    del world.store.objects["a"]
    partition = await world.session()
    await partition.tick()
    assert world.ledger.rows[0].object.outcome == "read"
    assert world.taken() == ["1", "2"]


async def test_a_partition_of_which_everything_is_read_is_quiet_in_the_end(world: World) -> None:
    await world.put("a", "1")
    partition = await world.session()
    world.clock.advance(2 * HOUR_MS)
    await world.listed()
    await partition.tick()
    assert world.quiet_ms() >= HOUR_MS


async def test_nobody_is_quiet_while_the_bucket_is_not_listed(world: World) -> None:
    """What came into it since the last complete listing began may be of any event time."""
    await world.put("a", "1")
    await world.listed()
    partition = await world.session()
    world.clock.advance(HOUR_MS - 1)
    await world.listed()
    world.clock.advance(2 * HOUR_MS)
    await partition.tick()
    assert world.quiet_ms() == 0
    await world.listed()
    world.clock.advance(5)
    await partition.tick()
    assert world.quiet_ms() == 3 * HOUR_MS - 1


async def test_a_partition_with_something_left_to_read_is_not_quiet(world: World) -> None:
    await world.put("a", "1")
    partition = RoutePartition(world.topology, BUCKET.topic, 0, world.log, world.sink, world.clock, 5_000)
    await partition.open()
    world.clock.advance(2 * HOUR_MS)
    await partition.tick()
    assert world.quiet_ms() == 0
