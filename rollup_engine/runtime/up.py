"""Every role in one command: embedded services where none are configured, route and work, and the API.

An embedded broker loses what it holds when it ends, so a clean stop first works off everything to Postgres.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress

import asyncpg
import structlog

from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable
from rollup_engine.runtime import embedded, schema
from rollup_engine.runtime.addresses import Addresses
from rollup_engine.runtime.children import Children
from rollup_engine.runtime.kafka import KafkaLog, connection_options
from rollup_engine.runtime.registry import Registry
from rollup_engine.runtime.status import Status, collect
from rollup_engine.runtime.stopping import Stop
from rollup_engine.runtime.template import Start, spawn

log = structlog.get_logger(__name__)
POLL_SECONDS = 0.5


@contextmanager
def services(settings: Settings) -> Iterator[Addresses]:
    """Embedded services for what is not configured, and the addresses in use in `endpoints.json` for the block."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        kafka, url = settings.kafka_bootstrap_servers, settings.database_url
        if kafka is None:
            broker = embedded.start_broker(settings.state_dir)
            stack.callback(broker.release)
            kafka = broker.bootstrap
        if url is None:
            database = embedded.start_database(settings.state_dir)
            stack.callback(database.release)
            url = database.database_url
        embedded.write_endpoints(settings.state_dir, kafka=kafka, database=url)
        stack.callback(embedded.clear_endpoints, settings.state_dir)
        yield Addresses(kafka, url)


@asynccontextmanager
async def engine(
    settings: Settings,
    config: Config,
    config_dir: str,
    addresses: Addresses,
    *,
    drain: bool,
    processes: int = 1,
    api: bool = False,
    start: Start = spawn,
) -> "AsyncIterator[tuple[Children, asyncpg.Pool[asyncpg.Record], KafkaLog]]":
    """The roles running for the block, checked to be able to run before any is started; ended cleanly after it."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(schema.connected(addresses.database, connections_max=2))
        kafka = await stack.enter_async_context(KafkaLog.connect(connection_options(settings, addresses.kafka)))
        await schema.migrate(pool)
        registry = Registry(pool, settings.app_id)
        topology = await registry.join(kafka, config, settings.partitions, "up")
        await stack.enter_async_context(registry.lease(topology.generation, "up", lambda: None))
        drain = drain or kafka.cluster.embedded
        children = Children(settings, config_dir, addresses, drain=drain, processes=processes, api=api, start=start)
        stack.callback(children.kill)
        children.start()
        yield children, pool, kafka
        await children.stop()


async def up(
    settings: Settings,
    config: Config,
    config_dir: str,
    addresses: Addresses,
    *,
    exit_when_idle: float | None,
    say: Callable[[str], None],
    processes: int = 1,
    api: bool = True,
    start: Start = spawn,
) -> bool:
    """Run until SIGTERM, SIGINT, or idle for so many seconds. True where every role ended well."""
    stop = Stop()
    try:
        drain = exit_when_idle is not None
        running = engine(
            settings, config, config_dir, addresses, drain=drain, processes=processes, api=api, start=start
        )
        async with running as (children, pool, kafka):
            stop.in_order()
            embedded.write_endpoints(
                settings.state_dir, kafka=addresses.kafka, database=addresses.database, api=children.api
            )
            _say_where(say, settings, addresses, children)
            idle = _Idle(exit_when_idle)
            while not stop.asked.is_set():
                children.watch()
                if exit_when_idle is not None and await idle.reached(children, pool, settings.app_id, kafka):
                    say(f"Nothing new for {exit_when_idle:g} s: stopping.")
                    break
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.asked.wait(), POLL_SECONDS)
            say("Stopping: working off what is under way, then emitting what is pending.")
            stop.calls(children.kill)  # a second one ends at once
    except asyncio.CancelledError:
        if not stop.at_once:
            raise
        return True
    return not children.failed


def _say_where(say: Callable[[str], None], settings: Settings, addresses: Addresses, children: Children) -> None:
    embedded_database = settings.database_url is None
    say(f"Kafka     {addresses.kafka}")
    say(f"Postgres  {addresses.database if embedded_database else _without_password(addresses.database)}")
    for name, page in children.pages.items():
        say(f"{name:<9} {page}/health  {page}/metrics")
    if children.api is not None:
        key = "rollup-engine api-keys create NAME --scope ingest --scope read --scope query"
        say(f"API       {children.api}/docs  (a key: {key})")
    say("Running. Stop with Ctrl-C.")


def _without_password(url: str) -> str:
    return re.sub(r"(//[^:/@]*):[^@]*@", r"\1:***@", url)


class _Idle:
    """Whether every role is at work, all that came in is booked, and nothing new came for some seconds."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds or 0.0
        self._seen, self._since = -1, time.monotonic()

    async def reached(
        self, children: Children, pool: "asyncpg.Pool[asyncpg.Record]", app_id: str, kafka: KafkaLog
    ) -> bool:
        try:
            working, status = await children.working(), await collect(pool, app_id, kafka)
        except (BrokerUnavailable, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as fault:
            log.warning("cannot see how far it is", error=str(fault) or repr(fault))
            working, status = False, Status()
        if not working or status.lag or status.received != self._seen:
            self._seen, self._since = status.received, time.monotonic()
            return False
        return time.monotonic() - self._since >= self._seconds
