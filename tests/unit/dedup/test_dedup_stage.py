"""The dedup stage on its own: rule 2's order, restarts, holes, and how long ids are kept."""

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any, NamedTuple

import polars as pl
import pytest

from rollup_engine.clock import ManualClock
from rollup_engine.config.model import Config, EventType, Rollup, Timestamp
from rollup_engine.dedup import stage
from rollup_engine.dedup.deduplicator import DedupState
from rollup_engine.dedup.memory import MemoryIds
from rollup_engine.dedup.stage import DedupPartition, _batches
from rollup_engine.errors import BrokerUnavailable, ClaimLost, PartitionHalted
from rollup_engine.exchange import HOLE_MS_MAX, NO_CLOCK_MS
from rollup_engine.packing import Packed, pack, unpack
from rollup_engine.ports import SeenIds
from rollup_engine.progress import DEDUP, ROUTE
from rollup_engine.runtime.memory import MemoryLog, MemorySink
from rollup_engine.tables import Schema
from rollup_engine.topology import Topology

HORIZON_MS = 100
IDLE_MS = 1_000
RAW_0, RAW_1 = "raw/0", "raw/1"
EVENTS, DELTAS = "app.events", "app.deltas.calls"


class Row(NamedTuple):
    """A well-formed event: its raw offset, id, payload, and the clock of its raw partition."""

    offset: int
    id: int
    payload: int
    clock_ms: int
    late: bool = False


def packed(source: str, start: int, end: int, *rows: Row, clock_ms: int = 0, generation: int = 1) -> Packed:
    frame = pl.DataFrame(
        {
            "offset": pl.Series([row.offset for row in rows], dtype=pl.Int64),
            "primary": [True] * len(rows),
            "id": [f"id-{row.id}" for row in rows],
            "id_hash": pl.Series([row.id for row in rows], dtype=pl.UInt128),
            "payload": pl.Series([row.payload for row in rows], dtype=pl.UInt64),
            "timestamp_ms": pl.Series([0] * len(rows), dtype=pl.Int64),
            "customer": ["c"] * len(rows),
            "record_ms": pl.Series([row.clock_ms for row in rows], dtype=pl.Int64),
            "clock_ms": pl.Series([row.clock_ms for row in rows], dtype=pl.Int64),
            "watermark_ms": pl.Series([0] * len(rows), dtype=pl.Int64),
            "late": [row.late for row in rows],
            "future": [False] * len(rows),
        }
    )
    clock_ms = max([clock_ms, *(row.clock_ms for row in rows)])
    return Packed("life", generation, source, start, end, clock_ms, {"event:calls": frame} if rows else {})


def config_of(*tables: str) -> Config:
    rollups = tuple(Rollup(name=t, table=t, window_ms=1_000, emit_every_ms=1_000) for t in tables)
    event = EventType(
        event="calls",
        kafka_topics=("raw",),
        id_paths=("id",),
        timestamp=Timestamp(path="at"),
        customer_path="customer",
        rollups=rollups,
        grace_ms=10,
        horizon_ms=HORIZON_MS,
        max_future_ms=10,
    )
    return Config(events=(event,))


class Bench:
    """One events partition, with everything around it in memory."""

    def __init__(self) -> None:
        self.log, self.sink, self.clock = MemoryLog(), MemorySink(), ManualClock()
        self.store = MemoryIds()
        self.left: list[SeenIds] = []
        self.configs = {1: config_of("calls"), 2: config_of("calls", "more")}
        self.partition: DedupPartition
        self.read_to = 0

    async def start(self, *, generation: int = 1, raw_partitions: int = 2) -> int:
        await self.log.create("raw", raw_partitions, {})
        for topic in (EVENTS, DELTAS, "app.deltas.more"):
            await self.log.create(topic, 1, {})
        for source in (RAW_0, RAW_1):
            if await self.sink.position(ROUTE, source) is None:
                await self.sink.claim(ROUTE, source, 0)

        async def load(wanted: int) -> Config:
            return self.configs[wanted]

        schemas = {rollup.table: Schema.of(rollup) for rollup in self.configs[generation].rollups}
        topology = Topology(
            app_id="app",
            partitions=1,
            generation=generation,
            configs={generation: self.configs[generation]},
            incarnations=dict.fromkeys((EVENTS, DELTAS, "app.deltas.more"), "life"),
            schemas=schemas,
            load_config=load,
        )
        self.partition = DedupPartition(topology, 0, self.log, self.sink, self.clock, self, IDLE_MS)
        self.read_to = await self.partition.open()
        return self.read_to

    def open(self, partition: int) -> SeenIds:
        """Of `ports.Stores`."""
        return self.store

    def leave(self, partition: int, store: SeenIds) -> None:
        self.left.append(store)

    def send(self, *records: Packed) -> None:
        for record in records:
            for value in pack(record):
                self.log.put(EVENTS, 0, value, 0)

    async def work_off(self) -> None:
        """Everything that is there, in one batch."""
        records = self.log.read(EVENTS, 0, self.read_to, 1_000)
        self.read_to += len(records)
        await self.partition.process(records, self.read_to)

    def booked(self, source: str = RAW_0) -> dict[str, int]:
        books = self.sink.books.get(("calls", source))
        return {} if books is None else {k: n for k, n in vars(books).items() if isinstance(n, int) and n}

    def deltas(self, topic: str = DELTAS) -> list[tuple[int, int, list[int]]]:
        """Per deltas record: what it covers, and the events offsets of its rows."""
        found = []
        for record in self.log.read(topic, 0, 0, 1_000):
            one = unpack(record.value or b"")
            found.append((one.start, one.end, [o for frame in one.tables.values() for o in frame["offset"]]))
        return found

    @property
    def row(self) -> Any:
        return self.sink.rows[DEDUP, f"{EVENTS}/0"]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# ------------------------------------------------------------------------------------------------- the order of rule 2


async def test_deltas_are_sent_then_the_sink_advances_then_the_store_is_written(bench: Bench) -> None:
    done: list[str] = []

    class Watched(MemoryIds):
        def write(self, keys: Any, values: Any, position: int, incarnation: str) -> None:
            done.append(f"store {position}")
            super().write(keys, values, position, incarnation)

    bench.store = Watched()
    await bench.start()
    append, advance = bench.log.append, bench.sink.advance

    async def watched_append(topic: str, partition: int, value: bytes) -> int:
        done.append("send")
        return await append(topic, partition, value)

    async def watched_advance(*args: Any) -> Any:
        done.append(f"advance {args[1]}")
        return await advance(*args)

    bench.log.append, bench.sink.advance = watched_append, watched_advance  # type: ignore[method-assign,assignment]
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    await bench.work_off()
    assert done == ["send", "advance 1", "store 1"]


async def test_nothing_is_remembered_or_booked_where_deltas_were_not_acknowledged(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))

    async def refuse(topic: str, partition: int, value: bytes) -> int:
        raise BrokerUnavailable

    bench.log.append = refuse  # type: ignore[method-assign]
    with pytest.raises(BrokerUnavailable):
        await bench.work_off()
    assert (bench.booked(), bench.store.ids, bench.row.next_offset) == ({}, {}, 0)


async def test_a_zombie_changes_nothing(bench: Bench) -> None:
    await bench.start()
    await bench.sink.claim(DEDUP, f"{EVENTS}/0", 0)
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    with pytest.raises(ClaimLost):
        await bench.work_off()
    assert (bench.booked(), bench.store.ids) == ({}, {})


# ------------------------------------------------------------------------------------------------------- the id store


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
async def test_a_store_that_is_behind_or_gone_is_brought_up_judging_nothing(bench: Bench, kept: int) -> None:
    """`kept`: the disk comes back as it was after so many records."""
    await bench.start()
    images = [bench.store.copy()]
    for offset in range(3):
        bench.send(packed(RAW_0, offset, offset + 1, Row(offset, offset, 1, offset)))
        await bench.work_off()
        images.append(bench.store.copy())
    live, bench.store = bench.store, images[kept]
    assert await bench.start() == 3
    assert (bench.store.ids, bench.store.position) == (live.ids, 3)
    assert bench.booked() == {"counted": 3, "records": 3}
    bench.send(packed(RAW_0, 3, 4, Row(3, 0, 1, 3)))
    await bench.work_off()
    assert bench.booked() == {"counted": 3, "duplicate": 1, "records": 4}


@pytest.mark.parametrize("kept", [0, 1, 2])
async def test_repeats_are_renewed_as_the_store_is_brought_up(bench: Bench, kept: int) -> None:
    """Of an id that the disk still knows, of one read anew, and of one in the same batch."""
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 10)))
    await bench.work_off()
    images = [MemoryIds(), bench.store.copy()]
    bench.send(packed(RAW_0, 1, 3, Row(1, 1, 2, 60), Row(2, 2, 1, 61)))
    await bench.work_off()
    images.append(bench.store.copy())
    bench.send(packed(RAW_0, 3, 5, Row(3, 2, 2, 70), Row(4, 1, 1, 71)))
    await bench.work_off()
    live, bench.store = bench.store, images[kept]
    await bench.start()
    assert bench.store.ids == live.ids
    bench.store = MemoryIds()
    await bench.start()
    assert bench.store.ids == live.ids


async def test_a_store_ahead_of_the_sink_is_rebuilt(bench: Bench) -> None:
    """The database came back from a backup: what the store knows beyond it would turn first copies into repeats."""
    await bench.start()
    backup = dict(bench.sink.rows)
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    await bench.work_off()
    bench.sink.rows, bench.sink.books = backup, {}
    assert await bench.start() == 0
    await bench.work_off()
    assert bench.booked() == {"counted": 1, "records": 1}


async def test_a_crash_while_the_store_is_brought_up_leaves_what_one_pass_makes(bench: Bench) -> None:
    """A late copy first, not remembered; then a counted one. Taken in twice, the late one would renew the other."""
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 95, late=True)), packed(RAW_1, 0, 1, Row(0, 1, 1, 10)))
    bench.send(packed(RAW_0, 1, 1, generation=2))
    bench.configs[2] = bench.configs[1]
    bench.partition._topology.generation, bench.partition._topology.configs[2] = 2, bench.configs[2]
    await bench.work_off()
    assert bench.booked() == {"late": 1, "records": 1}
    assert bench.booked(RAW_1) == {"counted": 1, "records": 1}
    live = bench.store

    class CrashesOnce(MemoryIds):
        crashed = False

        def write(self, keys: Any, values: Any, position: int, incarnation: str) -> None:
            super().write(keys, values, position, incarnation)
            if not self.crashed:
                self.crashed = True
                raise OSError("the machine stopped")

    bench.store = CrashesOnce()
    with pytest.raises(OSError, match="the machine stopped"):
        await bench.start(generation=2)
    await bench.start(generation=2)
    assert bench.store.ids == live.ids
    bench.send(packed(RAW_0, 1, 2, Row(1, 1, 1, 120), generation=2))
    await bench.work_off()
    assert bench.booked()["counted"] == 1, "10 is beyond the horizon of 120, and the late copy at 95 does not count"


async def test_at_a_clean_stop_the_ids_are_left_to_be_written_later(bench: Bench) -> None:
    await bench.start()
    await bench.partition.close()
    bench.partition.release()
    assert bench.left == [bench.store]


@pytest.fixture
async def to_rebuild(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """With an id on the topic for which a thread is worth it."""
    monkeypatch.setattr("rollup_engine.dedup.stage.THREAD_ROWS_MIN", 1)
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    await bench.work_off()
    return bench


async def test_a_rebuild_that_is_cut_off_ends_before_its_store_is_closed(to_rebuild: Bench) -> None:
    """What is judged in a thread looks into the store."""
    begun, happened = threading.Event(), []

    class Slow(MemoryIds):
        def get(self, keys: list[bytes]) -> list[bytes | None]:
            begun.set()
            time.sleep(0.2)
            happened.append("looked up")
            return super().get(keys)

        def close(self) -> None:
            happened.append("closed")

    to_rebuild.store = Slow()
    to_rebuild.store.write([], [], 0, "life")
    opening = asyncio.create_task(to_rebuild.start())
    await asyncio.to_thread(begun.wait, 5)
    for _ in range(3):  # as a stop does with what does not end
        opening.cancel()
        await asyncio.sleep(0.01)
    await asyncio.wait((opening,))
    assert opening.cancelled()
    to_rebuild.partition.release()
    assert happened == ["looked up", "closed"]


async def test_a_rebuild_that_is_cut_off_before_its_turn_does_not_wait_for_it(to_rebuild: Bench) -> None:
    over = threading.Event()
    before = stage._judge.submit(over.wait, 5)
    try:
        to_rebuild.store = MemoryIds()
        to_rebuild.store.write([], [], 0, "life")
        opening = asyncio.create_task(to_rebuild.start())
        while not (before.running() and stage._judge._work_queue.qsize()):
            await asyncio.sleep(0.01)
        opening.cancel()
        await asyncio.wait((opening,), timeout=1)
        assert opening.cancelled()
        assert not before.done()
    finally:
        over.set()


async def test_records_without_rows_do_not_gather_in_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle topic holds little else, and many of them."""
    monkeypatch.setattr("rollup_engine.dedup.stage.REBUILD_RECORDS", 4)
    monkeypatch.setattr(DedupPartition, "records_max", 2)
    await bench.start()
    bench.send(*(packed(RAW_0, 0, 0) for _ in range(9)), packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    await bench.work_off()
    positions: list[int] = []

    class Watched(MemoryIds):
        def write(self, keys: Any, values: Any, position: int, incarnation: str) -> None:
            positions.append(position)
            super().write(keys, values, position, incarnation)

    bench.store = Watched()
    assert await bench.start() == 10
    assert positions == [4, 8, 10]
    assert len(bench.store.ids) == 1


async def test_ids_are_not_rebuilt_from_another_life_of_the_topic(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    await bench.work_off()
    bench.log._topics[EVENTS][0].clear()
    bench.send(packed(RAW_0, 0, 1, Row(0, 2, 1, 5)))
    assert await bench.start() == 1, "with a store that is up to date, marks will tell"
    bench.store = MemoryIds()
    with pytest.raises(PartitionHalted, match=r"app\.events/0 holds another record at offset 0"):
        await bench.start()


# The horizon is 100 ms: an id last seen at 10 is of no use once every source's clock is above 110.
@pytest.mark.parametrize(("clock", "needed"), [(109, True), (111, False), (500, False)])
async def test_ids_that_cannot_be_rebuilt_and_are_still_needed_halt_the_partition(
    bench: Bench, clock: int, needed: bool
) -> None:
    await bench.start(raw_partitions=1)
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)), packed(RAW_0, 1, 2, Row(1, 2, 1, 10)))
    bench.send(packed(RAW_0, 2, 3, Row(2, 3, 1, clock)))
    await bench.work_off()
    await bench.log.trim(EVENTS, 0, 1)  # the next record says how old what is gone may be: 10 at the most
    bench.store = MemoryIds()
    if not needed:
        assert await bench.start(raw_partitions=1) == 3
        return
    for _ in range(2):  # and again after it was tried in vain
        with pytest.raises(PartitionHalted, match="needed from offset 0 on, and holds it from 1 on") as halted:
            await bench.start(raw_partitions=1)
    assert halted.value.loss is not None
    bench.sink.losses.add((DEDUP, f"{EVENTS}/0", halted.value.loss))
    assert await bench.start(raw_partitions=1) == 3
    assert bench.store.position == 3
    assert len(bench.store.ids) == 2


async def test_a_partition_added_meanwhile_does_not_stand_in_the_way_of_a_fresh_disk(bench: Bench) -> None:
    """Dedup has never heard of it, and would not, if it did not open."""
    await bench.start(raw_partitions=1)
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)), packed(RAW_0, 1, 2, Row(1, 2, 1, 10)))
    bench.send(packed(RAW_0, 2, 3, Row(2, 3, 1, 500)))
    await bench.work_off()
    await bench.log.trim(EVENTS, 0, 1)
    bench.store = MemoryIds()
    bench.log._topics.pop("raw")
    assert await bench.start(raw_partitions=2) == 3


async def test_a_source_whose_first_record_is_still_there_has_lost_nothing(bench: Bench) -> None:
    await bench.start(raw_partitions=1)
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)), packed(RAW_0, 1, 2, Row(1, 2, 1, 10)))
    bench.send(packed(RAW_0, 2, 3, Row(2, 3, 1, 500)), packed(RAW_1, 0, 1, Row(0, 4, 1, 499)))
    await bench.work_off()
    await bench.log.trim(EVENTS, 0, 1)
    bench.store = MemoryIds()
    assert await bench.start(raw_partitions=1) == 4


async def test_a_raw_partition_that_was_added_holds_expiry_back_from_its_first_record_on(bench: Bench) -> None:
    await bench.start(raw_partitions=1)
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)), packed(RAW_1, 0, 1, Row(0, 9, 1, 6)))
    await bench.work_off()
    for number in range(1, 8):  # it stands still, while the other one runs far ahead
        bench.send(packed(RAW_0, number, number + 1, Row(number, 10 + number, 1, 5 + 200 * number)))
        await bench.work_off()
    bench.send(packed(RAW_1, 1, 2, Row(1, 1, 1, 7)))
    await bench.work_off()
    assert bench.booked(RAW_1) == {"counted": 1, "duplicate": 1, "records": 2}


async def test_a_source_that_is_silent_in_what_is_left_of_the_topic_may_be_needed(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_1, 0, 1, Row(0, 9, 1, 450)), packed(RAW_0, 0, 1, Row(0, 1, 1, 500)))
    await bench.work_off()
    await bench.log.trim(EVENTS, 0, 2)
    bench.store = MemoryIds()
    with pytest.raises(PartitionHalted, match="cannot be rebuilt in full"):
        await bench.start()


async def test_a_store_that_still_has_what_the_topic_lost_is_enough(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)), packed(RAW_1, 0, 1, Row(0, 2, 1, 5)))
    await bench.work_off()
    await bench.log.trim(EVENTS, 0, 2)
    assert await bench.start() == 2
    assert len(bench.store.ids) == 2


async def test_a_partition_that_the_topic_should_not_have_halts(bench: Bench) -> None:
    await bench.start()
    partition = DedupPartition(bench.partition._topology, 1, bench.log, bench.sink, bench.clock, bench, IDLE_MS)
    with pytest.raises(PartitionHalted, match="more partitions than the 1 it was made with"):
        await partition.open()


async def test_ids_outlive_a_new_life_of_the_events_topic(bench: Bench) -> None:
    await bench.start()
    bench.store.write([], [], 7, "an earlier life")
    bench.store.ids[(1).to_bytes(16, "big")] = b"\x00" * 7 + b"\x01" + b"\x00" * 7 + b"\x05"
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    await bench.work_off()
    assert (bench.booked(), bench.store.incarnation) == ({"duplicate": 1, "records": 1}, "life")


async def test_a_rollup_left_out_of_a_yaml_goes_on_covering_where_it_stood(bench: Bench) -> None:
    """Told from 0 again, a hole in its deltas would be closed by nothing."""
    bench.configs[3] = bench.configs[2]
    await bench.start(generation=2)
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5), generation=2))
    await bench.work_off()
    bench.configs[4] = bench.configs[1]
    await bench.start(generation=4)
    bench.send(packed(RAW_0, 1, 2, Row(1, 2, 1, 5), generation=4))
    await bench.work_off()
    bench.configs[5] = bench.configs[2]
    await bench.start(generation=5)
    bench.send(packed(RAW_0, 2, 3, Row(2, 3, 1, 5), generation=5))
    await bench.work_off()
    assert bench.deltas("app.deltas.more") == [(0, 1, [0]), (1, 3, [2])]
    bench.clock.advance(IDLE_MS)
    await bench.partition.tick()
    assert bench.deltas("app.deltas.more")[-1] == (3, 3, [])


async def test_replayed_letters_age_no_id(bench: Bench) -> None:
    """Their clock is far ahead of a backlog's: its own repeats must still be known."""
    await bench.start(raw_partitions=1)
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    await bench.sink.claim(ROUTE, "app.replays.calls/0", 0)
    letter = packed("app.replays.calls/0", 0, 1, Row(0, 2, 1, 10_000))
    bench.send(replace(letter, clock_ms=NO_CLOCK_MS), *[replace(letter, start=1, clock_ms=NO_CLOCK_MS, tables={})] * 3)
    bench.send(packed(RAW_0, 1, 2, Row(1, 3, 1, 6)))
    await bench.work_off()
    bench.send(packed(RAW_0, 2, 3, Row(2, 1, 1, 7)))
    await bench.work_off()
    assert bench.booked() == {"counted": 2, "duplicate": 1, "records": 3}
    assert bench.row.state["clocks"] == {RAW_0: 7}


# -------------------------------------------------------------------------------------------------------------- holes


async def test_nothing_behind_a_hole_is_judged_until_it_closes_whoever_sends_it(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_1, 0, 1, Row(0, 9, 1, 5)))
    bench.send(packed(RAW_0, 2, 3, Row(2, 2, 1, 5)), packed(RAW_1, 1, 2, Row(1, 8, 1, 5)))
    await bench.work_off()
    assert (bench.booked(), bench.booked(RAW_1), bench.row.next_offset) == ({}, {"counted": 1, "records": 1}, 1)
    await bench.partition.tick()
    bench.clock.advance(HOLE_MS_MAX)
    bench.send(packed(RAW_0, 0, 2, Row(0, 1, 1, 5)), packed(RAW_0, 2, 3, Row(2, 2, 1, 5)))
    await bench.work_off()
    await bench.partition.tick()
    bench.clock.advance(HOLE_MS_MAX)
    await bench.partition.tick()
    assert bench.booked() == {"counted": 2, "records": 2}
    assert bench.booked(RAW_1) == {"counted": 2, "records": 2}
    assert [cover for cover in bench.deltas() if cover[2]] == [(0, 1, [0]), (1, 5, [2, 3, 4])]


async def test_a_hole_halts_the_partition_after_a_while_and_names_what_is_missing(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_0, 2, 3, Row(2, 2, 1, 5)))
    await bench.work_off()
    await bench.partition.tick()
    bench.clock.advance(HOLE_MS_MAX + 1)
    with pytest.raises(PartitionHalted, match="raw/0 from offset 0"):
        await bench.partition.tick()


async def test_a_restart_at_a_hole_changes_nothing(bench: Bench) -> None:
    """The refused record must not be taken later at its own place: rollup has passed that place already."""
    await bench.start()
    bench.send(packed(RAW_0, 2, 3, Row(2, 2, 1, 5)), packed(RAW_0, 0, 2, Row(0, 1, 1, 5)))
    await bench.work_off()
    assert await bench.start() == 0
    await bench.work_off()
    assert (bench.booked(), bench.deltas()) == ({}, [])
    bench.send(packed(RAW_0, 2, 3, Row(2, 2, 1, 5)))
    await bench.work_off()
    assert bench.booked() == {"counted": 2, "records": 2}
    assert bench.deltas() == [(0, 3, [1, 2])]


# ---------------------------------------------------------------------------------------------------- what is cut


async def test_a_copy_that_the_marks_cut_is_not_booked_but_renews_its_id(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 60, late=True)), packed(RAW_1, 0, 1, Row(0, 1, 1, 10)))
    await bench.work_off()
    bench.send(packed(RAW_0, 0, 2, Row(0, 1, 1, 60, late=True), Row(1, 1, 1, 150)))
    await bench.work_off()
    assert bench.booked() == {"late": 1, "duplicate": 1, "records": 2}
    assert bench.booked(RAW_1) == {"counted": 1, "records": 1}


# ------------------------------------------------------------------------------------------------------- generations


async def test_a_rollup_declared_later_gets_records_from_the_very_start(bench: Bench) -> None:
    await bench.start(generation=2)
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    await bench.work_off()
    bench.send(packed(RAW_0, 1, 2, Row(1, 2, 1, 5)), packed(RAW_0, 2, 3, Row(2, 3, 1, 5), generation=2))
    await bench.work_off()
    assert bench.deltas() == [(0, 1, [0]), (1, 2, [1]), (2, 3, [2])]
    assert bench.deltas("app.deltas.more") == [(0, 3, [2])]


async def test_a_worker_with_an_older_yaml_stops(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5), generation=2))
    with pytest.raises(PartitionHalted, match="generation 2 is active"):
        await bench.work_off()
    await bench.start(generation=2)
    await bench.work_off()
    with pytest.raises(PartitionHalted, match="generation 2 is active"):
        await bench.start(generation=1)


# -------------------------------------------------------------------------------------------------------- senders


async def test_a_source_the_database_does_not_know_halts(bench: Bench) -> None:
    await bench.start()
    bench.send(packed("elsewhere/0", 0, 1, Row(0, 1, 1, 5)))
    with pytest.raises(PartitionHalted, match="elsewhere/0"):
        await bench.work_off()


async def test_a_mark_begins_where_the_sender_began(bench: Bench) -> None:
    await bench.sink.claim(ROUTE, RAW_0, 40)
    await bench.start()
    bench.send(packed(RAW_0, 41, 42, Row(41, 1, 1, 5)))
    await bench.work_off()
    assert bench.booked() == {}, "40 is missing"
    bench.send(packed(RAW_0, 40, 42, Row(40, 2, 1, 5), Row(41, 1, 1, 5)))
    await bench.work_off()
    assert bench.booked() == {"counted": 2, "records": 2}


async def test_an_idle_partition_sends_empty_records(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    await bench.work_off()
    for _ in range(2):
        await bench.partition.tick()
        bench.clock.advance(IDLE_MS)
    await bench.partition.tick()
    assert bench.deltas() == [(0, 1, [0]), (1, 1, []), (1, 1, [])]


async def test_a_position_outside_the_topic_halts(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_0, 0, 1, Row(0, 1, 1, 5)))
    await bench.work_off()
    bench.log = MemoryLog()
    with pytest.raises(PartitionHalted, match="holds offsets 0 to 0, but 1 is next"):
        await bench.start()


# ------------------------------------------------------------------------------------------------ how long ids live


def state(clocks: dict[str, int], idle: dict[str, int] | None = None) -> DedupState:
    return DedupState(clocks=clocks, idle=idle or {})


def test_ids_live_for_a_horizon_beyond_the_slowest_clock() -> None:
    assert state({RAW_0: 1_000, RAW_1: 950}).expired_before_ms(100, {RAW_0, RAW_1}) == 850


def test_a_source_with_a_backlog_holds_deletion_back_for_as_long_as_it_takes() -> None:
    assert state({RAW_0: 1_000, RAW_1: 200}).expired_before_ms(100, {RAW_0, RAW_1}) == 100


def test_an_idle_source_holds_deletion_back_by_one_more_horizon() -> None:
    """From where the others were as it was last known to be idle: it may have got a backlog since."""
    assert state({RAW_0: 1_000, RAW_1: 200}, idle={RAW_1: 1_000}).expired_before_ms(100, {RAW_0, RAW_1}) == 800
    assert state({RAW_0: 1_000, RAW_1: 200}, idle={RAW_1: 700}).expired_before_ms(100, {RAW_0, RAW_1}) == 500
    assert state({RAW_0: 1_000, RAW_1: 950}, idle={RAW_1: 700}).expired_before_ms(100, {RAW_0, RAW_1}) == 850


def test_a_source_that_is_no_more_holds_deletion_back_by_one_more_horizon() -> None:
    assert state({RAW_0: 1_000, "gone/0": 200}).expired_before_ms(100, {RAW_0}) == 800


def test_nothing_is_deleted_before_every_source_was_heard_of() -> None:
    assert state({RAW_0: 1_000}).expired_before_ms(100, {RAW_0, RAW_1}) is None
    assert state({}).expired_before_ms(100, set()) is None


async def test_our_own_backlog_never_ages_an_id(bench: Bench) -> None:
    """One raw partition is worked off far ahead of the other; a repeat on the slow one is still a repeat."""
    await bench.start()
    bench.send(packed(RAW_1, 0, 1, Row(0, 1, 1, 10)))
    bench.send(packed(RAW_0, 0, 1, Row(0, 2, 1, 5_000)))
    await bench.work_off()
    bench.send(packed(RAW_1, 1, 1), packed(RAW_0, 1, 2, Row(1, 3, 1, 6_000)))  # one empty record: a slow sender's
    await bench.work_off()
    bench.send(packed(RAW_1, 1, 2, Row(1, 1, 1, 20)))
    await bench.work_off()
    assert bench.booked(RAW_1) == {"counted": 1, "duplicate": 1, "records": 2}


async def test_ids_are_deleted_once_no_source_can_need_them(bench: Bench) -> None:
    await bench.start()
    bench.send(packed(RAW_1, 0, 1, Row(0, 1, 1, 10)), packed(RAW_0, 0, 1, Row(0, 2, 1, 5_000)))
    await bench.work_off()
    assert len(bench.store.ids) == 2
    bench.send(packed(RAW_1, 1, 1), packed(RAW_1, 1, 1), packed(RAW_0, 1, 2, Row(1, 3, 1, 5_050)))
    await bench.work_off()
    assert sorted(int.from_bytes(key, "big") for key in bench.store.ids) == [2, 3]


async def test_only_two_empty_records_in_a_row_at_the_mark_make_a_source_idle(bench: Bench) -> None:
    await bench.start(raw_partitions=2)
    bench.send(packed(RAW_1, 0, 1, Row(0, 9, 1, 700)))
    bench.send(packed(RAW_0, 0, 5, Row(0, 1, 1, 10)), packed(RAW_0, 3, 3), packed(RAW_0, 0, 0), packed(RAW_0, 5, 5))
    await bench.work_off()
    assert (bench.row.state["empty"], bench.row.state["idle"]) == ({RAW_0: 700}, {})
    bench.send(packed(RAW_1, 1, 2, Row(1, 8, 1, 800)), packed(RAW_0, 5, 5))
    await bench.work_off()
    assert (bench.row.state["empty"], bench.row.state["idle"]) == ({RAW_0: 800}, {RAW_0: 700})
    bench.send(packed(RAW_0, 5, 6, Row(5, 2, 1, 20)), packed(RAW_1, 2, 3, Row(2, 7, 1, 900)), packed(RAW_0, 6, 6))
    await bench.work_off()
    assert (bench.row.state["empty"], bench.row.state["idle"]) == ({RAW_0: 900}, {RAW_0: 700})


def test_batches_are_cut_by_generation_and_by_rows() -> None:
    sizes = [(1, 15_000), (1, 7_500), (1, 5_000), (2, 1), (2, 60_000), (2, 1)]
    records = [
        (offset, Packed("i", generation, "raw/0", 0, 0, 0, {"t": pl.DataFrame({"offset": range(rows)})}))
        for offset, (generation, rows) in enumerate(sizes)
    ]
    assert [[offset for offset, _ in batch] for batch in _batches(records)] == [[0, 1], [2], [3], [4], [5]]
    assert _batches([]) == []
