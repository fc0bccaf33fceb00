"""The aiokafka clients: where Kafka is, how each kind of client is set up, and how they take leave."""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.helpers import create_ssl_context

from rollup_engine.config.settings import Settings

log = structlog.get_logger(__name__)
EMBEDDED_CLUSTER = "rollup-engine-"  # how the embedded broker's cluster id starts; the rest is its incarnation
REQUEST_BYTES_MAX = 2 << 20
FETCH_BYTES_MAX = 4 << 20  # per partition; also what is buffered of it
FETCH_WAIT_MS = 500  # in Kafka, for a first record; it answers at once when there is one
BUSY_FETCH_WAIT_MS = 25  # the same while there is more to read, or records come faster than a reader's pauses
_BUSY_SECONDS = 1.0  # so long after such were seen last
_COMPLAIN_SECONDS = 30.0
_CANNOT_START = 'Unable connect to "%s:%s": %s'  # said again by the error that follows
_NO_COORDINATOR = "Group Coordinator Request failed: %s"  # a new cluster makes its topic of offsets first
_SETTLING_SECONDS = 10.0  # so long that passes for a new cluster
_STOP_SECONDS = 2.0  # to take leave of a broker, which may be gone


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


class _Sparse(logging.Filter):
    """Lets the same complaint through once in a while: aiokafka repeats it ten times a second while Kafka is away."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}
        self._no_coordinator = -math.inf, -math.inf  # since when, and when it was said last

    def filter(self, record: logging.LogRecord) -> bool:
        key, now = (record.name, str(record.msg)), time.monotonic()
        if key[1] == _CANNOT_START or (key[1] == _NO_COORDINATOR and self._settles(now)):
            return False
        if now - self._said.get(key, -_COMPLAIN_SECONDS) < _COMPLAIN_SECONDS:
            return False
        self._said[key] = now
        return True

    def _settles(self, now: float) -> bool:
        """Whether the coordinator has been missing for so short a time that a new cluster explains it."""
        since, last = self._no_coordinator
        since = since if now - last < _SETTLING_SECONDS else now  # otherwise it had come to an end
        self._no_coordinator = since, now
        return now - since < _SETTLING_SECONDS


_sparse = _Sparse()


def complain_sparsely() -> None:
    """Filter what aiokafka's modules log. Takes effect once, however often it is called."""
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("aiokafka")]:
        logging.getLogger(name).addFilter(_sparse)


def new_producer(cluster: Cluster) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        **cluster.connection,
        acks="all",
        enable_idempotence=not cluster.embedded,
        max_request_size=REQUEST_BYTES_MAX,
        max_batch_size=REQUEST_BYTES_MAX,
    )


async def stop_clients(*clients: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Stop aiokafka clients side by side. One whose broker is gone would wait for it: it is left after some seconds."""
    if not clients:
        return
    tasks = [asyncio.ensure_future(client.stop()) for client in clients]
    done, waiting = await asyncio.wait(tasks, timeout=_STOP_SECONDS)
    for task in waiting:
        task.cancel()
    for task in done:
        if not task.cancelled() and task.exception() is not None:
            log.debug("a Kafka client did not stop cleanly", error=repr(task.exception()))


def hand_out_records_as_read() -> None:
    """Spare aiokafka's consumers of this process a `ConsumerRecord` per record: what they read it from has offset,
    timestamp and value, and is all that `ports.Record` asks for. A hook into a private method: it halves the cost of
    fetching, 8 % end to end."""
    PartitionRecords._consumer_record = lambda self, partition, record: record


class PatientConsumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka has no types
    """Lets its fetches wait long in Kafka for records, but not while it is busy.

    aiokafka asks a broker for all partitions of which it holds nothing, one request at a time. While the records of the
    others are being worked off, that names the empty ones only and waits its full time, and a partition that runs out
    meanwhile gets nothing: it would come to one buffer each half second. A hook into a private attribute, with a test.
    """

    _busy_until = 0.0

    def note(self, *, busy: bool) -> None:
        """Call with every read: whether the partition has more, or records come faster than its reader's pauses."""
        now = time.monotonic()
        if busy:
            self._busy_until = now + _BUSY_SECONDS
        self._fetcher._fetch_max_wait_ms = BUSY_FETCH_WAIT_MS if now < self._busy_until else FETCH_WAIT_MS


def consumer_options(cluster: Cluster) -> dict[str, Any]:
    """Options of every consumer: committed records only, nothing committed by itself, no record too large to fetch."""
    return {
        **cluster.connection,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",  # and `KafkaReader` refuses what that would skip
        "isolation_level": "read_committed",
        "max_partition_fetch_bytes": FETCH_BYTES_MAX,
        "fetch_max_wait_ms": FETCH_WAIT_MS,
        "metadata_max_age_ms": 10_000,  # so soon are new partitions read, and a topic that was gone looked at
    }
