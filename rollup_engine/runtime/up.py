"""Every role in one command, in processes of its own: embedded services where none are configured, route and work.

Owns the children: starts them, starts again what dies, ends them upstream first. An embedded broker loses what it holds
when it ends, so a clean stop first works off everything to Postgres.
"""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable, RollupError
from rollup_engine.runtime import embedded, processes, schema
from rollup_engine.runtime.addresses import Addresses
from rollup_engine.runtime.kafka import KafkaLog, connection_options
from rollup_engine.runtime.registry import Registry
from rollup_engine.runtime.status import Status, collect
from rollup_engine.runtime.stopping import Stop

log = structlog.get_logger(__name__)
ROLES = ("route", "work")
RESTART_SECONDS = 1.0
RESTARTS_MAX = 20  # within one minute: then something is wrong that starting again does not mend
POLL_SECONDS = 0.5
_FINE = (0, -signal.SIGTERM)  # exit statuses: ended cleanly; ended before it had begun anything
START_SECONDS = 30.0  # for a role to get as far as hearing a signal


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


@dataclass
class _Child:
    role: str
    number: int  # among those of its role
    process: "subprocess.Popen[bytes]"
    port: int
    restart_at: float | None = None

    @property
    def name(self) -> str:
        return self.role if self.number == 0 else f"{self.role} {self.number + 1}"

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Children:
    """The role processes, `processes` of each role."""

    def __init__(
        self, settings: Settings, config_dir: str, addresses: Addresses, *, drain: bool, processes: int = 1
    ) -> None:
        self._settings, self._config_dir, self._addresses, self._drain = settings, config_dir, addresses, drain
        self._processes = processes
        self._children: list[_Child] = []
        self._deaths: list[float] = []

    def start(self) -> None:
        for role in ROLES:
            for number in range(self._processes):
                self._children.append(self._spawn(role, number, processes.free_port()))

    def _spawn(self, role: str, number: int, port: int) -> _Child:
        environment = {
            **os.environ,
            "ROLLUP_KAFKA_BOOTSTRAP_SERVERS": self._addresses.kafka,
            "ROLLUP_DATABASE_URL": self._addresses.database,
            "ROLLUP_STATE_DIR": str(self._settings.state_dir.resolve()),
            "ROLLUP_APP_ID": self._settings.app_id,
            "ROLLUP_PARTITIONS": str(self._settings.partitions),
            "ROLLUP_LOG_LEVEL": self._settings.log_level,
            "ROLLUP_WEB_PORT": str(port),
        }
        command = [sys.executable, "-m", "rollup_engine", role, "--config", self._config_dir]
        command += ["--parent", str(os.getpid()), "--share", f"{number}/{self._processes}"]
        process = subprocess.Popen(
            command + (["--drain"] if self._drain else []),
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end them in order
        )
        return _Child(role, number, process, port)

    def watch(self) -> None:
        """Start again what died. Raises `RollupError` for a child that refuses to run, or dies again and again."""
        for index, child in enumerate(self._children):
            status = child.process.poll()
            if status is None:
                continue
            if status == 2:
                raise RollupError(f"`{child.name}` cannot run; it has said why above.")
            now = time.monotonic()
            if child.restart_at is None:
                self._deaths = [at for at in self._deaths if now - at < 60] + [now]
                if len(self._deaths) > RESTARTS_MAX:
                    raise RollupError(
                        f"`{child.name}` has died {RESTARTS_MAX} times within a minute; its log is above."
                    )
                log.warning("a role has died and is started again", role=child.name, exit_status=status)
                child.restart_at = now + RESTART_SECONDS
            elif now >= child.restart_at:
                self._children[index] = self._spawn(child.role, child.number, processes.free_port(child.port))

    async def stop(self) -> None:
        """End the roles in order, upstream first, each after it has worked off what it should. The first `work` is the
        last of all: rollup may be its alone, and the others send to it."""
        for role in ROLES:
            alike = [child for child in self._children if child.role == role]
            await asyncio.gather(*map(self._end, alike[1:]))
            await self._end(alike[0])

    async def _end(self, child: _Child) -> None:
        if self._drain:
            await self._listens(child)
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGTERM)
            while child.process.poll() is None:
                await asyncio.sleep(0.05)
        if child.process.returncode not in _FINE:
            log.warning("a role ended with an error", role=child.name, exit_status=child.process.returncode)

    async def _listens(self, child: _Child) -> None:
        """Wait for a role that is still starting: a signal now would end it with nothing worked off."""
        deadline = time.monotonic() + START_SECONDS
        while child.process.poll() is None and time.monotonic() < deadline:
            if await asyncio.to_thread(_health, child.page) is not None:
                return
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """End them at once; nothing is lost that a start would not find again."""
        for child in self._children:
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()

    async def working(self) -> bool:
        """Whether all is well with every process, and every role has partitions open, by their own word."""
        open_partitions = dict.fromkeys(ROLES, 0)
        for child in self._children:
            answer = await asyncio.to_thread(_health, child.page)
            if answer is None or not answer["healthy"]:
                return False
            open_partitions[child.role] += answer["partitions"]
        return all(open_partitions.values())

    async def ready(self) -> None:
        """Wait until every role is at work."""
        while not await self.working():
            self.watch()
            await asyncio.sleep(0.05)

    @property
    def failed(self) -> bool:
        return any(child.process.returncode not in (None, *_FINE) for child in self._children)

    @property
    def pages(self) -> dict[str, str]:
        return {child.name: child.page for child in self._children}


def _health(page: str) -> dict[str, Any] | None:
    """What a role says of itself; None while it says nothing."""
    try:
        with urllib.request.urlopen(f"{page}/health", timeout=2) as answer:  # noqa: S310 - a loopback page of ours
            return dict(json.load(answer))
    except urllib.error.HTTPError as unhealthy:
        return dict(json.load(unhealthy))
    except (OSError, ValueError, http.client.HTTPException):
        return None


@asynccontextmanager
async def engine(
    settings: Settings, config: Config, config_dir: str, addresses: Addresses, *, drain: bool, processes: int = 1
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
        children = Children(settings, config_dir, addresses, drain=drain, processes=processes)
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
) -> bool:
    """Run until SIGTERM, SIGINT, or idle for so many seconds. True where every role ended well."""
    stop = Stop()
    try:
        drain = exit_when_idle is not None
        running = engine(settings, config, config_dir, addresses, drain=drain, processes=processes)
        async with running as (children, pool, kafka):
            stop.in_order()
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
