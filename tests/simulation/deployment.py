"""The engine as one schedule runs it: topics, sink, clock and disks, and the sessions at work on each partition.

What is done to it, and when, is the schedule's to say.
"""

import asyncio
from collections.abc import Callable
from random import Random

from rollup_engine.clock import ManualClock
from rollup_engine.config.model import Config
from rollup_engine.dedup.memory import MemoryIds
from rollup_engine.dedup.stage import DedupPartition
from rollup_engine.errors import BrokerUnavailable, ClaimLost, DatabaseUnavailable, PartitionHalted
from rollup_engine.pipeline import StagePartition
from rollup_engine.ports import SeenIds
from rollup_engine.progress import DEDUP, ROLLUP, ROUTE
from rollup_engine.route.stage import RoutePartition
from rollup_engine.runtime.memory import MemorySink
from rollup_engine.tables import Schema
from rollup_engine.topology import Topology, deltas_topic, events_topic, source_name
from rollup_engine.windows.stage import RollupPartition
from tests.simulation.checks import Checker, Violation
from tests.simulation.faults import (
    Fault,
    FaultyStore,
    GatedLog,
    GatedReader,
    GatedSink,
    Session,
    SimulatedLog,
    StoreFault,
)
from tests.simulation.oracle import Oracle
from tests.simulation.world import EPOCH_MS, IDLE_MS, RAW, World

APP = "sim"
EVENTS = events_topic(APP)
Key = tuple[str, str, int]  # stage, input topic (of a rollup: its table), partition


class Deployment:
    """Everything that a schedule acts on."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world, self._rng = world, rng
        self.log, self.sink, self.clock = SimulatedLog(), MemorySink(), ManualClock(EPOCH_MS)
        self.rollups = world.rollups()
        self.oracle = Oracle(world.configs, RAW, world.first_offset, clock_set_back=world.clock_set_back)
        self.checker = Checker(list(self.rollups.values()), self.oracle, self.log, self.sink, EVENTS)
        self.sessions: dict[Key, list[Session]] = {}
        self.disks: dict[tuple[int, int], FaultyStore] = {}  # (events partition, slot)
        self.images: dict[tuple[int, int], list[MemoryIds]] = {}  # of disks, to roll back to
        self.store_fault: Callable[[], Fault] = lambda: ""
        self.lost = False  # the broker has lost something acknowledged
        self.halted = False  # and a stage has noticed
        self.raw_lost = False  # it was the raw topic, which has another life now
        self.life = 1  # of the internal topics, as the sink knows it
        self.produced, self.latest_ms = 0, EPOCH_MS
        self.trace: list[str] = []
        self._topology: Topology

    def note(self, what: str) -> None:
        self.trace.append(what)

    @property
    def generation(self) -> int:
        return self._topology.generation

    async def create(self) -> None:
        """Topics and the first YAML; nobody at work yet."""
        await self.log.create(RAW, self.world.raw_partitions, {})
        await self.log.create(EVENTS, self.world.partitions, {})
        for number in range(self.world.raw_partitions):
            for _ in range(self.world.first_offset):
                self.log.put(RAW, number, b"before our time", EPOCH_MS)
            await self.log.trim(RAW, number, self.world.first_offset)
            self.sessions[ROUTE, RAW, number] = []
        for number in range(self.world.partitions):
            self.sessions[DEDUP, EVENTS, number] = []
        await self.declare(1)

    async def declare(self, generation: int) -> None:
        """Sessions started from now on run under this generation's YAML; older ones may go on, as far as they can."""
        declared = self.world.rollups(generation)
        tables = list(declared)
        for table in tables:
            await self.log.create(deltas_topic(APP, table), self.world.partitions, {})
            for number in range(self.world.partitions):
                self.sessions.setdefault((ROLLUP, table, number), [])

        async def load(wanted: int) -> Config:
            return self.world.configs[wanted - 1]

        self._topology = Topology(
            app_id=APP,
            partitions=self.world.partitions,
            generation=generation,
            configs={generation: self.world.configs[generation - 1]},
            incarnations={
                topic: f"life {self.life} of {topic}" for topic in (EVENTS, *(deltas_topic(APP, t) for t in tables))
            },
            schemas={table: Schema.of(rollup) for table, rollup in declared.items()},
            load_config=load,
        )
        self.note(f"generation {generation}")

    def produce(self, count: int) -> None:
        """The next records of the world, into their raw partitions."""
        if self.raw_lost:
            return
        for record in self.world.records[self.produced : self.produced + count]:
            if not self.world.clock_set_back:
                self.clock.advance(max(0, record.timestamp_ms - self.clock.now_ms()))
            offset = self.log.put(RAW, record.partition, record.value, record.timestamp_ms)
            self.oracle.produced(source_name(RAW, record.partition), offset, record)
            self.latest_ms = max(self.latest_ms, record.timestamp_ms)
            at_ms = record.timestamp_ms - EPOCH_MS
            self.note(f"produced {RAW}/{record.partition} offset {offset} at {at_ms}: {record.value!r}")
        self.produced = min(self.produced + count, len(self.world.records))

    def start(self, key: Key) -> None:
        """Another session on a partition, beside those that there are."""
        stage, topic, number = key
        name = f"{stage} {topic}/{number} #{len(self.trace)}"
        session = Session(name, self.generation, persists=self._rng.random() < 0.5)
        log, sink = GatedLog(session, self.log), GatedSink(session, self.sink)
        made: StagePartition
        if stage == DEDUP:
            made = DedupPartition(self._topology, number, log, sink, self.clock, self, IDLE_MS)
        elif stage == ROLLUP:
            made = RollupPartition(self._topology, topic, number, log, sink, self.clock)
        else:
            made = RoutePartition(self._topology, topic, number, log, sink, self.clock, IDLE_MS)
        session.start(made, GatedReader(session, self.log, self._input(key), number))
        self.sessions[key].append(session)
        self.note(f"{name} starts")

    def open(self, number: int) -> SeenIds:
        """Of `ports.Stores`: on a disk that no other session has open."""
        for slot in (0, 1):
            self.disks.setdefault((number, slot), FaultyStore(self._next_store_fault))
        store = self.disks[number, self._rng.choice([slot for slot in (0, 1) if not self.disks[number, slot].taken])]
        store.taken = True
        return store

    def leave(self, number: int, store: SeenIds) -> None:
        store.close()

    def _next_store_fault(self) -> Fault:
        return self.store_fault()

    def kill(self, session: Session) -> None:
        self.note(f"{session.name} is killed")
        session.task.cancel()

    async def end_leases(self) -> None:
        """Route's sessions are at an end: whoever starts another YAML waits for the lease on the one before."""
        for (stage, _, _), sessions in self.sessions.items():
            for session in sessions if stage == ROUTE else ():
                self.kill(session)
        await self.settle()

    def kill_all(self) -> None:
        for sessions in self.sessions.values():
            for session in sessions:
                session.task.cancel()

    async def settle(self) -> None:
        """Let all tasks run until each waits for the schedule; see how those ended that did."""
        for _ in range(6):
            await asyncio.sleep(0)
        for sessions in self.sessions.values():
            for session in list(sessions):
                while not session.task.done() and not session.pending:
                    await asyncio.sleep(0)
                if session.task.done():
                    sessions.remove(session)
                    self._ended(session)

    def _ended(self, session: Session) -> None:
        error = None if session.task.cancelled() else session.task.exception()
        self.note(f"{session.name} ended: {error!r}")
        if isinstance(error, PartitionHalted):
            if self.lost:
                self.halted = True
                return
            if self._superseded(session) or session.generation < self.generation:
                return  # it read on where another had moved the log's start, or met what a newer YAML declares
        expected = (BrokerUnavailable, DatabaseUnavailable, ClaimLost, StoreFault)
        if error is not None and not isinstance(error, expected):
            raise Violation(f"{session.name} ended with {error!r}") from error

    def _superseded(self, session: Session) -> bool:
        claim = session.claim
        return claim is not None and self.sink.rows[claim.stage, claim.partition].epoch > claim.position.epoch

    def lose_a_record(self, key: Key) -> None:
        """The broker loses the last record of a stage's input, acknowledged, and not yet read by anyone."""
        (stage, _, number), name = key, self._input(key)
        if stage != ROUTE and self.log.lose_last(name, number):
            self.lost = True
            self.note(f"the broker loses the last record of {name}/{number}")

    async def remake_a_topic(self, key: Key) -> None:
        """A stage's input topic is deleted and made again; whoever reads it fails, and starts anew."""
        stage, topic, _ = key
        name, rows = self._input(key), []
        for number in self.log.all(name):
            row = self.sink.rows.get((stage, source_name(name, number)))
            if row is None or (stage == ROUTE and row.next_offset == row.first_offset):
                return  # nothing was read of it yet: there is nothing to tell one life from another by
            if stage == DEDUP and row.next_offset != self.log.read_to.get((name, number), 0):
                return  # what is sent on, and not yet booked, would be lost: the recount could not say what is right
            rows.append(row.next_offset)
        self.note(f"{name} is deleted and made again")
        self.lost, self.raw_lost = True, stage == ROUTE
        for number in self.log.all(name):
            for session in self.sessions[stage, topic, number]:
                self.kill(session)
        await self.settle()
        self.log.remake(name, rows)
        if stage == ROUTE:
            for number in self.log.all(name):
                for _ in range(self._rng.choice((0, rows[number], rows[number] + 3))):
                    self.log.put(name, number, b"of another life", self.latest_ms)

    def _input(self, key: Key) -> str:
        """The topic that a session of a key reads."""
        stage, topic, _ = key
        return deltas_topic(APP, topic) if stage == ROLLUP else topic

    def harm_a_disk(self) -> None:
        """Take an image of a disk's ids, or, where nobody uses it, lose them, or put back an older image."""
        if not self.disks:
            return
        key = self._rng.choice(list(self.disks))
        disk, images, chance = self.disks[key], self.images.setdefault(key, []), self._rng.random()
        if chance < 0.4:
            images.append(disk.copy())
        elif chance < 0.7 and not disk.taken:
            self.note(f"disk {key} is lost")
            disk.clear()
        elif images and not disk.taken:
            self.note(f"disk {key} is rolled back")
            disk.restore(self._rng.choice(images))
