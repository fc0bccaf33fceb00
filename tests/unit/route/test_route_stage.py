"""The route stage over the memory log: what it covers, when it advances, and when it must not read on."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import pytest

from rollup_engine.clock import ManualClock
from rollup_engine.config.model import Config
from rollup_engine.errors import BrokerUnavailable, ClaimLost, PartitionHalted
from rollup_engine.exchange import NO_CLOCK_MS
from rollup_engine.packing import Packed, unpack
from rollup_engine.progress import DEDUP, NOTHING, ROUTE
from rollup_engine.route.stage import RoutePartition
from rollup_engine.route.state import NO_WATERMARK_MS, RouteState
from rollup_engine.runtime.memory import MemoryLog, MemoryReader, MemoryRecord, MemorySink
from rollup_engine.topology import Topology, events_topic
from tests.unit.route.specs import a_sum, event_type

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
        starts = [self.log._starts.get((EVENTS, p), 0) for p in range(3)]
        return [[unpack(one.value or b"") for one in self.log.read(EVENTS, p, starts[p], 1_000)] for p in range(3)]

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


async def test_one_that_waits_for_kafka_is_not_idle(world: World) -> None:
    """There is more, and it does not come: its ids are still needed, however far other partitions have gone."""
    world.produce("a")
    partition = world.partition()
    await world.route(partition, await partition.open())
    world.produce("b")
    world.clock.advance(IDLE_MS)
    await partition.tick()
    last = world.sent()[0][-1]
    assert (last.start, last.end, last.rows, last.clock_ms) == (1, 1, 0, NO_CLOCK_MS)


async def test_a_topic_made_again_stops_the_partition(world: World) -> None:
    world.produce("a", "b")
    partition = world.partition()
    await world.route(partition, await partition.open())
    remade = await World().start()
    remade.sink = world.sink
    with pytest.raises(PartitionHalted, match="deleted and made again"):
        await remade.partition().open()  # shorter than the position
    remade.produce("a", "x", "c")
    with pytest.raises(PartitionHalted, match="another record at offset 1"):
        await remade.partition().open()


async def test_records_gone_before_they_were_read_stop_the_partition(world: World) -> None:
    world.produce("a", "b", "c")
    partition = world.partition()
    await world.route(partition, await partition.open(), count=1)
    await world.log.trim("raw", 0, 2)
    with pytest.raises(PartitionHalted, match="records 1 to 1 are gone") as halted:
        await world.partition().open()
    assert halted.value.loss is not None
    world.sink.losses.add((ROUTE, "raw/0", halted.value.loss))
    told = world.partition()
    assert await told.open() == 2
    await world.route(told, 2)
    assert world.ids() == ["a", "c"]
    assert all(
        [(packed.start, packed.end) for packed in records] == [(0, 1), (1, 2), (2, 3)] for records in world.sent()
    )
    position = await world.sink.position(ROUTE, "raw/0")
    assert position is not None
    assert (position.state["gaps"], position.state["records"]) == ([[1, 2]], 2)


async def test_accepting_one_loss_is_not_accepting_another(world: World) -> None:
    world.produce("a", "b", "c", "d")
    partition = world.partition()
    await world.route(partition, await partition.open(), count=1)
    world.sink.losses.add((ROUTE, "raw/0", "records from offset 1 on"))
    await world.log.trim("raw", 0, 2)
    await world.partition().open()
    await world.log.trim("raw", 0, 3)
    with pytest.raises(PartitionHalted, match="records 2 to 2 are gone"):
        await world.partition().open()


# ------------------------------------------------------------------------------------ a YAML that changes in mid-flush


class Change:
    """Generation 1 takes every record; 2 refuses the one with few bytes, which then goes to another partition."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.configs = {
            1: Config(events=(event_type(sums=[a_sum("bytes")]),)),
            2: Config(events=(event_type(sums=[a_sum("bytes", minimum="5")]),)),
        }
        for number in range(6):
            value = {"id": f"id-{number}", "at": "2022-08-14T15:14:31Z", "customer": "c", "bytes": number}
            world.log.put("raw", 0, json.dumps(value).encode(), NOW_MS)

    def session(self, generation: int) -> RoutePartition:
        async def load(wanted: int) -> Config:
            return self.configs[wanted]

        configs = {generation: self.configs[generation]}
        self.world.topology = Topology("app", 3, generation, configs, {EVENTS: "life-1"}, {}, load)
        return self.world.partition()

    async def cut_off_after(self, appends: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """A session of generation 1 reads `count` records, and dies with its flush acknowledged by so many."""
        append, done = self.world.log.append, 0

        async def fails_later(topic: str, partition: int, value: bytes) -> int:
            nonlocal done
            done += 1
            if done > appends:
                raise BrokerUnavailable
            return await append(topic, partition, value)

        session = self.session(1)
        offset = await session.open()
        with monkeypatch.context() as patch:
            patch.setattr(self.world.log, "append", fails_later)
            with pytest.raises(BrokerUnavailable):
                await self.world.route(session, offset, count)

    def taken(self) -> dict[int, list[int]]:
        """Offset to the generations under which the events partitions take it, by their marks."""
        found: dict[int, list[int]] = {}
        for records in self.world.sent():
            mark = 0
            for packed in records:
                for frame in packed.tables.values():
                    for offset in frame["offset"]:
                        if offset >= mark:
                            found.setdefault(offset, []).append(packed.generation)
                mark = max(mark, packed.end)
        return dict(sorted(found.items()))


@pytest.mark.parametrize("appends", [1, 2])
@pytest.mark.parametrize("count", [2, 4, 6])
async def test_a_flush_cut_off_is_finished_under_its_own_yaml(
    world: World, monkeypatch: pytest.MonkeyPatch, appends: int, count: int
) -> None:
    change = Change(world)
    await change.cut_off_after(appends, count, monkeypatch)
    heir = change.session(2)
    offset = await heir.open()
    await heir.tick()
    for _ in range(3):
        await world.route(heir, offset, 3)
        position = await world.sink.position(ROUTE, "raw/0")
        assert position is not None
        offset = position.next_offset
    assert change.taken() == {number: [1] if number < count else [2] for number in range(6)}
    assert position.state["generation"] == 2


async def test_dedups_marks_tell_too_what_was_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The events partition that got the flush has been read and trimmed since."""
    change = Change(world)
    await change.cut_off_after(1, 4, monkeypatch)
    claim = await world.sink.claim(DEDUP, f"{EVENTS}/0", 0)
    await world.sink.advance(claim, 1, {"marks": {"raw/0": 4}}, NOTHING)
    await world.log.trim(EVENTS, 0, 1)
    heir = change.session(2)
    await world.route(heir, await heir.open(), 6)
    for records in world.sent():
        assert [(one.start, one.end, one.generation) for one in records] == [(0, 4, 1), (4, 6, 2)]


async def test_without_a_cut_off_flush_the_new_yaml_begins_at_once(world: World) -> None:
    change = Change(world)
    first = change.session(1)
    await world.route(first, await first.open(), 2)
    heir = change.session(2)
    await world.route(heir, await heir.open(), 6)
    assert change.taken() == {number: [1] if number < 2 else [2] for number in range(6)}


async def test_a_worker_with_the_older_yaml_does_not_go_on(world: World) -> None:
    change = Change(world)
    await change.session(2).open()
    with pytest.raises(PartitionHalted, match="generation 1 of the YAML, and generation 2 is active"):
        await change.session(1).open()


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


class TestQuiet:
    """A raw partition that gives nothing says so: once for each grace period that has passed, 5 s or more."""

    @pytest.fixture
    def quiet(self, world: World) -> World:
        graces = {"at once": 0, "soon": 6_000, "later": 20_000, "never": None}
        events = tuple(event_type(name, match={"kind": name}, grace_ms=grace_ms) for name, grace_ms in graces.items())
        world.topology.configs[1] = Config(events=events)
        return world

    async def waited(self, world: World, partition: RoutePartition, *steps_ms: int) -> list[tuple[object, int]]:
        """(quiet_ms, version) of the sink's row after each wait."""
        found = []
        for step_ms in steps_ms:
            world.clock.advance(step_ms)
            await partition.tick()
            row = world.sink.rows[ROUTE, "raw/0"]
            found.append((row.state.get("quiet_ms", 0), row.version))
        return found

    async def test_it_is_told_once_for_each_grace_period(self, quiet: World) -> None:
        partition = quiet.partition()
        await partition.open()
        before = quiet.sink.rows[ROUTE, "raw/0"].version
        told = await self.waited(quiet, partition, 4_999, 1, 1, 1_000, 13_000, 1_000, 10**9)
        expected = [(0, 0), (5_000, 1), (5_000, 1), (6_001, 2), (6_001, 2), (20_001, 3), (20_001, 3)]
        assert told == [(quiet_ms, before + version) for quiet_ms, version in expected]
        assert quiet.sink.rows[ROUTE, "raw/0"].next_offset == 0

    async def test_a_record_ends_it_and_it_counts_from_the_record_on(self, quiet: World) -> None:
        quiet.produce("a")
        partition = quiet.partition()
        offset = await partition.open()
        quiet.clock.advance(4_000)
        await quiet.route(partition, offset)
        assert [told for told, _ in await self.waited(quiet, partition, 4_999, 1)] == [0, 5_000]
        quiet.produce("b")
        await quiet.route(partition, 1)
        assert quiet.sink.rows[ROUTE, "raw/0"].state["quiet_ms"] == 0
        assert [told for told, _ in await self.waited(quiet, partition, 4_999, 1)] == [0, 5_000]

    async def test_who_cannot_read_what_is_there_is_not_quiet(self, quiet: World) -> None:
        partition = quiet.partition()
        offset = await partition.open()
        quiet.produce("a")
        assert [told for told, _ in await self.waited(quiet, partition, 20_000, 4_000)] == [0, 0]
        await quiet.route(partition, offset)
        assert [told for told, _ in await self.waited(quiet, partition, 5_000)] == [5_000]

    async def test_another_session_goes_on_from_what_was_told(self, quiet: World) -> None:
        partition = quiet.partition()
        await partition.open()
        await self.waited(quiet, partition, 7_000)
        heir = quiet.partition()
        await heir.open()
        version = quiet.sink.rows[ROUTE, "raw/0"].version
        told = await self.waited(quiet, heir, 5_000, 5_000, 9_999, 1)
        assert told == [(7_000, version)] * 3 + [(20_000, version + 1)]
        with pytest.raises(ClaimLost):
            await self.waited(quiet, partition, 10**6)

    async def test_without_a_grace_period_nobody_waits(self, world: World) -> None:
        world.topology.configs[1] = Config(events=(event_type(grace_ms=None),))
        partition = world.partition()
        await partition.open()
        assert [told for told, _ in await self.waited(world, partition, 10**9)] == [0]


def test_the_state_survives_the_sinks_json() -> None:
    state = RouteState({"a": NO_WATERMARK_MS, "b": NOW_MS}, NOW_MS, 3, {"topic:raw": 1}, 1 << 40, (1 << 32) - 1)
    assert msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(state))), RouteState) == state
