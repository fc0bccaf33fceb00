"""Alarms in the database: raised once, gone when the partition goes on, and losses accepted one by one."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from rollup_engine.errors import PartitionHalted, UsageError
from rollup_engine.progress import ROUTE
from rollup_engine.runtime import schema
from rollup_engine.runtime.alarms import Alarms, Halt, accept_loss, halts
from rollup_engine.runtime.postgres import PostgresSink

Pool = "asyncpg.Pool[asyncpg.Record]"
WHERE = ROUTE, "raw/0"
LOST = PartitionHalted("records 5 to 9 are gone", "Bring them back.", loss="records from offset 5 on")


async def test_a_halt_is_shown_until_the_partition_goes_on(pool: Pool) -> None:
    alarms, others = Alarms(pool, "app"), Alarms(pool, "other app")
    alarms.tell(*WHERE, LOST)
    others.tell(*WHERE, LOST)
    await alarms.publish()
    await others.publish()
    (halt,) = await halts(pool, "app")
    assert (halt.stage, halt.source, halt.cause, halt.remedy, halt.loss) == (*WHERE, LOST.cause, LOST.remedy, LOST.loss)
    alarms.tell(*WHERE, LOST)  # tried again in vain
    await alarms.publish()
    assert await halts(pool, "app") == [halt], "since when stays"
    alarms.tell(*WHERE, PartitionHalted("something else", "Mend it."))
    await alarms.publish()
    (halt,) = await halts(pool, "app")
    assert (halt.cause, halt.loss) == ("something else", None)
    alarms.tell(*WHERE, None)
    await alarms.publish()
    assert await halts(pool, "app") == []
    assert len(await halts(pool, "other app")) == 1


async def test_two_stages_publish_at_once(pool: Pool) -> None:
    alarms = Alarms(pool, "app")
    for _ in range(20):
        alarms.tell(*WHERE, LOST)
        alarms.tell(ROUTE, "raw/1", None)
        await asyncio.gather(alarms.publish(), alarms.publish())
    assert [halt.source for halt in await halts(pool, "app")] == ["raw/0"]


async def test_what_the_database_did_not_take_is_written_later(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    alarms = Alarms(pool, "app")
    alarms.tell(*WHERE, LOST)

    class Away:
        async def execute(self, *args: object) -> None:
            raise ConnectionRefusedError

    with monkeypatch.context() as patch:
        patch.setattr(alarms, "_pool", Away())
        await alarms.publish()
    assert await halts(pool, "app") == []
    await alarms.publish()
    assert len(await halts(pool, "app")) == 1


async def test_a_loss_is_accepted_for_this_halt_and_no_other(pool: Pool) -> None:
    alarms, sink = Alarms(pool, "app"), PostgresSink(pool, "app")
    alarms.tell(*WHERE, LOST)
    await alarms.publish()
    assert await accept_loss(pool, "app", "raw/0", lambda halt: False) is None
    assert await sink.accepted(*WHERE) == set()
    accepted = await accept_loss(pool, "app", "raw/0", lambda halt: "5 to 9" in halt.cause)
    assert accepted is not None
    assert await sink.accepted(*WHERE) == {"records from offset 5 on"}
    assert await sink.accepted(ROUTE, "raw/1") == set()
    assert await PostgresSink(pool, "other app").accepted(*WHERE) == set()


async def test_what_cannot_be_given_up_is_refused_with_the_remedy(pool: Pool) -> None:
    with pytest.raises(UsageError, match="does not stand still"):
        await accept_loss(pool, "app", "raw/0", lambda halt: True)
    alarms = Alarms(pool, "app")
    alarms.tell(*WHERE, PartitionHalted("the topic was made again", "Produce to a new one."))
    await alarms.publish()
    with pytest.raises(UsageError, match=r"the topic was made again\. Produce to a new one\."):
        await accept_loss(pool, "app", "raw/0", lambda halt: True)


async def test_a_halt_that_changed_while_the_operator_thought_is_not_accepted(pool: Pool, database_url: str) -> None:
    alarms = Alarms(pool, "app")
    alarms.tell(*WHERE, LOST)
    await alarms.publish()

    async def goes_on() -> None:
        async with schema.connected(database_url, 1) as own:
            meanwhile = Alarms(own, "app")
            meanwhile.tell(*WHERE, PartitionHalted("records 7 to 11 are gone", "…", loss="records from offset 7 on"))
            await meanwhile.publish()

    def thinks(halt: Halt) -> bool:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, goes_on()).result()
        return True

    with pytest.raises(UsageError, match="for another reason by now"):
        await accept_loss(pool, "app", "raw/0", thinks)
    assert await PostgresSink(pool, "app").accepted(*WHERE) == set()
