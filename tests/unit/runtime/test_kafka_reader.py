"""When a reader pauses: only where it has read all there is, and more would make the next batch fuller."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from rollup_engine.runtime.kafka_reader import KafkaReader

ONE = TopicPartition("raw", 0)


class Consumer:
    """Gives what it is told to, of a partition that ends at `end`."""

    def __init__(self, gives: list[int], end: int) -> None:
        self._gives, self._end, self._next = gives, end, 0

    async def getmany(self, *_: object, **__: object) -> dict[TopicPartition, list[Any]]:
        count = self._gives.pop(0)
        self._next += count
        return {ONE: [SimpleNamespace(offset=offset) for offset in range(self._next - count, self._next)]}

    async def position(self, _: TopicPartition) -> int:
        return self._next

    def highwater(self, _: TopicPartition) -> int:
        return self._end

    def seek(self, *_: object) -> None:
        pass


async def pauses(gives: list[int], end: int, monkeypatch: pytest.MonkeyPatch, records_max: int = 10) -> list[bool]:
    """Whether it paused before each read."""
    slept: list[bool] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds > 0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    log: Any = SimpleNamespace(cluster=SimpleNamespace(embedded=False))
    consumer: Any = Consumer(list(gives), end)
    reader = KafkaReader(log, consumer, ONE, pause_seconds=60.0)
    for _ in gives:
        await reader.read(records_max, 0)
    return slept


@pytest.mark.parametrize(
    ("gives", "end", "expected"),
    [
        ([3, 3, 3], 9, [False, True, True]),  # caught up
        ([10, 10, 10], 30, [False, False, False]),  # full batches
        ([4, 4, 4], 1_000, [False, False, False]),  # a backlog: what Kafka gave was just no more
        ([0, 3, 3], 6, [False, False, True]),  # waited for in Kafka already
    ],
)
async def test_it_pauses_at_the_end_only(
    gives: list[int], end: int, expected: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await pauses(gives, end, monkeypatch) == expected
