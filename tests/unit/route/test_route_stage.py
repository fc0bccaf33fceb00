"""The route stage over the memory log: what it covers, when it advances, and when it must not read on."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import pytest

from rollup_engine.clock import ManualClock
from rollup_engine.config.model import Config
from rollup_engine.errors import BrokerUnavailable, ClaimLost, PartitionHalted
from rollup_engine.exchange import Packed, unpack
from rollup_engine.progress import ROUTE
from rollup_engine.route.router import NO_WATERMARK_MS, RouteState
from rollup_engine.route.stage import RoutePartition
from rollup_engine.runtime.memory import MemoryLog, MemoryReader, MemoryRecord, MemorySink
from rollup_engine.topology import Topology, events_topic
from tests.unit.route.specs import event_type

NOW_MS = 1_660_490_071_132
IDLE_MS = 5_000
EVENTS = events_topic("app")


async def no_other_config(generation: int) -> Config:
    raise LookupError(generation)


class World:
    """One raw partition and an events topic of three."""

    def __init__(self) -> None:
        self.log, self.sink, self.clock = MemoryLog(), MemorySink(), ManualClock(NOW_MS)
        config = Config(events=(event_type(),))
        self.topology = Topology("app", 3, 1, {1: config}, {EVENTS: "life-1"}, {}, no_other_config)

    async def start(self) -> World:
        await self.log.create("raw", 1, {})
        await self.log.create(EVENTS, 3, {})
        return self

    def produce(self, *ids: str) -> None:
        for one in ids:
            value = b'{"id":"%s","at":"2022-08-14T15:14:31Z","customer":"c"}' % one.encode()
            self.log.put("raw", 0, value, NOW_MS)

    def partition(self) -> RoutePartition:
        return RoutePartition(self.topology, "raw", 0, self.log, self.sink, self.clock, IDLE_MS)

    async def route(self, partition: RoutePartition, offset: int, count: int = 100) -> None:
        reader = await self.log.reader("raw", 0, offset)
        await partition.process(await reader.read(count, 0), reader.position)

    def sent(self) -> list[list[Packed]]:
        """Per events partition, in order."""
        return [[unpack(record.value or b"") for record in self.log.read(EVENTS, p, 0, 1_000)] for p in range(3)]

    def ids(self) -> list[str]:
        frames = [frame for records in self.sent() for packed in records for frame in packed.tables.values()]
        return sorted(one for frame in frames for one in frame["id"])


@pytest.fixture
async def world() -> World:
    return await World().start()


async def test_a_flush_covers_its_range_in_every_events_partition_rows_or_not(world: World) -> None:
    world.produce("a", "b")
    partition = world.partition()
    await world.route(partition, await partition.open())
    for records in world.sent():
        (packed,) = records
        assert (packed.source, packed.start, packed.end) == ("raw/0", 0, 2)
        assert (packed.incarnation, packed.generation, packed.clock_ms) == ("life-1", 1, NOW_MS)
    assert world.ids() == ["a", "b"]
    position = await world.sink.position(ROUTE, "raw/0")
    assert position is not None
    assert position.next_offset == 2


async def test_the_next_session_goes_on_with_position_and_state(world: World) -> None:
    world.produce("a", "b", "c")
    partition = world.partition()
    await world.route(partition, await partition.open(), count=2)
    again = world.partition()
    offset = await again.open()
    assert offset == 2
    await world.route(again, offset)
    assert [(packed.start, packed.end) for packed in world.sent()[0]] == [(0, 2), (2, 3)]
    position = await world.sink.position(ROUTE, "raw/0")
    assert position is not None
    assert (position.state["records"], position.state["received"]) == (3, {"download": 3})


async def test_what_was_sent_and_not_advanced_is_sent_again(world: World) -> None:
    world.produce("a", "b")
    partition = world.partition()
    offset = await partition.open()
    await world.partition().open()  # another worker claims
    with pytest.raises(ClaimLost):
        await world.route(partition, offset)
    assert world.ids() == ["a", "b"]
    heir = world.partition()
    assert await heir.open() == 0
    await world.route(heir, 0)
    assert world.ids() == ["a", "a", "b", "b"]
    assert all([(packed.start, packed.end) for packed in records] == [(0, 2)] * 2 for records in world.sent())


async def test_a_failed_send_advances_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.produce("a")
    partition = world.partition()
    offset = await partition.open()

    async def unreachable(topic: str, partition: int, value: bytes) -> int:
        raise BrokerUnavailable

    monkeypatch.setattr(world.log, "append", unreachable)
    with pytest.raises(BrokerUnavailable):
        await world.route(partition, offset)
    position = await world.sink.position(ROUTE, "raw/0")
    assert position is not None
    assert position.next_offset == 0


async def test_an_idle_sender_sends_an_empty_record_now_and_then(world: World) -> None:
    world.produce("a")
    partition = world.partition()
    await world.route(partition, await partition.open())
    await partition.tick()
    assert [len(records) for records in world.sent()] == [1, 1, 1]
    for beat in (2, 3):
        world.clock.advance(IDLE_MS)
        await partition.tick()
        await partition.tick()
        assert [len(records) for records in world.sent()] == [beat] * 3
    last = world.sent()[0][-1]
    assert (last.start, last.end, last.rows, last.clock_ms) == (1, 1, 0, NOW_MS)


async def test_a_topic_made_again_stops_the_partition(world: World) -> None:
    world.produce("a", "b")
    partition = world.partition()
    await world.route(partition, await partition.open())
    remade = await World().start()
    remade.sink = world.sink
    with pytest.raises(PartitionHalted, match="was made again"):
        await remade.partition().open()  # shorter than the position
    remade.produce("a", "x", "c")
    with pytest.raises(PartitionHalted, match="another record at offset 1"):
        await remade.partition().open()


async def test_records_gone_before_they_were_read_stop_the_partition(world: World) -> None:
    world.produce("a", "b", "c")
    partition = world.partition()
    await world.route(partition, await partition.open(), count=1)
    await world.log.trim("raw", 0, 2)
    with pytest.raises(PartitionHalted, match="records 1 to 1 are gone"):
        await world.partition().open()


async def test_records_gone_after_they_were_read_are_no_matter(world: World) -> None:
    world.produce("a", "b")
    partition = world.partition()
    await world.route(partition, await partition.open())
    await world.log.trim("raw", 0, 2)
    assert await world.partition().open() == 2


async def test_the_last_record_is_not_taken_for_checked_while_it_does_not_show(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.produce("a", "b")
    partition = world.partition()
    await world.route(partition, await partition.open())

    async def slow(self: MemoryReader, records_max: int, timeout_ms: int) -> Sequence[MemoryRecord]:
        return []

    monkeypatch.setattr(MemoryReader, "read", slow)
    with pytest.raises(BrokerUnavailable, match="offset 1 of raw/0"):
        await world.partition().open()


async def test_the_sinks_row_is_there_before_the_first_record_is_sent(world: World) -> None:
    """Marks begin at the sender's first position: the first offset that the raw topic still held."""
    world.produce("a", "b", "c")
    await world.log.trim("raw", 0, 2)
    assert await world.partition().open() == 2
    position = await world.sink.position(ROUTE, "raw/0")
    assert position is not None
    assert (position.first_offset, position.next_offset) == (2, 2)


def test_the_state_survives_the_sinks_json() -> None:
    state = RouteState({"a": NO_WATERMARK_MS, "b": NOW_MS}, NOW_MS, 3, {"topic:raw": 1}, 1 << 40, (1 << 32) - 1)
    assert msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(state))), RouteState) == state
