"""One schedule: everything that happens, drawn from its seed.

    python -m tests.simulation --seed 42 --trace

repeats a schedule step by step. Sessions of all stages run as tasks whose every await is an operation (`faults`); a
step lets one operation happen or fail, kills or starts a session (beside a running one: a zombie), produces records,
moves the clocks, loses or rolls back a disk, delivers a delayed request, changes the YAML, deletes a topic and makes it
again, or loses an acknowledged record. After every step nothing committed may exceed the recount. In the end the faults
stop, everything is worked off, and all must be equal.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from rollup_engine import exchange
from rollup_engine.errors import ClaimLost
from rollup_engine.exchange import HOLE_MS_MAX
from rollup_engine.packing import RECORD_BYTES_MAX, Packed
from rollup_engine.progress import DEDUP, ROLLUP, ROUTE
from tests.simulation.checks import Violation
from tests.simulation.deployment import EVENTS, Deployment, Key
from tests.simulation.faults import Fault, Operation, Session
from tests.simulation.world import EPOCH_MS, IDLE_MS, World, make

ZOMBIES_MAX = 2  # sessions on one partition
ROUNDS_MAX = 400
ALL = 1 << 30


class Simulation:
    """Runs the schedule of one seed."""

    def __init__(self, seed: int, world: World | None = None, *, steps_max: int = 400) -> None:
        """`world`: where not given, the seed's."""
        self.seed, self._steps_max = seed, steps_max
        self._rng = Random(seed)
        self.world = world or make(self._rng)
        self.engine = Deployment(self.world, self._rng)
        self._delayed: list[Operation] = []  # given up by their callers, still to take effect

    @property
    def trace(self) -> list[str]:
        return self.engine.trace

    def run(self) -> str:
        """`exact`; or `noticed`, where the broker lost records and the engine stopped. Raises `Violation`."""
        try:
            with _records_cut_at(self.world.record_bytes_max):
                return asyncio.run(self._run())
        except AssertionError as violation:
            repeat = f"python -m tests.simulation --seed {self.seed} --trace"
            raise Violation(f"{violation}\n  repeat: {repeat}") from (violation.__cause__ or violation)

    async def _run(self) -> str:
        engine, rng = self.engine, self._rng
        await engine.create()
        engine.store_fault = self._store_fault
        try:
            for _ in range(rng.randint(self._steps_max // 8, self._steps_max)):
                if engine.generation < len(self.world.configs) and rng.random() < 0.01:
                    await self._declare()
                await self._step()
                await engine.settle()
                engine.checker.after_step()
                if engine.halted:
                    return "noticed"
            return await self._drain()
        finally:
            await self._end()

    async def _end(self) -> None:
        self.engine.kill_all()
        await asyncio.sleep(0)

    async def _declare(self) -> None:
        """The next YAML. Older sessions may go on; but where it maps other fields, those of route lost their lease."""
        engine = self.engine
        await engine.declare(engine.generation + 1)
        if not self.world.remapped:
            return
        await engine.end_leases()
        for operation in [one for one in self._delayed if one.what.startswith(f"append to {EVENTS}")]:
            self._delayed.remove(operation)
            if self._rng.random() < 0.5:  # what is under way for longer than a lease is lost
                engine.note(f"arrives late: {operation.what}")
                self._take_effect(operation)

    # ------------------------------------------------------------------------------------------------------- steps

    async def _step(self) -> None:
        rng, engine, chance = self._rng, self.engine, self._rng.random()
        key: Key = rng.choice(list(engine.sessions))
        sessions = engine.sessions[key]
        if chance < 0.70:
            if sessions:
                self._operate(rng.choice(sessions))
            else:
                engine.start(key)
        elif chance < 0.80:
            engine.produce(rng.randint(1, 5))
        elif chance < 0.86:
            self._let_time_pass()
        elif chance < 0.89:
            if len(sessions) < ZOMBIES_MAX:
                engine.start(key)
        elif chance < 0.92:
            self._deliver_late()
        elif chance < 0.94:
            if sessions:
                engine.kill(rng.choice(sessions))
        elif chance < 0.95:
            if sessions:
                session = rng.choice(sessions)
                session.stop.set()
                engine.note(f"{session.name} is asked to stop")
        elif chance < 0.98:
            engine.harm_a_disk()
        elif self.world.lossy:
            engine.lose_a_record(key)
        elif self.world.remade and not engine.lost:
            stage = rng.choice((ROUTE, DEDUP, ROLLUP))
            await engine.remake_a_topic(next(key for key in engine.sessions if key[0] == stage))
            self._delayed = [one for one in self._delayed if not one.what.startswith(f"advance {stage}")]

    def _store_fault(self) -> Fault:
        chance = self._rng.random()
        return "before" if chance < 0.04 else "after" if chance < 0.08 else ""

    def _let_time_pass(self) -> None:
        clock = self.engine.clock
        clock.advance(self._rng.choice((10, 1_000, IDLE_MS)))
        if self._rng.random() < 0.3:
            # Back to no earlier than the last record, elsewhere: what is future is judged by this clock.
            back = (-7_000, -3_600_000) if self.world.clock_set_back else ()
            clock.jump(self._rng.choice((3_600_000, self.engine.latest_ms - clock.now_ms(), *back)))
            self.engine.note(f"the clock says {clock.now_ms() - EPOCH_MS}")

    def _operate(self, session: Session) -> None:
        """Let one of the things that a session waits for happen, or not."""
        rng, note = self._rng, self.engine.note
        operation = rng.choice(session.pending)
        what, chance = f"{session.name}: {operation.what}", rng.random()
        if not operation.writes:
            if chance < 0.02:
                note(f"{what} fails")
                operation.fail()
            else:
                self._let(session, operation, rng.choice((1, 1, 2, 3, 8)))
        elif chance < 0.84:
            self._let(session, operation)
        elif chance < 0.88:
            note(f"{what} fails")
            operation.fail()
        elif chance < 0.93:
            note(f"{what} takes effect, the answer is lost")
            self._take_effect(operation)
            operation.fail()
        elif chance < 0.97:
            note(f"{what} is given up, still under way")
            self._delayed.append(operation)
            operation.fail()
        else:
            if rng.random() < 0.5:
                note(f"{what}, and then")
                self._take_effect(operation)
            self.engine.kill(session)

    def _let(self, session: Session, operation: Operation, records: int = ALL) -> None:
        session.reader.next_read = records
        self.engine.note(f"{session.name}: {operation.what}")
        operation.happen()

    def _take_effect(self, operation: Operation) -> None:
        try:
            operation.effect()
        except ClaimLost:
            self.engine.note("  but the claim was lost")

    def _deliver_late(self) -> None:
        if self._delayed:
            operation = self._delayed.pop(self._rng.randrange(len(self._delayed)))
            self.engine.note(f"arrives late: {operation.what}")
            self._take_effect(operation)

    # --------------------------------------------------------------------------------------------------- to the end

    async def _drain(self) -> str:
        """No more faults; what is under way arrives, old sessions end or stay, and all is worked off."""
        rng, engine = self._rng, self.engine
        while engine.generation < len(self.world.configs):
            await self._declare()
        engine.note("the faults end")
        engine.produce(len(self.world.records))
        engine.store_fault = lambda: ""
        for sessions in engine.sessions.values():
            for session in sessions:
                if session.generation < engine.generation or rng.random() < 0.6:
                    engine.kill(session)
        await engine.settle()
        return await self._rest()

    async def _rest(self) -> str:
        """Go on until nothing happens any more; then all must be equal."""
        engine = self.engine
        quiet, before = 0, -1
        for _ in range(ROUNDS_MAX):
            if self._delayed and self._rng.random() < 0.5:
                self._deliver_late()
            await self._round(zombies=not quiet)
            engine.checker.after_step()
            if engine.halted:
                return "noticed"
            engine.clock.advance(IDLE_MS)
            size = engine.checker.size
            quiet = quiet + 1 if size == before and not self._delayed and all(engine.sessions.values()) else 0
            before = size
            if quiet > self._rest_rounds:
                if engine.raw_lost:
                    raise Violation("nobody has noticed that the raw topic has another life")
                engine.checker.at_end()
                return "exact"
        raise Violation("never came to rest")

    @property
    def _rest_rounds(self) -> int:
        """Without news for so long, all is done: the longest wait of any timer, in rounds of IDLE_MS."""
        if self.engine.lost:
            return 3 + HOLE_MS_MAX // IDLE_MS + 2  # a hole that stays open is told
        grace_ms = max(event.grace_ms or 0 for event in self.world.configs[-1].events)  # so long until a topic is quiet
        # To close the last windows, a raw partition tells that it is quiet and rollup looks twice: two rounds for each.
        return 6 + grace_ms // IDLE_MS + 6 * (len(self.world.configs) > 1)  # a rollup no longer declared: every 30 s

    async def _round(self, *, zombies: bool) -> None:
        """Everyone goes on until there is nothing more to read."""
        rng, engine = self._rng, self.engine
        for key, sessions in engine.sessions.items():
            if not sessions or (zombies and len(sessions) < ZOMBIES_MAX and rng.random() < 0.02):
                engine.start(key)
                await engine.settle()
            for session in list(sessions):
                while session in sessions:
                    operation = session.pending[0]
                    waits = operation.what == session.reader.what and not session.reader.lag
                    self._let(session, operation, rng.choice((1, 4, 100)))
                    await engine.settle()
                    if waits:
                        break


@contextmanager
def _records_cut_at(bytes_max: int) -> Iterator[None]:
    """Packed records that are larger are cut."""
    pack = exchange.pack

    def cut(packed: Packed, _: int = RECORD_BYTES_MAX) -> list[bytes]:
        return pack(packed, bytes_max)

    exchange.pack = cut  # type: ignore[assignment]  # the parameter's name is not used
    try:
        yield
    finally:
        exchange.pack = pack
