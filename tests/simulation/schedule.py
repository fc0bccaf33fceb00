"""One schedule: everything that happens, drawn from its seed; and what must hold after every step and at the end.

    python -m tests.simulation --seed 42 --trace

repeats a schedule step by step. Sessions of all stages run as tasks whose every await is an operation (`faults`); a
step lets one operation happen or fail, kills or starts a session (beside a running one: a zombie), produces records,
moves the clock, loses or rolls back a disk, delivers a delayed request, or loses an acknowledged record. In the end the
faults stop, everything drains, and all must equal the recount.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from rollup_engine import exchange
from rollup_engine.clock import ManualClock
from rollup_engine.config.model import Config
from rollup_engine.dedup.memory import MemoryIds
from rollup_engine.dedup.stage import DedupPartition
from rollup_engine.errors import BrokerUnavailable, ClaimLost, DatabaseUnavailable, PartitionHalted
from rollup_engine.exchange import HOLE_MS_MAX, Packed
from rollup_engine.pipeline import StagePartition
from rollup_engine.ports import SeenIds
from rollup_engine.progress import DEDUP, ROLLUP
from rollup_engine.route.stage import RoutePartition
from rollup_engine.runtime.memory import MemorySink
from rollup_engine.tables import Schema
from rollup_engine.topology import Topology, deltas_topic, events_topic, source_name
from rollup_engine.windows.stage import RollupPartition
from tests.simulation.checks import Checker, Violation
from tests.simulation.faults import (
    FaultyStore,
    GatedLog,
    GatedReader,
    GatedSink,
    Operation,
    Session,
    SimulatedLog,
    StoreFault,
)
from tests.simulation.oracle import Oracle
from tests.simulation.world import EPOCH_MS, IDLE_MS, RAW, World, make

APP = "sim"
EVENTS = events_topic(APP)
ZOMBIES_MAX = 2  # sessions on one partition
Key = tuple[str, str, int]  # stage, input topic, partition


class Simulation:
    """Runs the schedule of one seed."""

    def __init__(self, seed: int, *, steps_max: int = 400) -> None:
        self.seed, self._steps_max = seed, steps_max
        self._rng = Random(seed)
        self.world: World = make(self._rng)
        self.log, self.sink = SimulatedLog(), MemorySink()
        self.clock = ManualClock(EPOCH_MS)
        self.oracle = Oracle(self.world.configs, RAW)
        self.oracle.first_offset = self.world.first_offset
        self.trace: list[str] = []
        self.lost = self.halted = False
        self._produced, self._latest_ms = 0, EPOCH_MS
        self._sessions: dict[Key, list[Session]] = {}
        self._delayed: list[Operation] = []
        self._disks: dict[tuple[int, int], FaultyStore] = {}
        self._images: dict[tuple[int, int], list[MemoryIds]] = {}
        self._rollups = self.world.rollups()
        self._checker = Checker(list(self._rollups.values()), self.oracle, self.log, self.sink, EVENTS)

    def run(self) -> str:
        """`exact`; `noticed` where the broker lost records and the engine stopped. Raises `Violation`."""
        try:
            with _record_bytes(self.world.record_bytes_max):
                return asyncio.run(self._run())
        except Violation as violation:
            raise Violation(f"{violation}\n  repeat: python -m tests.simulation --seed {self.seed} --trace") from None

    async def _run(self) -> str:
        await self.log.create(RAW, self.world.raw_partitions, {})
        await self.log.create(EVENTS, self.world.partitions, {})
        for number in range(self.world.raw_partitions):
            for _ in range(self.world.first_offset):
                self.log.put(RAW, number, b"before our time", EPOCH_MS)
            await self.log.trim(RAW, number, self.world.first_offset)
        self._sessions = {("route", RAW, number): [] for number in range(self.world.raw_partitions)}
        self._sessions |= {(DEDUP, EVENTS, number): [] for number in range(self.world.partitions)}
        await self._declare(1)
        try:
            for _ in range(self._rng.randint(self._steps_max // 8, self._steps_max)):
                if self._topology.generation < len(self.world.configs) and self._rng.random() < 0.01:
                    await self._declare(self._topology.generation + 1)
                await self._step()
                await self._settle()
                self._checker.after_step()
                if self.halted:
                    return "noticed"
            return await self._drain()
        finally:
            for sessions in self._sessions.values():
                for session in sessions:
                    session.task.cancel()
            await asyncio.sleep(0)

    async def _declare(self, generation: int) -> None:
        """Sessions started from now on run under this generation's YAML; older ones may go on, as they can."""
        configs = {number: config for number, config in enumerate(self.world.configs, 1) if number <= generation}
        tables = [rollup.table for config in configs.values() for rollup in config.rollups]
        for table in tables:
            await self.log.create(deltas_topic(APP, table), self.world.partitions, {})
            for number in range(self.world.partitions):
                self._sessions.setdefault((ROLLUP, table, number), [])
        incarnations = {topic: f"life of {topic}" for topic in (EVENTS, *(deltas_topic(APP, t) for t in tables))}
        schemas = {
            table: Schema.of(
                max(
                    (r for c in configs.values() for r in c.rollups if r.table == table),
                    key=lambda r: len(r.aggregates),
                )
            )
            for table in tables
        }

        async def load(wanted: int) -> Config:
            return self.world.configs[wanted - 1]

        self._topology = Topology(
            APP, self.world.partitions, generation, {generation: configs[generation]}, incarnations, schemas, load
        )
        self._note(f"generation {generation}")

    # ------------------------------------------------------------------------------------------------------- steps

    async def _step(self) -> None:
        rng, chance = self._rng, self._rng.random()
        key = rng.choice(list(self._sessions))
        sessions = self._sessions[key]
        if chance < 0.70:
            if not sessions:
                self._start(key)
            else:
                self._operate(rng.choice(sessions))
        elif chance < 0.80:
            self._produce(rng.randint(1, 5))
        elif chance < 0.86:
            self.clock.advance(rng.choice((10, 1_000, IDLE_MS)))
            if rng.random() < 0.3:  # back to no earlier than what was produced: `future` is judged by the clock
                self.clock.jump(rng.choice((3_600_000, self._latest_ms - self.clock.now_ms())))
        elif chance < 0.89:
            if len(sessions) < ZOMBIES_MAX:
                self._start(key)
        elif chance < 0.92:
            self._deliver_late()
        elif chance < 0.94:
            if sessions:
                self._kill(rng.choice(sessions))
        elif chance < 0.95:
            if sessions:
                session = rng.choice(sessions)
                session.stop.set()
                self._note(f"{session.name} is asked to stop")
        elif chance < 0.99:
            self._harm_a_disk()
        elif self.world.lossy:
            self._lose_a_record()

    def _operate(self, session: Session) -> None:
        """Let one of the things a session waits for happen, or not."""
        rng = self._rng
        if not session.pending:
            return
        operation = rng.choice(session.pending)
        chance = rng.random()
        if not operation.writes:
            if chance < 0.02:
                self._note(f"{session.name}: {operation.what} fails")
                operation.fail()
                return
            self._let(session, operation, rng.choice((1, 1, 2, 3, 8)))
        elif chance < 0.84:
            self._let(session, operation)
        elif chance < 0.88:
            self._note(f"{session.name}: {operation.what} fails")
            operation.fail()
        elif chance < 0.93:
            self._note(f"{session.name}: {operation.what} takes effect, the answer is lost")
            self._take_effect(operation)
            operation.fail()
        elif chance < 0.97:
            self._note(f"{session.name}: {operation.what} is given up, still under way")
            self._delayed.append(operation)
            operation.fail()
        else:
            if rng.random() < 0.5:
                self._note(f"{session.name}: {operation.what}, and then")
                self._take_effect(operation)
            self._kill(session)

    def _let(self, session: Session, operation: Operation, records: int = 1 << 30) -> None:
        if operation.what.startswith("read "):
            session.reader.next_read = records
        self._note(f"{session.name}: {operation.what}")
        operation.happen()

    def _take_effect(self, operation: Operation) -> None:
        try:
            operation.effect()
        except ClaimLost:
            self._note("  but the claim was lost")

    def _produce(self, count: int) -> None:
        for record in self.world.records[self._produced : self._produced + count]:
            self.clock.advance(max(0, record.timestamp_ms - self.clock.now_ms()))
            offset = self.log.put(RAW, record.partition, record.value, record.timestamp_ms)
            self.oracle.produced(source_name(RAW, record.partition), offset, record)
            self._latest_ms = max(self._latest_ms, record.timestamp_ms)
            at_ms = record.timestamp_ms - EPOCH_MS
            self._note(f"produced {RAW}/{record.partition} offset {offset} at {at_ms}: {record.value!r}")
        self._produced = min(self._produced + count, len(self.world.records))

    def _start(self, key: Key) -> None:
        stage, topic, number = key
        name = f"{stage} {topic}/{number} #{len(self.trace)}"
        session = Session(name, self._topology.generation, persists=self._rng.random() < 0.5)
        log, sink = GatedLog(session, self.log), GatedSink(session, self.sink)
        made: StagePartition
        if stage == DEDUP:
            made = DedupPartition(self._topology, number, log, sink, self.clock, lambda p: self._disk(p), IDLE_MS)
        elif stage == ROLLUP:
            made = RollupPartition(self._topology, topic, number, log, sink, self.clock)
            topic = deltas_topic(APP, topic)
        else:
            made = RoutePartition(self._topology, topic, number, log, sink, self.clock, IDLE_MS)
        session.start(made, GatedReader(session, self.log, topic, number))
        self._sessions[key].append(session)
        self._note(f"{session.name} starts")

    def _kill(self, session: Session) -> None:
        self._note(f"{session.name} is killed")
        session.task.cancel()

    def _disk(self, number: int) -> SeenIds:
        """A free slot of the two machines' disks."""
        free = [slot for slot in (0, 1) if not self._disks.setdefault((number, slot), FaultyStore(self._rng)).taken]
        store = self._disks[number, self._rng.choice(free)]
        store.taken = True
        return store

    def _harm_a_disk(self) -> None:
        free = [key for key, store in self._disks.items() if not store.taken]
        if not self._disks:
            return
        key = self._rng.choice(list(self._disks))
        images = self._images.setdefault(key, [])
        chance = self._rng.random()
        if chance < 0.4:
            images.append(self._disks[key].copy())
        elif key in free and chance < 0.7:
            self._note(f"disk {key} is lost")
            self._disks[key] = FaultyStore(self._rng)
        elif key in free and images:
            self._note(f"disk {key} is rolled back")
            self._disks[key].restore(self._rng.choice(images))

    def _deliver_late(self) -> None:
        if self._delayed:
            operation = self._delayed.pop(self._rng.randrange(len(self._delayed)))
            self._note(f"arrives late: {operation.what}")
            self._take_effect(operation)

    def _lose_a_record(self) -> None:
        """The broker loses the last record of a partition, acknowledged and not yet read by anyone."""
        stage, topic, number = self._rng.choice([key for key in self._sessions if key[0] != "route"])
        name = topic if stage == DEDUP else deltas_topic(APP, topic)
        if self.log.lose_last(name, number):
            self.lost = True
            self._note(f"the broker loses the last record of {name}/{number}")

    def _note(self, what: str) -> None:
        self.trace.append(what)

    # ------------------------------------------------------------------------------------------------------ driving

    async def _settle(self) -> None:
        """Let all tasks run until each waits for the schedule; see how those ended that did."""
        for _ in range(6):
            await asyncio.sleep(0)
        for sessions in self._sessions.values():
            for session in list(sessions):
                while not session.task.done() and not session.pending:
                    await asyncio.sleep(0)
                if session.task.done():
                    sessions.remove(session)
                    self._ended(session)

    def _ended(self, session: Session) -> None:
        error = None if session.task.cancelled() else session.task.exception()
        self._note(f"{session.name} ended: {error!r}")
        if isinstance(error, PartitionHalted):
            if self.lost:
                self.halted = True
                return
            if self._superseded(session) or session.generation < self._topology.generation:
                return  # it read on where another had moved the log's start, or what a newer YAML declares
        if error is not None and not isinstance(error, (BrokerUnavailable, DatabaseUnavailable, ClaimLost, StoreFault)):
            raise Violation(f"{session.name} ended with {error!r}") from error

    def _superseded(self, session: Session) -> bool:
        claim = session.claim
        return claim is not None and self.sink.rows[claim.stage, claim.partition].epoch > claim.position.epoch

    async def _drain(self) -> str:
        """No more faults; what is under way arrives, old sessions end or stay, and all is worked off."""
        rng = self._rng
        while self._topology.generation < len(self.world.configs):
            await self._declare(self._topology.generation + 1)
        self._note("the faults end")
        self._produce(len(self.world.records))
        for store in self._disks.values():
            store.faults = False
        for sessions in self._sessions.values():
            for session in list(sessions):
                if session.generation < self._topology.generation or rng.random() < 0.6:
                    self._kill(session)
        await self._settle()
        quiet, before = 0, -1
        # Rounds: an undeclared rollup is emitted every 30 s, and a hole that stays open is told after HOLE_MS_MAX.
        rest = 3 + 6 * (len(self.world.configs) > 1) + (HOLE_MS_MAX // IDLE_MS + 2) * self.lost
        for _ in range(400):
            if self._delayed and rng.random() < 0.5:
                self._deliver_late()
            for key, sessions in self._sessions.items():
                if not sessions or (len(sessions) < ZOMBIES_MAX and rng.random() < 0.02 and not quiet):
                    self._start(key)
                    await self._settle()
                for session in list(sessions):
                    await self._work_off(session, sessions)
            self._checker.after_step()
            if self.halted:
                return "noticed"
            self.clock.advance(IDLE_MS)
            size = self._checker.size
            resting = size == before and not self._delayed and all(self._sessions.values())
            quiet, before = (quiet + 1 if resting else 0), size
            if quiet > rest:
                break
        else:
            raise Violation("never came to rest")
        self._checker.at_end()
        return "exact"

    async def _work_off(self, session: Session, sessions: list[Session]) -> None:
        """Let a session go on until it has read all there is, and waits to read again."""
        while session.pending and session in sessions:
            operation = session.pending[0]
            waits = operation.what == session.reader.what and not session.reader.lag
            self._let(session, operation, self._rng.choice((1, 4, 100)))
            await self._settle()
            if waits:
                break


@contextmanager
def _record_bytes(bytes_max: int) -> Iterator[None]:
    """Packed records are cut at this size."""
    pack = exchange.pack

    def cut_smaller(packed: Packed, _: int = 0) -> list[bytes]:
        return pack(packed, bytes_max)

    exchange.pack = cut_smaller
    try:
        yield
    finally:
        exchange.pack = pack
