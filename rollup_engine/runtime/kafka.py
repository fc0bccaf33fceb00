"""The log on Kafka, by aiokafka: idempotent appends acknowledged by all replicas, and readers that never skip.

A reader compares every first offset with the one it expects: Kafka's offset reset must not hide a lost range.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.helpers import create_ssl_context

from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable, PartitionHalted, RollupError
from rollup_engine.ports import Record

EMBEDDED_CLUSTER = "rollup-engine-"  # how the embedded broker's cluster id starts; the rest is its incarnation
REQUEST_BYTES_MAX = 2 << 20
_FETCH_BYTES_MAX = 4 << 20  # per partition; also what is buffered of it


@dataclass(frozen=True)
class Cluster:
    """Where Kafka is and what it can do."""

    connection: Mapping[str, Any]
    cluster_id: str

    @property
    def embedded(self) -> bool:
        """The embedded broker has no idempotent producer and cannot delete records."""
        return self.cluster_id.startswith(EMBEDDED_CLUSTER)


def connection_options(settings: Settings, bootstrap_servers: str) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes."""
    options: dict[str, Any] = {
        "bootstrap_servers": bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = create_ssl_context(
            cafile=_path(settings.kafka_ssl_cafile),
            certfile=_path(settings.kafka_ssl_certfile),
            keyfile=_path(settings.kafka_ssl_keyfile),
        )
    if settings.kafka_security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism or "PLAIN"
        options["sasl_plain_username"] = settings.kafka_sasl_username
        password = settings.kafka_sasl_password
        options["sasl_plain_password"] = password.get_secret_value() if password else None
    return options


def _path(path: object) -> str | None:
    return None if path is None else str(path)


class KafkaLog:
    """Implements `ports.Log`. Use `async with KafkaLog.connect(options) as log`."""

    def __init__(
        self, cluster: Cluster, admin: AIOKafkaAdminClient, producer: AIOKafkaProducer, offsets: AIOKafkaConsumer
    ) -> None:
        self.cluster = cluster
        self._admin, self._producer, self._offsets = admin, producer, offsets
        self._readers: list[AIOKafkaConsumer] = []
        self._fetching = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def connect(cls, options: Mapping[str, Any]) -> AsyncIterator["KafkaLog"]:
        """Raises `BrokerUnavailable` where no broker answers."""
        admin = AIOKafkaAdminClient(**options)
        try:
            await admin.start()
            described = await admin.describe_cluster()
        except (KafkaError, OSError) as error:
            await admin.close()
            raise BrokerUnavailable(
                f"Kafka at {options['bootstrap_servers']} does not answer: {error}."
                " Check that it runs, and ROLLUP_KAFKA_BOOTSTRAP_SERVERS and the security settings."
            ) from error
        cluster = Cluster(options, str(described.get("cluster_id") or ""))
        producer = AIOKafkaProducer(
            **options,
            acks="all",
            enable_idempotence=not cluster.embedded,
            max_request_size=REQUEST_BYTES_MAX,
            max_batch_size=REQUEST_BYTES_MAX,
        )
        offsets = AIOKafkaConsumer(**options, enable_auto_commit=False)
        log = cls(cluster, admin, producer, offsets)
        try:
            await producer.start()
            await offsets.start()
            yield log
        finally:
            for client in (*log._readers, offsets, producer):
                await client.stop()
            await admin.close()

    async def partitions(self, topic: str) -> int:
        described = await self._admin.describe_topics([topic])
        return sum(len(found["partitions"]) for found in described if not found["error_code"])

    async def create(self, topic: str, partitions: int, config: Mapping[str, str]) -> bool:
        """With the broker's default replication; a broker of one node has just one copy to give."""
        try:
            replication = -1 if not self.cluster.embedded else 1
            made = await self._admin.create_topics(
                [NewTopic(topic, partitions, replication, topic_configs=dict(config))]
            )
        except TopicAlreadyExistsError:
            return False
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka could not create topic {topic}: {error}.") from error
        for result in made.topic_errors:
            failure = for_code(result[1])
            if failure is TopicAlreadyExistsError:
                return False
            if result[1]:
                raise RollupError(f"Kafka refused to create topic {topic}: {failure.__name__} {result[2] or ''}".strip())
        return True

    async def append(self, topic: str, partition: int, value: bytes) -> int:
        try:
            sent = await self._producer.send_and_wait(topic, value, partition=partition)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka did not acknowledge a record for {topic}/{partition}: {error!r}.") from error
        return int(sent.offset)

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        one = TopicPartition(topic, partition)
        found = await self.all_bounds([one])
        return found[one]

    async def all_bounds(self, wanted: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """(first offset, next offset) of many partitions in two requests."""
        partitions = list(wanted)
        try:
            starts = await self._offsets.beginning_offsets(partitions)
            ends = await self._offsets.end_offsets(partitions)
            if self.cluster.embedded:
                ends = await self._ends_by_fetching(ends)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka did not say which offsets it holds: {error!r}.") from error
        return {one: (starts[one], ends[one]) for one in partitions}

    async def _ends_by_fetching(self, listed: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The embedded broker lists the start of the last batch + 1 as the end; its fetches tell the true one."""
        held = [one for one, end in listed.items() if end > 0]
        ends = dict(listed)
        if not held:
            return ends
        async with self._fetching:
            self._offsets.assign(held)
            for one in held:
                self._offsets.seek(one, listed[one] - 1)
            for _ in range(40):
                await self._offsets.getmany(timeout_ms=250)
                found = {one: self._offsets.highwater(one) for one in held}
                if all(end is not None for end in found.values()):
                    break
            else:
                raise KafkaConnectionError("the embedded broker does not answer fetches")
        return ends | {one: int(end) for one, end in found.items() if end is not None}

    async def reader(self, topic: str, partition: int, offset: int) -> "KafkaReader":
        consumer = AIOKafkaConsumer(**consumer_options(self.cluster))
        await consumer.start()
        self._readers.append(consumer)
        one = TopicPartition(topic, partition)
        consumer.assign([one])
        reader = KafkaReader(self, consumer, one)
        reader.seek(offset)
        return reader

    async def trim(self, topic: str, partition: int, before: int) -> None:
        if self.cluster.embedded or before <= 0:
            return
        try:
            await self._admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(before)})
        except (KafkaError, OSError):
            return  # what is not deleted now is deleted with the next emission


def consumer_options(cluster: Cluster) -> dict[str, Any]:
    """Options of every consumer: committed records only, nothing committed by itself, no record too large to fetch."""
    return {
        **cluster.connection,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",  # and `KafkaReader` refuses what that would skip
        "isolation_level": "read_committed",
        "max_partition_fetch_bytes": _FETCH_BYTES_MAX,
        "fetch_max_wait_ms": 250,
    }


class KafkaReader:
    """Implements `ports.Reader` on one partition of a consumer."""

    def __init__(self, log: KafkaLog, consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
        self._log, self._consumer, self._partition = log, consumer, partition
        self._position = 0
        self.opened = False  # once it has been told where to read

    @property
    def position(self) -> int:
        return self._position

    def seek(self, offset: int) -> None:
        self._position, self.opened = offset, True
        self._consumer.seek(self._partition, offset)

    async def read(self, records_max: int, timeout_ms: int) -> Sequence[Record]:
        try:
            found = await self._consumer.getmany(self._partition, timeout_ms=timeout_ms, max_records=records_max)
            records: list[Record] = found.get(self._partition, [])
            position = await self._consumer.position(self._partition)
        except KafkaConnectionError as error:
            raise BrokerUnavailable from error
        first = records[0].offset if records else position
        if first != self._position:
            await self._check_jump(first)
        self._position = max(position, records[-1].offset + 1) if records else position
        return records

    async def _check_jump(self, to: int) -> None:
        """Control records and compaction leave gaps; lost records and a topic made again must not pass for one."""
        topic, partition = self._partition
        start, end = await self._log.bounds(topic, partition)
        if to < self._position or start > self._position:
            raise PartitionHalted(
                cause=f"{topic}/{partition} holds offsets {start} to {end}, but {self._position} is next"
                + (f": records {self._position} to {start - 1} are gone" if start > self._position else ""),
                remedy="Bring the records back; raise the topic's retention; or start under a new ROLLUP_APP_ID.",
            )

    async def close(self) -> None:
        await self._consumer.stop()


async def wait_for_topics(log: KafkaLog, topics: Mapping[str, int], seconds: float = 30) -> None:
    """Wait until the brokers know of topics just created."""
    for topic, partitions in topics.items():
        for _ in range(int(seconds * 10)):
            if await log.partitions(topic) >= partitions:
                break
            await asyncio.sleep(0.1)
        else:
            raise BrokerUnavailable(f"Kafka does not show topic {topic} {seconds:.0f} s after it was created.")
