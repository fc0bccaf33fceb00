"""The buckets of a route process: the log with them in it, one watch per bucket beside the stages, and their topics.

A bucket's topic in Kafka is empty. It is there for the consumer group, which shares out its partitions.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg
import structlog

from rollup_engine.buckets.log import BucketLog
from rollup_engine.buckets.offsets import BUCKET_PARTITIONS
from rollup_engine.buckets.watch import Watch
from rollup_engine.config.model import Bucket
from rollup_engine.errors import ConfigError
from rollup_engine.ports import Log
from rollup_engine.runtime.bucket_ledger import PostgresLedger
from rollup_engine.runtime.kafka import KafkaLog, wait_for_topics

log = structlog.get_logger(__name__)
FAULT_SECONDS = 15.0
END_SECONDS = 3.0


@asynccontextmanager
async def with_buckets(
    kafka: Log, pool: "asyncpg.Pool[asyncpg.Record]", app_id: str, found: Mapping[str, Bucket]
) -> AsyncIterator[BucketLog]:
    """`kafka` with these buckets by their topics, which are watched for the block."""
    ledger = PostgresLedger(pool, app_id)
    buckets = BucketLog(kafka, ledger, found)
    watches = [Watch(bucket, buckets.stores[topic], ledger) for topic, bucket in found.items()]
    tasks = [asyncio.create_task(_keep_watching(watch), name="watch") for watch in watches]
    try:
        yield buckets
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_SECONDS)  # a database that does not answer is not waited for
        await buckets.close()


async def make_topic(log_: KafkaLog, topic: str) -> int:
    """Make a bucket's topic, unless it is there; how many partitions it has. Raises `ConfigError` for another one."""
    if await log_.create(topic, BUCKET_PARTITIONS, {}):
        return BUCKET_PARTITIONS
    await wait_for_topics(log_, {topic: 1})
    there = await log_.partitions(topic)
    if there != BUCKET_PARTITIONS:
        raise ConfigError(
            f"Topic {topic} stands for a bucket, and has {there} partitions in Kafka instead of {BUCKET_PARTITIONS}."
            " Delete it; it is made again."
        )
    if any([(await log_.bounds(topic, number))[1] for number in range(there)]):
        raise ConfigError(
            f"Topic {topic} stands for a bucket, and somebody has produced to it: nobody reads that."
            " Produce it to a topic of its own, and delete this one; it is made again."
        )
    return BUCKET_PARTITIONS


async def _keep_watching(watch: Watch) -> None:
    """Whatever happens, new objects are looked for again."""
    while True:
        try:
            await watch.forever()
        except Exception:
            log.exception("looking for new objects failed, trying again", seconds=FAULT_SECONDS)
        await asyncio.sleep(FAULT_SECONDS)
