"""The embedded broker starts anew, and a worker of its life before goes on: what that one sends must never be taken.

Its record says that it covers the very first raw offsets, as this life's first record will: marks could not tell.
"""

import asyncio
from dataclasses import replace
from random import Random

from rollup_engine.progress import ROUTE, Position
from tests.simulation.deployment import Key
from tests.simulation.faults import Session
from tests.simulation.schedule import Simulation
from tests.simulation.world import RAW, make

ROUTER: Key = (ROUTE, RAW, 0)
RECORDS = 3
ROUNDS = 4
GONE = ("marks", "revision_offset", "covered", "last_offset", "last_crc")  # of a row's state: they speak of the topics


class BrokerStartsAnew(Simulation):
    """Records are judged and added up in one life of the topics; a zombie of it sends into the next."""

    def __init__(self) -> None:
        world = replace(make(Random(1)), raw_partitions=1, partitions=1, first_offset=0)
        world.records = [replace(record, partition=0) for record in world.records]
        super().__init__(0, world)

    async def _run(self) -> str:
        engine = self.engine
        await engine.create()
        try:
            engine.produce(RECORDS)
            zombie = await self._zombie()
            await self._rounds()
            await self._begin_new_life()
            engine.produce(RECORDS)
            zombie.pending[0].happen()
            await self._rounds()
            zombie.task.cancel()
            return "noticed" if engine.halted else "unnoticed"
        finally:
            await self._end()

    async def _zombie(self) -> Session:
        """A session that has read the first records, and hangs just before it sends them."""
        self.engine.start(ROUTER)
        zombie = self.engine.sessions[ROUTER].pop()
        while not zombie.pending or not zombie.pending[0].what.startswith("append"):
            if zombie.pending:
                self._let(zombie, zombie.pending[0])
            await asyncio.sleep(0)
        return zombie

    async def _rounds(self) -> None:
        for _ in range(ROUNDS):
            if not self.engine.halted:
                await self._round(zombies=False)

    async def _begin_new_life(self) -> None:
        """As the registry does: positions begin again, ids and totals stay."""
        engine = self.engine
        engine.kill_all()
        await engine.settle()
        for topic in engine.log.topics:
            engine.log.remake(topic, [0 for _ in engine.log.all(topic)])
        for key, row in engine.sink.rows.items():
            state = {name: value for name, value in row.state.items() if name not in GONE}
            engine.sink.rows[key] = Position(0, 0, row.epoch + 1, row.version + 1, state)
        engine.life, engine.lost = 2, True
        await engine.declare(engine.generation)


def test_what_a_worker_of_another_life_sends_halts() -> None:
    schedule = BrokerStartsAnew()
    assert schedule.run() == "noticed"
    assert "holds a record of another life" in "\n".join(schedule.trace)
