"""The same batches straight to Kafka with aiokafka: a lane waits for all acknowledgements of a batch before its next.

`--variant send`: every event by `producer.send`, as an application does. `batches`: 500 as one record batch, which is
the least that a client can do. Runs as a process of its own, on the core that `serve` had.
"""

import argparse
import asyncio
import json
import time
from itertools import count
from pathlib import Path

from aiokafka import AIOKafkaProducer

from benchmarks.beds import BATCH_BYTES


async def main(options: argparse.Namespace) -> None:
    lines = options.file.read_bytes().splitlines()
    batches = iter([lines[start : start + options.batch] for start in range(0, len(lines), options.batch)])
    latencies: list[float] = []
    partitions = count()
    producer = AIOKafkaProducer(
        bootstrap_servers=options.kafka,
        acks="all",
        enable_idempotence=options.idempotent,
        max_batch_size=BATCH_BYTES,
    )

    async def lane() -> None:
        for batch in batches:
            started = time.perf_counter()
            if options.variant == "send":
                sent = [await producer.send(options.topic, value) for value in batch]
                await asyncio.gather(*sent)
            else:
                built = producer.create_batch()
                for value in batch:
                    built.append(key=None, value=value, timestamp=None)
                partition = next(partitions) % options.partitions
                await (await producer.send_batch(built, options.topic, partition=partition))
            latencies.append(time.perf_counter() - started)

    async with producer:
        started = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(options.lanes)))
        seconds = time.perf_counter() - started
    options.out.write_text(json.dumps({"seconds": seconds, "latencies": latencies}))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variant", choices=["send", "batches"], required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--lanes", type=int, required=True)
    parser.add_argument("--idempotent", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parsed()))
