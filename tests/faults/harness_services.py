"""The services that rows run on: a Kafka, which can be stopped, killed and started again, and a PostgreSQL."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.admin import DeleteGroupsRequest

from rollup_engine.runtime.embedded import Database, start_broker, start_database
from tests import apache_kafka
from tests.acceptance.cli import until

Answer = TypeVar("Answer")

APACHE, EMBEDDED = "apache", "embedded"


class Kafka:
    """A Kafka for tests, `apache` or `embedded`."""

    def __init__(self, kind: str, servers: str, directory: Path | None = None) -> None:
        self.kind, self.servers, self._directory = kind, servers, directory

    @property
    def embedded(self) -> bool:
        return self.kind == EMBEDDED

    def stop(self) -> None:
        """SIGTERM to an Apache node, its data kept."""
        apache_kafka.stop(self._own())

    def kill(self) -> None:
        """SIGKILL to an Apache node: no flush, no goodbye; what it wrote is in the page cache."""
        apache_kafka.stop(self._own(), [(signal.SIGKILL, 10.0)])

    def resume(self) -> None:
        """Start it again, on its data."""
        assert apache_kafka.resume(self._own()) == self.servers

    def _own(self) -> Path:
        assert self._directory is not None, "a row that stops Kafka must be marked `own_kafka`"
        return self._directory

    def create(self, topic: str, partitions: int, **config: str) -> None:
        """Make a topic; `config` with `_` for `.`."""
        options = {"max.message.bytes": str(16 << 20)} | {key.replace("_", "."): value for key, value in config.items()}

        async def run(admin: AIOKafkaAdminClient) -> None:
            made = await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=options)])
            assert all(not error[1] for error in made.topic_errors), made

        asyncio.run(self._administer(run))
        self._shown(topic, partitions)

    def delete(self, topic: str) -> None:
        asyncio.run(self._administer(lambda admin: admin.delete_topics([topic])))
        self._shown(topic, 0)

    def recreate(self, topic: str, partitions: int, **config: str) -> None:
        """Delete a topic and make it again, empty: offsets begin at 0."""
        self.delete(topic)
        self.create(topic, partitions, **config)

    def add_partitions(self, topic: str, total: int) -> None:
        asyncio.run(self._administer(lambda admin: admin.create_partitions({topic: NewPartitions(total)})))
        self._shown(topic, total)

    def configure(self, topic: str, **config: str) -> None:
        """Set a topic's configuration; `config` with `_` for `.`."""
        wanted = ConfigResource(
            ConfigResourceType.TOPIC, topic, {key.replace("_", "."): value for key, value in config.items()}
        )
        asyncio.run(self._administer(lambda admin: admin.alter_configs([wanted])))

    def _shown(self, topic: str, partitions: int) -> None:
        until(f"{topic} has {partitions} partitions", lambda: self.partitions(topic) == partitions)

    def partitions(self, topic: str) -> int:
        async def run(admin: AIOKafkaAdminClient) -> int:
            (found,) = await admin.describe_topics([topic])
            return len(found["partitions"]) if not found["error_code"] else 0

        return int(asyncio.run(self._administer(run)))

    def end(self, topic: str) -> int:
        """The next offset of its shortest partition."""
        count = self.partitions(topic)

        async def run() -> int:
            consumer = AIOKafkaConsumer(bootstrap_servers=self.servers)
            await consumer.start()
            try:
                ones = [TopicPartition(topic, number) for number in range(count)]
                return min((await consumer.end_offsets(ones)).values())
            finally:
                await consumer.stop()

        return asyncio.run(run())

    def delete_groups(self, groups: Sequence[str]) -> None:
        """With their offsets, once Kafka has given up the members that died."""

        left = set(groups)

        async def run(admin: AIOKafkaAdminClient) -> bool:
            answer = await admin._send_request(DeleteGroupsRequest(sorted(left)))
            left.difference_update(group for group, error in answer.results if not error)
            return not left

        until(f"{', '.join(groups)} are deleted", lambda: asyncio.run(self._administer(run)))

    async def _administer(self, action: Callable[[AIOKafkaAdminClient], Awaitable[Answer]]) -> Answer:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        try:
            return await action(admin)
        finally:
            await admin.close()


@contextmanager
def new_kafka(kind: str) -> Iterator[Kafka]:
    """A Kafka of its own. Apache's raises `apache_kafka.Unavailable` where it cannot be had."""
    with new_directory() as directory:
        if kind == EMBEDDED:
            broker = start_broker(directory)
            try:
                yield Kafka(kind, broker.bootstrap)
            finally:
                broker.stop()
            return
        try:
            yield Kafka(kind, apache_kafka.start(directory), directory)
        finally:
            apache_kafka.stop(directory)


class Postgres:
    """An embedded PostgreSQL server, with a fresh database for whoever asks."""

    def __init__(self, server: Database, directory: Path) -> None:
        self.server, self.directory = server, directory

    def new_database(self) -> str:
        """URL of a fresh, empty database."""
        name = f"row_{uuid4().hex}"
        asyncio.run(self._execute(f'CREATE DATABASE "{name}"'))
        return urlunsplit(urlsplit(self.server.database_url)._replace(path=f"/{name}"))

    def drop(self, database_url: str) -> None:
        asyncio.run(self._execute(f'DROP DATABASE IF EXISTS "{urlsplit(database_url).path[1:]}" WITH (FORCE)'))

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.server.database_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def new_postgres() -> Iterator[Postgres]:
    """A server of its own."""
    with new_directory() as directory:
        server = start_database(directory)
        try:
            yield Postgres(server, directory)
        finally:
            server.destroy()


@contextmanager
def new_directory() -> Iterator[Path]:
    """One that every user can enter: PostgreSQL does not run as root."""
    directory = Path(tempfile.mkdtemp(prefix="rollup-engine-faults-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Services:
    """Those that rows share, each started when the first row asks for it."""

    kind: str = APACHE
    _stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def kafka(self) -> Kafka:
        named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        if named and self.kind == APACHE:
            return Kafka(APACHE, named)
        return self._stack.enter_context(new_kafka(self.kind))

    @cached_property
    def postgres(self) -> Postgres:
        return self._stack.enter_context(new_postgres())

    def close(self) -> None:
        self._stack.close()
