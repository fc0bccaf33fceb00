"""The producer of the events taken over HTTP: record batches to raw topics, acknowledged by all in-sync replicas.

Owns: one connection to Kafka, which topics it knows, and what has been handed to it without an answer. A connection
that has failed is not mended, its owner makes another: once a batch of an idempotent producer has failed for good, its
sequence numbers no longer fit the broker's, and aiokafka would fail for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable, IntakeUnavailable
from rollup_engine.runtime import embedded
from rollup_engine.runtime.kafka import KafkaLog
from rollup_engine.runtime.kafka_clients import REQUEST_BYTES_MAX, Cluster, connection_options, stop_clients

BATCH_BYTES_MAX: Final = 1_048_588  # Kafka's default `max.message.bytes`, which is about batches
REQUEST_SECONDS_MIN: Final = 5.0
_BATCH_HEAD_BYTES: Final = 128  # 61, and some room
_RECORD_HEAD_BYTES: Final = 32  # lengths, offset, time: 21 at the most

log = structlog.get_logger(__name__)


class IntakeProducer:
    """One connection. Made by `connect`; `close` it once it has failed, or at the end."""

    def __init__(self, address: str, cluster: Cluster, producer: AIOKafkaProducer) -> None:
        self.address, self.cluster = address, cluster
        self.bytes_left_behind = 0  # of batches that nobody waits for any more, and that are not acknowledged either
        self._producer = producer
        self._batch_bytes: dict[str, int] = {}  # by topic, of those that exist
        self._turn = itertools.count(random.randrange(1 << 16))

    @classmethod
    async def connect(cls, settings: Settings, address: str, topics: Iterable[str]) -> IntakeProducer:
        """Raises `BrokerUnavailable` where no broker answers."""
        try:
            options = connection_options(settings, address)
            async with KafkaLog.connect(options) as asked:
                producer = AIOKafkaProducer(
                    **options,
                    acks="all",
                    enable_idempotence=not asked.cluster.embedded,
                    max_batch_size=BATCH_BYTES_MAX,
                    max_request_size=REQUEST_BYTES_MAX,
                    request_timeout_ms=int(max(REQUEST_SECONDS_MIN, settings.ingest_timeout_s) * 1000),
                )
                made = cls(address, asked.cluster, producer)
                await made._learn(asked, topics)
            try:
                await producer.start()
            except BaseException:
                await stop_clients(producer)
                raise
        except (KafkaError, OSError, ValueError) as error:
            raise BrokerUnavailable(f"Kafka at {address} does not take events: {error!r}.") from error
        return made

    async def _learn(self, asked: KafkaLog, topics: Iterable[str]) -> None:
        """Which of these topics exist, and what their batches may weigh. Asked so that none is made for the asking."""
        for topic in topics:
            if not await asked.partitions(topic):
                continue
            try:
                told = (await asked.settings(topic)).get("max.message.bytes", "")
            except BrokerUnavailable as error:  # to write does not mean to be allowed to read settings
                log.debug("the largest batch of a topic is not known", topic=topic, error=str(error))
                told = ""
            self._batch_bytes[topic] = min(int(told), BATCH_BYTES_MAX) if told.isdecimal() else BATCH_BYTES_MAX

    async def batch_bytes(self, topics: Iterable[str]) -> Mapping[str, int]:
        """What a batch of each of these topics may weigh, and of others; those that do not exist are left out."""
        unknown = sorted(set(topics) - self._batch_bytes.keys())
        if unknown:
            async with KafkaLog.connect(self.cluster.connection) as asked:
                await self._learn(asked, unknown)
        for topic in unknown:
            if topic not in self._batch_bytes:
                log.error("a raw topic does not exist", topic=topic, remedy="Create it, or mend `source.topic`.")
        return self._batch_bytes

    async def send(
        self, topic: str, values: Iterable[bytes], now_ms: int, sent: list[tuple[asyncio.Future[Any], int]]
    ) -> None:
        """Hand over the records as batches to one partition, the next in turn. Their acknowledgements, each with its
        bytes, are added to `sent` as they come to be: also to what is cut off in the middle."""
        partitions = await self._producer.partitions_for(topic)
        led = self._producer.client.cluster.available_partitions_for_topic(topic) or partitions
        partition = sorted(led)[next(self._turn) % len(led)]
        for records, size in batches(values, self._batch_bytes[topic]):
            batch = self._producer.create_batch()
            for value in records:
                appended = batch.append(timestamp=now_ms, key=None, value=value)
                assert appended is not None, "the batches were cut so that all their records fit"
            future = await self._producer.send_batch(batch, topic, partition=partition)
            future.add_done_callback(_heard)
            sent.append((future, size))

    def leave(self, future: asyncio.Future[Any], size: int) -> None:
        """Nobody waits for this acknowledgement any more; the batch is in memory until it comes."""

        def gone(_: object) -> None:
            self.bytes_left_behind -= size

        self.bytes_left_behind += size
        future.add_done_callback(gone)

    async def close(self) -> None:
        await stop_clients(self._producer)


def _heard(future: asyncio.Future[Any]) -> None:
    """Without this, asyncio complains of failures that come after everybody has left."""
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
    known = embedded.read_endpoints(settings.state_dir) or embedded.Endpoints()
    address = settings.kafka_bootstrap_servers or known.kafka
    if address is None:
        raise IntakeUnavailable("No Kafka is known to this server: ROLLUP_KAFKA_BOOTSTRAP_SERVERS is not set.")
    return address
