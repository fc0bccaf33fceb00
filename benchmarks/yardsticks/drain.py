"""The limit: one process that fetches every record with `aiokafka.getmany`, and does nothing with it."""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.yardsticks.common import Stopwatch, Task, task


async def main(task: Task) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=task.kafka,
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 << 20,
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(task.topic, partition) for partition in range(task.partitions)])
        await consumer.seek_to_beginning()
        watch, fetched = Stopwatch(), 0
        watch.start()
        while fetched < task.events:
            batches = await consumer.getmany(timeout_ms=1_000, max_records=20_000)
            fetched += sum(map(len, batches.values()))
        task.done(watch.seconds, [])
    finally:
        await consumer.stop()


asyncio.run(main(task()))
