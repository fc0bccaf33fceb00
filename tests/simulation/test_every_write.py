"""A crash at every single write in turn, before and after it, comes to exactly what the recount says.

As SQLite fails the n-th I/O for n = 1, 2, 3, …: small fixed worlds, run once more for every write that they make, an
append, a claim, an advance or a store's; until there is no n-th write.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from random import Random

import pytest

from tests.simulation.faults import Fault, Operation, Session
from tests.simulation.schedule import ALL, Simulation
from tests.simulation.world import World, make

PORTION = 3  # raw records that are produced at a time
WRITES_MIN = 20  # of a world worth the name


class CrashAtWrite(Simulation):
    """A schedule whose one fault is that the session which makes the `nth` write crashes, `when`."""

    def __init__(self, world: World, nth: int, when: Fault) -> None:
        super().__init__(0, world)
        self._nth, self._when, self._writes = nth, when, 0
        self.crashed: str | None = None  # at which write
        self.engine.store_fault = lambda: self._when if self._is_the_one("store") else ""

    async def _run(self) -> str:
        engine = self.engine
        await engine.create()
        try:
            while engine.produced < len(self.world.records):
                engine.produce(PORTION)
                await self._round(zombies=False)
                engine.checker.after_step()
                if engine.generation < len(self.world.configs):
                    await self._declare()
            return await self._rest()
        finally:
            await self._end()

    def _let(self, session: Session, operation: Operation, records: int = ALL) -> None:
        if not operation.writes or not self._is_the_one(operation.what):
            super()._let(session, operation, records)
            return
        if self._when == "after":
            self._take_effect(operation)
        self.engine.kill(session)

    def _is_the_one(self, what: str) -> bool:
        self._writes += 1
        if self._writes == self._nth:
            self.crashed = what
            self.engine.note(f"crash {self._when} write {self._nth}: {what}")
        return self._writes == self._nth


def small(seed: int, raw_partitions: int, partitions: int, *, records: int = 6, **changes: object) -> World:
    world = replace(make(Random(seed)), lossy=False, remade=False, **changes)  # type: ignore[arg-type]
    kept = [replace(one, partition=one.partition % raw_partitions) for one in world.records[:records]]
    return replace(world, raw_partitions=raw_partitions, partitions=partitions, records=kept)


def _maps_other_fields(seed: int) -> bool:
    world = make(Random(seed))
    return world.remapped and len(world.configs) == 2 and len(world.rollups()) == 1


WORLDS: dict[str, Callable[[], World]] = {
    "one partition of everything": lambda: small(1, 1, 1),
    "two of everything": lambda: small(2, 2, 2),
    "records cut in parts": lambda: small(3, 2, 1, record_bytes_max=1_000, first_offset=7),
    "another YAML on the way": lambda: small(next(filter(_maps_other_fields, count())), 1, 2),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_crash_at_every_write(world: Callable[[], World], when: Fault) -> None:
    crashed_at: Counter[str] = Counter()
    for nth in count(1):
        schedule = CrashAtWrite(world(), nth, when)
        try:
            assert schedule.run() == "exact"
        except AssertionError:
            print(*schedule.trace, sep="\n")
            raise
        if schedule.crashed is None:
            break
        crashed_at[schedule.crashed.split()[0]] += 1
    assert crashed_at.total() > WRITES_MIN
    assert crashed_at.keys() == {"append", "claim", "advance", "store"}
