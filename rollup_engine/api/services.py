"""What requests share: the pool, the metrics' runner, the YAML in force, how fresh it all is, the answers kept, and the
way in for events.

Owns: the order that makes answers honest. A request takes a look at the stages first, then the token, then reads the
data: so it may hold more than it says, and a kept answer is used under its token only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import structlog

from billable_metrics.catalog import Catalog, Table, catalog_from_config
from billable_metrics.execute import MetricRunner
from billable_metrics.metric import Metrics
from rollup_engine.api.cache import Cache
from rollup_engine.api.outage import KnownKeys, Outage
from rollup_engine.api.problems import unavailable
from rollup_engine.api.replays import Replays
from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import BrokerUnavailable, RollupError
from rollup_engine.runtime import freshness, sql
from rollup_engine.runtime.freshness import Tables, Tracker

if TYPE_CHECKING:
    from rollup_engine.runtime.intake import Intake
    from rollup_engine.runtime.kafka import KafkaLog
    from rollup_engine.runtime.status import Status

DATABASE_SECONDS: Final = 5.0  # for the questions around a metric; the metric itself has its own limits
LOOK_SECONDS: Final = 1.0
CONFIG_SECONDS: Final = 1.0
REST_SECONDS: Final = 5.0  # between looks that nobody asked for, while nothing moves
KAFKA_SECONDS: Final = 3.0
KAFKA_RETRY_SECONDS: Final = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Current:
    """What one request works with. `token` names the emissions that its data holds at least."""

    token: str
    generation: int
    config: Config
    catalog: Catalog
    metrics: Metrics
    fresh: Tables

    def tables_of(self, read: Sequence[Table]) -> list[str]:
        """The rollups' tables behind a catalogue's."""
        by_name = {rollup.name: rollup.table for rollup in self.config.rollups}
        return [by_name[table.name] for table in read]


class Services:
    """Use `async with Services.started(…) as services`."""

    def __init__(
        self,
        settings: Settings,
        pool: asyncpg.Pool[asyncpg.Record],
        runner: MetricRunner,
        load_metrics: Callable[[Catalog], Metrics],
    ) -> None:
        self.settings, self.pool, self.runner = settings, pool, runner
        self.cache: Cache[Any] = Cache(settings.api_cache_rows)
        self._load_metrics = load_metrics
        self._tracker = Tracker(settings.app_id)
        self._loaded: tuple[int, Config, Catalog, Metrics] | None = None
        self._fresh = 0, Tables()  # the generation of the YAML, and what was seen under it
        self._looked_at, self._moving = float("-inf"), True
        self._looking, self._loading = asyncio.Lock(), asyncio.Lock()
        self._kafka: KafkaLog | None = None
        self._kafka_stack = AsyncExitStack()
        self._kafka_at = float("-inf")
        self._counting = asyncio.Lock()
        self.replays, self.outage, self.known_keys = Replays(), Outage(), KnownKeys()
        self._intake: Intake | None = None
        self._opening = asyncio.Lock()
        self._config_at = float("-inf")

    @classmethod
    @asynccontextmanager
    async def started(
        cls,
        settings: Settings,
        pool: asyncpg.Pool[asyncpg.Record],
        runner: MetricRunner,
        load_metrics: Callable[[Catalog], Metrics],
    ) -> AsyncIterator[Services]:
        """Looking at the stages for as long as the block runs."""
        services = cls(settings, pool, runner, load_metrics)
        looking = asyncio.create_task(services._look_on())
        try:
            yield services
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await services._kafka_stack.aclose()
            if services._intake is not None:
                await services._intake.close()

    async def intake(self) -> Intake:
        """The way in for events. What it is made of is large, and imported for the first of them."""
        async with self._opening:
            if self._intake is None:
                module = await asyncio.to_thread(import_module, "rollup_engine.runtime.intake")
                self._intake = module.Intake(self.settings, self.config)
            return self._intake

    async def config(self) -> Config:
        """The YAML in force; while Postgres does not answer, the one last loaded. Asked for once a second at most."""
        known = None if self._loaded is None else self._loaded[1]
        if known is not None and time.monotonic() - self._config_at < CONFIG_SECONDS:
            return known

        async def ask() -> Config:
            self._config_at = time.monotonic()
            async with asyncio.timeout(DATABASE_SECONDS):
                generation = (await freshness.token(self.pool, self.settings.app_id))[2]
                return (await self._load(generation))[1]

        return await self.outage.bridged(known, ask)

    async def current(self) -> Current:
        """What to answer a request by. Raises `Problem` 503 where the app id has not run yet."""
        async with asyncio.timeout(DATABASE_SECONDS):
            while True:
                await self.look()
                looked_under, fresh = self._fresh
                epochs, versions, generation = await freshness.token(self.pool, self.settings.app_id)
                _, config, catalog, metrics = await self._load(generation)
                if looked_under == generation:
                    break
                self._looked_at = float("-inf")  # under another YAML: its grace period told what is closed
        token = f"{epochs}.{versions}.{generation}"
        return Current(token, generation, config, catalog, metrics, fresh)

    async def _load(self, generation: int) -> tuple[int, Config, Catalog, Metrics]:
        async with self._loading:
            if self._loaded is not None and self._loaded[0] == generation:
                return self._loaded
            query, app_id = sql.queries("registry"), self.settings.app_id
            text = await self.pool.fetchval(query["config_of"], app_id, generation)
            if text is None:
                raise unavailable(f"App id {app_id!r} has not run on this database yet. Start `rollup-engine up`.")
            rows = await self.pool.fetch(query["complete_from"], app_id)
            config = Config.from_json(text)
            catalog = catalog_from_config(config, {row["table_name"]: row["complete_from"] for row in rows})
            self._loaded = generation, config, catalog, self._load_metrics(catalog)
            return self._loaded

    def page_rows(self, asked: int | None) -> int:
        """Rows on a page: as many as were asked for, up to the most there may be."""
        most = self.settings.api_page_rows_max
        return min(asked or most, most)

    async def look(self) -> None:
        """Take a look at the stages, unless the latest is new enough."""
        async with self._looking:
            if time.monotonic() - self._looked_at < LOOK_SECONDS:
                return
            at = time.monotonic()
            self._moving = self._tracker.observe(await freshness.look(self.pool, self.settings.app_id))
            if self._loaded is None:
                with suppress(Exception):  # it says why once someone asks for data
                    await self._load((await freshness.token(self.pool, self.settings.app_id))[2])
            if self._loaded is not None:
                self._fresh = self._loaded[0], self._tracker.tables(self._loaded[1])
            self._looked_at = at

    async def _look_on(self) -> None:
        """Looks that nobody asked for: between two of them nothing is known of the stages."""
        while True:
            try:
                async with asyncio.timeout(DATABASE_SECONDS):
                    await self.look()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, RollupError) as error:
                log.debug("could not look at the stages", error=str(error) or repr(error))
            await asyncio.sleep(LOOK_SECONDS if self._moving else REST_SECONDS)

    async def status(self) -> Status:
        """The books and positions; the lag too, where Kafka answers."""
        from rollup_engine.runtime.status import collect  # brings Kafka's client along: once someone asks for it

        async with self._counting:
            try:
                async with asyncio.timeout(KAFKA_SECONDS):
                    return await collect(self.pool, self.settings.app_id, await self._kafka_log())
            except (BrokerUnavailable, TimeoutError) as error:
                log.warning("no lag is known", error=str(error) or repr(error))
                self._kafka = None
                await self._kafka_stack.aclose()
            async with asyncio.timeout(DATABASE_SECONDS):
                return await collect(self.pool, self.settings.app_id, None)

    async def _kafka_log(self) -> KafkaLog | None:
        """A log on the Kafka in use, kept once it is connected; None where there is none."""
        from rollup_engine.runtime.addresses import kafka_if_running

        if self._kafka is None and time.monotonic() - self._kafka_at > KAFKA_RETRY_SECONDS:
            self._kafka_at = time.monotonic()
            self._kafka = await self._kafka_stack.enter_async_context(kafka_if_running(self.settings))
        return self._kafka
