"""How long a consumer lets Kafka wait for a first record, and that it asks for nothing in a pause."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher

from rollup_engine.runtime.kafka import KafkaLog, wait_for_topics
from rollup_engine.runtime.kafka_clients import (
    BUSY_FETCH_WAIT_MS,
    FETCH_WAIT_MS,
    Cluster,
    PatientConsumer,
    consumer_options,
)
from rollup_engine.runtime.kafka_reader import KafkaReader


async def until(condition: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


@asynccontextmanager
async def reading(kafka: str) -> AsyncIterator[tuple[KafkaLog, PatientConsumer, TopicPartition]]:
    """A consumer of a topic of one partition, made for it."""
    one, connection = TopicPartition(f"patient-{uuid4().hex}", 0), {"bootstrap_servers": kafka}
    async with KafkaLog.connect(connection) as log:
        await log.create(one.topic, 1, {})
        await wait_for_topics(log, {one.topic: 1})
        consumer = PatientConsumer(**consumer_options(Cluster(connection, log.cluster.cluster_id)))
        await consumer.start()
        try:
            consumer.assign([one])
            yield log, consumer, one
        finally:
            await consumer.stop()


async def test_a_partition_that_runs_out_of_records_does_not_wait_for_those_that_have_none(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka must go on asking our hook: its requests have the wait that was set last."""
    asked: list[int] = []
    request = fetcher.FetchRequest

    def watched(wait_ms: int, *rest: Any, **options: Any) -> Any:
        asked.append(wait_ms)
        return request(wait_ms, *rest, **options)

    monkeypatch.setattr(fetcher, "FetchRequest", watched)
    async with reading(kafka) as (_, consumer, one):
        consumer.seek(one, 0)
        await until(lambda: FETCH_WAIT_MS in asked, "an idle consumer lets Kafka wait long")
        consumer.note(busy=True)
        await until(lambda: BUSY_FETCH_WAIT_MS in asked, "a busy one does not")
        consumer.note(busy=False)  # of another partition: it is still busy
        asked.clear()
        await until(lambda: asked, "it goes on asking")
        assert set(asked) == {BUSY_FETCH_WAIT_MS}
        consumer._busy_until = 0.0  # as after a while without
        consumer.note(busy=False)
        asked.clear()
        await until(lambda: FETCH_WAIT_MS in asked, "then it is patient again")


async def test_what_came_in_a_pause_is_one_batch(kafka: str) -> None:
    """Whichever way the first batch came: aiokafka fetches ahead as soon as it has handed out what it held."""
    async with reading(kafka) as (log, consumer, one):
        reader = KafkaReader(log, consumer, one, pause_seconds=0.01)
        reader.seek(0)
        first = asyncio.create_task(reader.read(10, 20_000))
        await asyncio.sleep(0.1)
        await log.append(one.topic, 0, b"a")
        assert [record.value for record in await first] == [b"a"]
        for batch in ([b"b", b"c"], [b"d", b"e"]):
            for value in batch:
                await log.append(one.topic, 0, value)
                await asyncio.sleep(0.1)
            assert [record.value for record in await reader.read(10, 20_000)] == batch
