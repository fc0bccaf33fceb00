"""When a reader pauses: only where it has read all there is, and more would make the next batch fuller. And when it
tells its consumer that it is busy."""

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition

from rollup_engine.errors import PartitionHalted
from rollup_engine.ports import Record
from rollup_engine.runtime.kafka_reader import KafkaReader

ONE = TopicPartition("raw", 0)


class Consumer:
    """Gives what it is told to, of a partition that ends at `end`; of a paused one nothing, as aiokafka does."""

    def __init__(self, gives: list[int], end: int) -> None:
        self._gives, self._end, self.next = gives, end, 0
        self.noted: list[bool] = []
        self.waits_ms: list[int] = []
        self.stable: int | None = None
        self.paused = False

    async def getmany(self, *_: object, timeout_ms: int = 0, **__: object) -> dict[TopicPartition, list[Any]]:
        self.waits_ms.append(timeout_ms)
        if self.paused:
            return {}
        count = self._gives.pop(0)
        self.next += count
        return {ONE: [SimpleNamespace(offset=offset) for offset in range(self.next - count, self.next)]}

    async def position(self, _: TopicPartition) -> int:
        return self.next

    def highwater(self, _: TopicPartition) -> int:
        return self._end

    def last_stable_offset(self, _: TopicPartition) -> int | None:
        return self.stable

    def seek(self, _: TopicPartition, offset: int) -> None:
        self.next = offset

    def pause(self, _: TopicPartition) -> None:
        self.paused = True

    def resume(self, _: TopicPartition) -> None:
        self.paused = False

    def note(self, *, busy: bool) -> None:
        self.noted.append(busy)


def pausing(consumer: Consumer, pause_seconds: float = 60.0, stop: asyncio.Event | None = None) -> KafkaReader:
    """Of a partition that holds [7, 11)."""

    async def bounds(*_: object) -> tuple[int, int]:
        return 7, 11

    log: Any = SimpleNamespace(cluster=SimpleNamespace(embedded=False), bounds=bounds)
    return KafkaReader(log, cast("Any", consumer), ONE, pause_seconds=pause_seconds, stop=stop)


async def stopped(reader: KafkaReader, stop: asyncio.Event) -> Sequence[Record]:
    """What a read gives that is under way, and would be for a minute, as `stop` is set."""
    reading = asyncio.create_task(reader.read(10, 60_000))
    await asyncio.sleep(0.01)
    assert not reading.done()
    stop.set()
    async with asyncio.timeout(5):
        return await reading


@pytest.mark.parametrize(
    ("gives", "end", "expected"),
    [
        ([3, 0, 0], 3, [True, False]),  # caught up
        ([3, 0, 0], 5, [True, False]),  # what follows is of a transaction
        ([10, 10, 10], 30, [False, False, False]),  # full batches
        ([4, 4, 4], 21, [False, False, True]),  # a backlog: what Kafka gave was just no more
        ([0, 0, 3], 3, [False, True]),  # waited for in Kafka already
    ],
)
async def test_it_pauses_at_the_end_only(gives: list[int], end: int, expected: list[bool]) -> None:
    """And aiokafka fetches nothing meanwhile: what it held would be of the pause's beginning."""
    consumer = Consumer(gives, end)
    reader = pausing(consumer)
    for paused in expected:
        await reader.read(10, 1)
        assert consumer.paused == paused


async def test_a_pause_lasts_until_something_is_due_at_most() -> None:
    consumer = Consumer([3, 3, 3], 3)
    reader = pausing(consumer, pause_seconds=0.3)
    started = time.monotonic()
    await reader.read(10, 1)
    assert len(await reader.read(10, 60_000)) == 3
    assert time.monotonic() - started > 0.29
    reader = pausing(Consumer([3, 3, 3], 3))
    await reader.read(10, 1)
    async with asyncio.timeout(5):
        assert len(await reader.read(10, 20)) == 3


async def test_a_pause_is_part_of_the_time_that_a_read_may_take() -> None:
    """Or what is due would wait for a second time; but a fetch for what came meanwhile has its time."""
    consumer = Consumer([3, 0, 0], 3)
    reader = pausing(consumer, pause_seconds=0.3)
    await reader.read(10, 1)
    await reader.read(10, 10_000)
    assert 0 < consumer.waits_ms[-1] < 9_900
    consumer = Consumer([3, 0, 0], 3)
    reader = pausing(consumer)
    await reader.read(10, 1)
    await reader.read(10, 20)
    assert consumer.waits_ms[-1] == 100
    consumer = Consumer([3, 2, 0, 0], 5)
    reader = pausing(consumer)
    for _ in range(3):
        await reader.read(10, 20)
    assert consumer.waits_ms[-1] == 400, "where records flow, some are on their way"


async def test_a_stop_ends_a_pause() -> None:
    consumer, stop = Consumer([3, 0, 0], 3), asyncio.Event()
    reader = pausing(consumer, stop=stop)
    await reader.read(10, 1)
    assert await stopped(reader, stop) == []
    assert consumer.waits_ms[-1] == 100, "nor does it wait for more"


async def test_records_lost_in_a_pause_are_not_skipped() -> None:
    consumer = Consumer([5, 4], 11)
    reader = pausing(consumer)
    await reader.read(10, 1)
    consumer.next = 7
    with pytest.raises(PartitionHalted, match="records 5 to 6 are gone"):
        await reader.read(10, 1)


async def test_a_session_that_ended_in_a_pause_does_not_stop_the_next_one() -> None:
    consumer = Consumer([3, 3], 6)
    await pausing(consumer).read(10, 1)
    reader = pausing(consumer)
    reader.seek(3)
    assert [record.offset for record in await reader.read(10, 1)] == [3, 4, 5]


async def test_it_tells_its_consumer_when_records_come_faster_than_its_pauses() -> None:
    consumer = Consumer([1, 1, 2], 4)
    consumer.stable = 0
    reader = pausing(consumer)
    for _ in range(3):
        await reader.read(10, 1)
    assert consumer.noted == [False, False, True]


async def test_it_tells_its_consumer_of_a_backlog() -> None:
    log: Any = SimpleNamespace(cluster=SimpleNamespace(embedded=False))
    consumer: Any = Consumer([3, 3, 3, 0], 9)
    reader = KafkaReader(log, consumer, ONE)
    for _ in range(4):
        await reader.read(3, 0)
    assert consumer.noted == [True, True, False, False]


async def test_an_open_transaction_is_no_backlog() -> None:
    log: Any = SimpleNamespace(cluster=SimpleNamespace(embedded=False))
    consumer: Any = Consumer([3, 3], 9)
    consumer.stable = 6
    reader = KafkaReader(log, consumer, ONE)
    await reader.read(3, 0)
    await reader.read(3, 0)
    assert consumer.noted == [True, False]


class Slow(Consumer):
    """Gives what there is once there is some, or after the timeout, as aiokafka does."""

    def __init__(self) -> None:
        super().__init__([1], 1)
        self.there = asyncio.Event()

    async def getmany(self, *_: object, **options: Any) -> dict[TopicPartition, list[Any]]:
        if not self.there.is_set():
            try:
                await asyncio.wait_for(self.there.wait(), options["timeout_ms"] / 1000)
            except TimeoutError:
                return {}
        return await super().getmany()


async def test_a_stop_cuts_a_wait_short_and_loses_nothing() -> None:
    log: Any = SimpleNamespace(cluster=SimpleNamespace(embedded=False))
    consumer, stop = Slow(), asyncio.Event()
    reader = KafkaReader(log, cast("Any", consumer), ONE, stop=stop)
    assert await stopped(reader, stop) == []
    async with asyncio.timeout(5):
        started = time.monotonic()
        assert await reader.read(10, 20) == []  # what is left is worked off: a wait is a wait again
        assert time.monotonic() - started > 0.015
        consumer.there.set()
        assert [record.offset for record in await reader.read(10, 60_000)] == [0]
    assert reader.position == 1


async def test_a_wait_ends_with_the_first_record() -> None:
    log: Any = SimpleNamespace(cluster=SimpleNamespace(embedded=False))
    consumer = Slow()
    reader = KafkaReader(log, cast("Any", consumer), ONE, stop=asyncio.Event())
    reading = asyncio.create_task(reader.read(10, 60_000))
    await asyncio.sleep(0.01)
    consumer.there.set()
    async with asyncio.timeout(5):
        assert [record.offset for record in await reading] == [0]
