"""Sends lines as raw events, as a careful producer does: acknowledged by all replicas, one Kafka record a line."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable, RollupError
from rollup_engine.runtime.kafka import KafkaLog, connection_options

IN_FLIGHT_MAX = 5_000
LINE_BYTES_MAX = 16 << 20


async def produce(
    settings: Settings,
    kafka: str,
    topic: str,
    events: Iterable[tuple[int | None, bytes]],
    *,
    rate: float | None = None,
    on_sent: Callable[[int], None] = lambda count: None,
) -> int:
    """Send (partition or None, bytes) pairs; None spreads them. Returns how many were acknowledged.

    `rate`: events a second at the most. `on_sent` hears how many more bytes' worth of events were acknowledged.
    """
    options = connection_options(settings, kafka)
    async with KafkaLog.connect(options) as log:
        partitions = await log.partitions(topic)
        if not partitions:
            if not log.cluster.embedded:
                raise RollupError(f"Topic {topic!r} does not exist in Kafka. Create it first.")
            await log.create(topic, 4, {})
            partitions = 4
        producer = AIOKafkaProducer(
            **options,
            acks="all",
            enable_idempotence=not log.cluster.embedded,
            linger_ms=5,
            max_batch_size=1 << 19,
            max_request_size=LINE_BYTES_MAX,
        )
        await producer.start()
        try:
            return await _send_all(producer, topic, partitions, events, rate, on_sent)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(
                f"Kafka did not take every event: {error!r}. Send the same lines again: ids seen before are dropped."
            ) from error
        finally:
            await producer.stop()


async def _send_all(
    producer: AIOKafkaProducer,
    topic: str,
    partitions: int,
    events: Iterable[tuple[int | None, bytes]],
    rate: float | None,
    on_sent: Callable[[int], None],
) -> int:
    started, count = time.monotonic(), 0
    in_flight: deque[tuple[asyncio.Future[object], int]] = deque()

    async def settle(down_to: int) -> None:
        while len(in_flight) > down_to:
            future, size = in_flight.popleft()
            await future
            on_sent(size)

    for partition, value in events:
        to = count % partitions if partition is None else partition % partitions
        in_flight.append((await producer.send(topic, value, partition=to), len(value)))
        count += 1
        if rate is not None and (ahead := count / rate - (time.monotonic() - started)) > 0:
            await settle(0)
            await asyncio.sleep(ahead)
        await settle(IN_FLIGHT_MAX)
    await settle(0)
    return count
