"""Where Kafka and Postgres are for a command: the settings, or what a running `up` of the state directory uses."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable, DatabaseUnavailable, RollupError
from rollup_engine.runtime import embedded, schema

if TYPE_CHECKING:
    from rollup_engine.runtime.kafka import KafkaLog


@dataclass(frozen=True)
class Addresses:
    """Both set, for what needs both."""

    kafka: str
    database: str


def kafka_address(settings: Settings) -> str | None:
    """Where Kafka is now: the embedded one moves. None where none is known."""
    known = embedded.read_endpoints(settings.state_dir) or embedded.Endpoints()
    return settings.kafka_bootstrap_servers or known.kafka


def running(settings: Settings) -> Addresses:
    """For commands that join what is running. Raises `RollupError` where nothing is known."""
    known = embedded.read_endpoints(settings.state_dir) or embedded.Endpoints()
    kafka = settings.kafka_bootstrap_servers or known.kafka
    database = settings.database_url or known.database
    if kafka is None or database is None:
        missing = "ROLLUP_KAFKA_BOOTSTRAP_SERVERS" if kafka is None else "ROLLUP_DATABASE_URL"
        raise RollupError(
            f"{missing} is not set, and no `rollup-engine up` runs with state directory {settings.state_dir}."
            " Set it, or start `rollup-engine up` there."
        )
    return Addresses(kafka, database)


@contextmanager
def database_of(settings: Settings) -> Iterator[str]:
    """The database's URL; the embedded one is started for the block if `up` has ended."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    if not (settings.state_dir / "postgres").exists():
        raise RollupError(
            f"There is no database: ROLLUP_DATABASE_URL is not set, and state directory {settings.state_dir} holds"
            " none. Start `rollup-engine up` first, or set it."
        )
    database = embedded.start_database(settings.state_dir)
    try:
        yield database.database_url
    finally:
        database.release()


@asynccontextmanager
async def pool_of(settings: Settings) -> "AsyncIterator[asyncpg.Pool[asyncpg.Record]]":
    """A small pool on the command's database."""
    with database_of(settings) as url:
        async with schema.connected(url, connections_max=2) as pool:
            try:
                yield pool
            except asyncpg.UndefinedTableError as error:
                raise RollupError(
                    "This database has no rollup engine in it yet. Run `rollup-engine up` or `migrate`."
                ) from error
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                raise DatabaseUnavailable(f"Postgres did not finish answering: {error}. Try again.") from error


@asynccontextmanager
async def kafka_if_running(settings: Settings) -> "AsyncIterator[KafkaLog | None]":
    """A log on the Kafka in use; None where the embedded broker has ended."""
    from rollup_engine.runtime.kafka import KafkaLog, connection_options  # most commands never ask it

    address = kafka_address(settings)
    if address is None:
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            log = await stack.enter_async_context(KafkaLog.connect(connection_options(settings, address)))
        except BrokerUnavailable:
            if settings.kafka_bootstrap_servers is not None:
                raise
            log = None  # an embedded broker that has ended
        yield log
