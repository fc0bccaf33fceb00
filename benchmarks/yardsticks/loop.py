"""What a good engineer writes in an afternoon: aiokafka, orjson, a set of ids and a dict of totals, all in memory.

Nothing is durable: a restart begins again.
"""

import asyncio

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.yardsticks.common import Stopwatch, Task, task, window_ms


async def main(task: Task) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=task.kafka, enable_auto_commit=False, max_partition_fetch_bytes=4 << 20
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(task.topic, partition) for partition in range(task.partitions)])
        await consumer.seek_to_beginning()
        watch, fetched = Stopwatch(), 0
        seen: set[str] = set()
        totals: dict[tuple[int, str, str], list[int]] = {}
        watch.start()
        while fetched < task.events:
            batches = await consumer.getmany(timeout_ms=1_000, max_records=20_000)
            for records in batches.values():
                fetched += len(records)
                for record in records:
                    event = orjson.loads(record.value)
                    if event["id"] in seen:
                        continue
                    seen.add(event["id"])
                    total = totals.setdefault((window_ms(event["at"]), event["customer"], event["speed"]), [0, 0])
                    total[0] += 1
                    total[1] += event["bytes"]
        task.done(watch.seconds, ((*key, count, size) for key, (count, size) in totals.items()))
    finally:
        await consumer.stop()


asyncio.run(main(task()))
