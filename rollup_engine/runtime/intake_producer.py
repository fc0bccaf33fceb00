"""The producer of the events taken over HTTP: record batches to raw topics, acknowledged by all in-sync replicas.

Owns: one connection to Kafka, which topics it knows, and what has been handed to it without an answer. A connection
that has failed is not mended, its owner makes another: once a batch of an idempotent producer has failed for good, its
sequence numbers no longer fit the broker's, and aiokafka would fail for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed

from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable, IntakeUnavailable
from rollup_engine.runtime.addresses import kafka_address
from rollup_engine.runtime.kafka import KafkaLog
from rollup_engine.runtime.kafka_clients import REQUEST_BYTES_MAX, Cluster, connection_options, stop_clients

BATCH_BYTES_MAX: Final = 1_048_588  # Kafka's default `max.message.bytes`, which is about batches
REQUEST_SECONDS_MIN: Final = 5.0
ASK_AGAIN_SECONDS: Final = 2.0  # so long is a topic taken for missing before Kafka is asked again
STOP_SECONDS: Final = 1.0
_BATCH_HEAD_BYTES: Final = 128  # 61, and some room
_RECORD_HEAD_BYTES: Final = 32  # lengths, offset, time: 21 at the most

log = structlog.get_logger(__name__)


class IntakeProducer:
    """One connection. Made by `connect`; `close` it once it has failed, or at the end."""

    def __init__(self, address: str, cluster: Cluster, producer: AIOKafkaProducer) -> None:
        self.address, self.cluster = address, cluster
        self.left_behind: Counter[str] = Counter()
        """By topic: bytes of batches that nobody waits for any more, and that are not acknowledged either."""
        self.batch_bytes: dict[str, int] = {}
        """By topic, of those that are known to exist: what a batch may weigh."""
        self._producer = producer
        self._asked_at: dict[str, float] = {}  # of topics of which nothing is known
        self._turn = itertools.count(random.randrange(1 << 16))

    @classmethod
    async def connect(cls, settings: Settings, address: str, topics: Iterable[str]) -> IntakeProducer:
        """Raises `BrokerUnavailable` where no broker answers."""
        try:
            options = connection_options(settings, address)
            async with KafkaLog.connect(options) as asked:
                cluster = asked.cluster
                known = {topic: await _batch_bytes(asked, topic) for topic in topics}
            producer = AIOKafkaProducer(
                **options,
                acks="all",
                enable_idempotence=not cluster.embedded,
                max_batch_size=BATCH_BYTES_MAX,
                max_request_size=REQUEST_BYTES_MAX,
                request_timeout_ms=int(max(REQUEST_SECONDS_MIN, settings.ingest_timeout_s) * 1000),
            )
            made = cls(address, cluster, producer)
            made._learn(known)
            try:
                await producer.start()
            except BaseException:
                await stop_clients(producer)
                raise
        except (KafkaError, OSError, ValueError) as error:
            raise BrokerUnavailable(f"Kafka at {address} does not take events: {error!r}.") from error
        return made

    def _learn(self, asked: Mapping[str, int | None]) -> None:
        self.batch_bytes |= {topic: size for topic, size in asked.items() if size is not None}
        self._asked_at |= dict.fromkeys(asked, time.monotonic())

    async def ask(self, topics: Iterable[str]) -> None:
        """Learns of those of these topics of which nothing is known, and Kafka was not asked a moment ago. Raises
        `BrokerUnavailable` where no broker answers."""
        due = time.monotonic() - ASK_AGAIN_SECONDS
        unknown = sorted(set(topics) - self.batch_bytes.keys())
        unknown = [topic for topic in unknown if self._asked_at.get(topic, due) <= due]
        if unknown:
            self._asked_at |= dict.fromkeys(unknown, time.monotonic())  # others need not ask as well
            async with KafkaLog.connect(self.cluster.connection) as asked:
                self._learn({topic: await _batch_bytes(asked, topic) for topic in unknown})

    async def send(
        self, topic: str, values: Iterable[bytes], now_ms: int, sent: list[tuple[asyncio.Future[Any], int]]
    ) -> None:
        """Hand over the records as batches to one partition, the next in turn. Their acknowledgements, each with its
        bytes, are added to `sent` as they come to be: also to what is cut off in the middle."""
        partitions = await self._producer.partitions_for(topic)
        led = self._producer.client.cluster.available_partitions_for_topic(topic) or partitions
        partition = sorted(led)[next(self._turn) % len(led)]
        for records, size in batches(values, self.batch_bytes[topic]):
            batch = self._producer.create_batch()
            for value in records:
                appended = batch.append(timestamp=now_ms, key=None, value=value)
                assert appended is not None, "the batches were cut so that all their records fit"
            future = await self._producer.send_batch(batch, topic, partition=partition)
            future.add_done_callback(heard)
            sent.append((future, size))

    def leave(self, topic: str, future: asyncio.Future[Any], size: int) -> None:
        """Nobody waits for this acknowledgement any more; the batch is in memory until it comes."""

        def gone(_: object) -> None:
            self.left_behind[topic] -= size

        self.left_behind[topic] += size
        future.add_done_callback(gone)

    async def close(self) -> None:
        """Waits a little for what is under way. What has no answer by then is given up: aiokafka would try for ever,
        and one that is appended much later could count twice."""
        await stop_clients(self._producer)
        sender = self._producer._sender
        if sender is not None and sender.sender_task is not None and not sender.sender_task.done():
            with suppress(TimeoutError, KafkaError):  # after it, a second cancellation ends what the first waits for
                await asyncio.wait_for(sender.close(), STOP_SECONDS)
        await self._producer.client.close()
        accumulator = self._producer._message_accumulator
        for waiting in accumulator._batches.values():
            accumulator._pending_batches.update(waiting)  # where each takes itself out, once it has ended
        for batch in list(accumulator._pending_batches):
            if not batch.future.done():
                batch.future.set_exception(ProducerClosed())


async def _batch_bytes(asked: KafkaLog, topic: str) -> int | None:
    """What a batch may weigh; None where the topic does not exist, or Kafka does not tell: that is no matter of other
    topics. Asked so that none is made for the asking."""
    try:
        if not await asked.partitions(topic):
            log.error("a raw topic does not exist", topic=topic, remedy="Create it, or mend `source.topic`.")
            return None
    except BrokerUnavailable as error:
        log.warning("events cannot be sent to a raw topic", topic=topic, error=str(error))
        return None
    try:
        told = (await asked.settings(topic)).get("max.message.bytes", "")
    except BrokerUnavailable as error:  # to write does not mean to be allowed to read settings
        log.debug("the largest batch of a topic is not known", topic=topic, error=str(error))
        told = ""
    return min(int(told), BATCH_BYTES_MAX) if told.isdecimal() else BATCH_BYTES_MAX


def heard(future: asyncio.Future[Any]) -> None:
    """Without this as a callback, asyncio complains of failures that come after everybody has left."""
    if not future.cancelled():
        future.exception()


def batches(values: Iterable[bytes], bytes_max: int) -> Iterator[tuple[list[bytes], int]]:
    """The records in order, as few batches as hold them, each with its size. One too large for any makes one alone."""
    records: list[bytes] = []
    size = _BATCH_HEAD_BYTES
    for value in values:
        more = record_bytes(value)
        if records and size + more > bytes_max:
            yield records, size
            records, size = [], _BATCH_HEAD_BYTES
        records.append(value)
        size += more
    if records:
        yield records, size


def record_bytes(value: bytes) -> int:
    """What a record adds to a batch, at the most."""
    return len(value) + _RECORD_HEAD_BYTES


def fits(value: bytes, bytes_max: int) -> bool:
    """Whether a batch can hold the record."""
    return _BATCH_HEAD_BYTES + record_bytes(value) <= bytes_max


def address_of(settings: Settings) -> str:
    """Where Kafka is now: the embedded one moves. Raises `IntakeUnavailable` where none is known."""
    address = kafka_address(settings)
    if address is None:
        raise IntakeUnavailable("No Kafka is known to this server: ROLLUP_KAFKA_BOOTSTRAP_SERVERS is not set.")
    return address
