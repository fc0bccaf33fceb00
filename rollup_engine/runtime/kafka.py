"""The log on Kafka, by aiokafka: topics, idempotent appends acknowledged by all replicas, and what offsets are held."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from rollup_engine.errors import BrokerUnavailable, PartitionHalted, RollupError
from rollup_engine.runtime.kafka_clients import (
    Cluster,
    PatientConsumer,
    complain_sparsely,
    connection_options,
    consumer_options,
    new_producer,
    stop_clients,
)
from rollup_engine.runtime.kafka_reader import KafkaReader

__all__ = ["KafkaLog", "connection_options", "consumer_options", "wait_for_topics"]

log = structlog.get_logger(__name__)
_ANSWER_SECONDS = 10.0


class KafkaLog:
    """Implements `ports.Log`. Use `async with KafkaLog.connect(options) as log`."""

    def __init__(
        self, cluster: Cluster, admin: AIOKafkaAdminClient, producer: AIOKafkaProducer, offsets: AIOKafkaConsumer
    ) -> None:
        self.cluster = cluster
        self._admin, self._producer, self._offsets = admin, producer, offsets
        self._readers: set[AIOKafkaConsumer] = set()
        self._fetching, self._renewing = asyncio.Lock(), asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def connect(cls, options: Mapping[str, Any]) -> AsyncIterator["KafkaLog"]:
        """Raises `BrokerUnavailable` where no broker answers."""
        complain_sparsely()
        admin = AIOKafkaAdminClient(**options)
        try:
            await admin.start()
            described = await admin.describe_cluster()
        except (KafkaError, OSError, ValueError) as error:
            await admin.close()
            raise BrokerUnavailable(
                f"Kafka at {options['bootstrap_servers']} does not answer: {error}."
                " Check that it runs, and ROLLUP_KAFKA_BOOTSTRAP_SERVERS and the security settings."
            ) from error
        cluster = Cluster(options, str(described.get("cluster_id") or ""))
        producer = new_producer(cluster)
        offsets = AIOKafkaConsumer(
            **options, enable_auto_commit=False, isolation_level="read_committed", fetch_max_wait_ms=10
        )
        connected = cls(cluster, admin, producer, offsets)
        try:
            await producer.start()
            await offsets.start()
            yield connected
        finally:
            await stop_clients(*connected._readers, offsets, connected._producer)
            await admin.close()

    async def answers(self) -> bool:
        """Whether some broker does, soon."""
        try:
            await asyncio.wait_for(self._admin.describe_cluster(), _ANSWER_SECONDS)
        except (KafkaError, OSError):
            return False
        return True

    async def partitions(self, topic: str) -> int:
        """Asked so that no broker makes the topic for the asking."""
        client, fault = self._producer.client, KafkaError("no broker is known")
        brokers = list(client.cluster.brokers())
        random.shuffle(brokers)
        for broker in brokers:
            try:
                answer = await client.send(broker.nodeId, MetadataRequest([topic], allow_auto_topic_creation=False))
                break
            except (KafkaError, OSError) as error:
                fault = error  # the next one may be up
        else:
            raise BrokerUnavailable(f"Kafka did not say whether topic {topic} exists: {fault!r}.") from fault
        (found,) = answer.to_object()["topics"]
        failure = for_code(found["error_code"])
        if found["error_code"] and failure is not UnknownTopicOrPartitionError:
            raise BrokerUnavailable(f"Kafka did not say whether topic {topic} exists: {failure.__name__}.")
        return len(found["partitions"]) if not found["error_code"] else 0

    async def create(self, topic: str, partitions: int, config: Mapping[str, str]) -> bool:
        """With the broker's default replication; the embedded broker has just one copy to give."""
        wanted = NewTopic(topic, partitions, 1, topic_configs=dict(config))
        if not self.cluster.embedded:
            wanted.replication_factor = -1  # the constructor refuses what the protocol allows
        try:
            made = await self._admin.create_topics([wanted])
        except TopicAlreadyExistsError:
            return False
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka could not create topic {topic}: {error}.") from error
        for result in made.topic_errors:
            failure = for_code(result[1])
            if failure is TopicAlreadyExistsError:
                return False
            if result[1]:
                raise RollupError(
                    f"Kafka refused to create topic {topic}: {failure.__name__} {result[2] or ''}".strip()
                )
        return True

    async def settings(self, topic: str) -> Mapping[str, str]:
        """The topic's configuration as far as Kafka tells; the embedded broker tells nothing, and keeps everything."""
        if self.cluster.embedded:
            return {}
        try:
            answers = await self._admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Kafka did not tell the settings of topic {topic}: {error!r}.") from error
        entries = [entry for answer in answers for resource in answer.resources for entry in resource[4]]
        return {entry[0]: entry[1] for entry in entries if entry[1] is not None}

    async def append(self, topic: str, partition: int, value: bytes) -> int:
        """Raises `PartitionHalted` for a record that Kafka refuses, as it will every time."""
        producer = self._producer
        try:
            sent = await producer.send_and_wait(topic, value, partition=partition)
        except (KafkaError, OSError) as error:
            if not self.cluster.embedded and not getattr(error, "retriable", True):
                await self._renew(producer)
            if isinstance(error, (MessageSizeTooLargeError, TopicAuthorizationFailedError)):
                raise PartitionHalted(
                    cause=f"Kafka refuses a record of {len(value):,} bytes for {topic}/{partition}: {error!r}",
                    remedy="Raise the topic's `max.message.bytes` to 2097152, or give this user the right to write.",
                ) from error
            raise BrokerUnavailable(
                f"Kafka did not acknowledge a record for {topic}/{partition}: {error!r}."
            ) from error
        return int(sent.offset)

    async def _renew(self, broken: AIOKafkaProducer) -> None:
        """A new producer id. After a failure the sequence numbers of an idempotent producer no longer fit the broker's,
        and aiokafka would fail for ever."""
        async with self._renewing:
            if self._producer is not broken:
                return
            producer = new_producer(self.cluster)
            try:
                await producer.start()
            except (KafkaError, OSError):
                await stop_clients(producer)
                return  # the next failure tries again
            self._producer = producer
            await stop_clients(broken)

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        one = TopicPartition(topic, partition)
        found = await self.all_bounds([one])
        return found[one]

    async def known_ms_ago(self, topic: str) -> int:
        return 0

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
            self._offsets.pause(*held)  # or it would go on fetching
        return ends | {one: int(end) for one, end in found.items() if end is not None}

    async def reader(self, topic: str, partition: int, offset: int) -> KafkaReader:
        consumer = PatientConsumer(**consumer_options(self.cluster))
        self._readers.add(consumer)
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable from error
        one = TopicPartition(topic, partition)
        consumer.assign([one])
        reader = KafkaReader(self, consumer, one)
        reader.seek(offset)
        return reader

    async def close_reader(self, consumer: AIOKafkaConsumer) -> None:
        self._readers.discard(consumer)
        await stop_clients(consumer)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        if self.cluster.embedded or before <= 0:
            return
        try:
            await self._admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(before)})
        except (KafkaError, OSError) as error:  # what is not deleted now is deleted with the next emission
            log.warning("Kafka did not delete what is in Postgres already", topic=topic, error=repr(error))


async def wait_for_topics(log: KafkaLog, topics: Mapping[str, int], seconds: float = 30) -> None:
    """Wait until the brokers know of topics just created."""
    for topic, partitions in topics.items():
        for _ in range(int(seconds * 10)):
            if await log.partitions(topic) >= partitions:
                break
            await asyncio.sleep(0.1)
        else:
            raise BrokerUnavailable(f"Kafka does not show topic {topic} {seconds:.0f} s after it was created.")
