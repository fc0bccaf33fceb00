"""When a reader pauses: only where it has read all there is, and more would make the next batch fuller. What came in a
pause is part of the next batch. And what it tells of being busy."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition

from rollup_engine.errors import PartitionHalted
from rollup_engine.runtime.kafka_reader import KafkaReader

ONE = TopicPartition("raw", 0)


class Consumer:
    """Gives what it is told to, of a partition that ends at `end`."""

    def __init__(self, gives: list[int], end: int) -> None:
        self._gives, self._end, self._next = gives, end, 0
        self.noted: list[bool] = []
        self.asked: list[int] = []
        self.stable: int | None = None

    async def getmany(self, *_: object, max_records: int = 0, **__: object) -> dict[TopicPartition, list[Any]]:
        self.asked.append(max_records)
        count = self._gives.pop(0)
        self._next += count
        return {ONE: [SimpleNamespace(offset=offset) for offset in range(self._next - count, self._next)]}

    async def position(self, _: TopicPartition) -> int:
        return self._next

    def highwater(self, _: TopicPartition) -> int:
        return self._end

    def last_stable_offset(self, _: TopicPartition) -> int | None:
        return self.stable

    def seek(self, *_: object) -> None:
        pass

    def note(self, *, busy: bool) -> None:
        self.noted.append(busy)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether it paused before each read; no pause takes any time."""
    slept: list[bool] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds > 0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return slept


def pausing(consumer: Consumer, start: int = 0, end: int = 0) -> KafkaReader:
    """Of a partition that holds [start, end)."""

    async def bounds(*_: object) -> tuple[int, int]:
        return start, end

    log: Any = SimpleNamespace(cluster=SimpleNamespace(embedded=False), bounds=bounds)
    return KafkaReader(log, cast("Any", consumer), ONE, pause_seconds=60.0)


@pytest.mark.parametrize(
    ("gives", "end", "expected"),
    [
        ([3, 3, 0, 3, 0], 9, [False, True, True]),  # caught up
        ([10, 10, 10], 30, [False, False, False]),  # full batches
        ([4, 4, 4], 1_000, [False, False, False]),  # a backlog: what Kafka gave was just no more
        ([0, 3, 3, 0], 6, [False, False, True]),  # waited for in Kafka already
    ],
)
async def test_it_pauses_at_the_end_only(gives: list[int], end: int, expected: list[bool], slept: list[bool]) -> None:
    reader = pausing(Consumer(gives, end))
    for _ in expected:
        await reader.read(10, 0)
    assert slept == expected


async def test_what_came_in_a_pause_is_part_of_the_batch_after_it(slept: list[bool]) -> None:
    """aiokafka holds what it fetched as the pause began: records that came since would wait for one pause more."""
    consumer = Consumer([3, 2, 4], 3)
    reader = pausing(consumer)
    await reader.read(10, 0)
    assert [record.offset for record in await reader.read(10, 0)] == [3, 4, 5, 6, 7, 8]
    assert consumer.asked == [10, 10, 8]
    assert consumer.noted == [False, True]
    assert reader.position == 9


async def test_records_lost_in_a_pause_are_not_skipped(slept: list[bool]) -> None:
    consumer = Consumer([3, 2, 4], 11)
    reader = pausing(consumer, start=7, end=11)
    await reader.read(10, 0)
    give = consumer.getmany

    async def behind_a_loss(*_: object, max_records: int = 0, **__: object) -> dict[TopicPartition, list[Any]]:
        if max_records < 10:
            consumer._next = 7
        return await give(max_records=max_records)

    consumer.getmany = behind_a_loss  # type: ignore[method-assign]
    with pytest.raises(PartitionHalted, match="records 5 to 6 are gone"):
        await reader.read(10, 0)


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
    reading = asyncio.create_task(reader.read(10, 60_000))
    await asyncio.sleep(0.01)
    assert not reading.done()
    stop.set()
    async with asyncio.timeout(5):
        assert await reading == []
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
