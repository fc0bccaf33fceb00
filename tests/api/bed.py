"""An engine that never ran, as its database would be: stages' rows, partials and keys, and the API upon them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import msgspec
import polars as pl
from fastapi import FastAPI

from billable_metrics.execute import MetricRunner
from billable_metrics.metric import Metric
from billable_metrics.parameters import Parameter
from rollup_engine import keys
from rollup_engine.api.app import application
from rollup_engine.api.services import Services
from rollup_engine.config.model import Aggregate, Config, EventType, GroupColumn, Rollup, Timestamp
from rollup_engine.config.settings import Settings
from rollup_engine.dedup.deduplicator import DedupState
from rollup_engine.progress import DEDUP, NOTHING, ROLLUP, ROUTE, Books, Claim, Partials, Writes
from rollup_engine.route.state import RouteState
from rollup_engine.runtime import api_keys, schema, sql
from rollup_engine.runtime.database import at_ms, lock_schema
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.tables import Schema
from rollup_engine.topology import deltas_topic, events_topic
from rollup_engine.windows.accumulator import RollupState

APP_ID = "api-tests"
DAY = datetime(2024, 3, 14, tzinfo=UTC)
GRACE_MS = 3_600_000
WINDOW = timedelta(minutes=10)


def _rollup(name: str, *groups: str) -> Rollup:
    return Rollup(
        name=name,
        table=name.lower(),
        group_by=tuple(GroupColumn(path=group, column=group) for group in groups),
        aggregates=(Aggregate(kind="sum", path="bytes", column="sum_bytes"),),
        window_ms=600_000,
        emit_every_ms=30_000,
    )


def _event(name: str, rollup: Rollup) -> EventType:
    return EventType(
        event=name,
        kafka_topics=(f"raw-{name.lower()}",),
        id_paths=("id",),
        timestamp=Timestamp(path="at"),
        customer_path="customer",
        rollups=(rollup,),
        grace_ms=GRACE_MS,
        horizon_ms=86_400_000,
        max_future_ms=300_000,
    )


CONFIG = Config(
    events=(_event("download", _rollup("download", "region", "end")), _event("API_CALL", _rollup("API_CALL", "region")))
)

SCAN = "AGGREGATED_EVENTS('download')"
METRICS = {
    name: Metric(name=name, description=f"What {name} says.", unit="events", sql=text, parameters=parameters)
    for name, text, parameters in [
        ("bytes", f"SELECT SUM(sum_bytes) FROM {SCAN} AS d", {}),
        ("calls", "SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('API_CALL') AS c", {}),
        (
            "downloads",
            f"SELECT SUM(aggregated_count) FROM {SCAN} AS d WHERE aggregated_count >= :least",
            {"least": Parameter("least", "number", default=None, description="The least count.")},
        ),
        ("recent", f"SELECT SUM(aggregated_count) FROM {SCAN} AS d WHERE timestamp <= now()", {}),
        ("split", f"SELECT SUM(sum_bytes) / 13 FROM {SCAN} AS d", {}),
    ]
}

Row = tuple[int, str, tuple[str | None, ...], int, str]
"""Window number of DAY, customer, group values, count, sum of bytes as text."""


@dataclass
class Bed:
    """The database of one app id that has one partition of everything."""

    pool: "asyncpg.Pool[asyncpg.Record]"
    url: str
    offset: int = 0
    _claims: dict[tuple[str, str], Claim] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def on(cls, url: str) -> AsyncIterator["Bed"]:
        async with schema.connected(url) as pool:
            yield cls(pool, url)

    async def set_up(self) -> None:
        await schema.migrate(self.pool)
        async with self.pool.acquire() as connection, connection.transaction():
            await lock_schema(connection)
            await schema.declare(connection, APP_ID, CONFIG)
            query = sql.queries("registry")
            await connection.fetchval(query["add_generation"], APP_ID, CONFIG.digest, CONFIG.to_json())
            for topic in (events_topic(APP_ID), *(deltas_topic(APP_ID, rollup.table) for rollup in CONFIG.rollups)):
                await connection.execute(query["add_topic"], APP_ID, topic, "life-1", 1)

    async def _advance(self, stage: str, source: str, to: int, state: Any, writes: Writes = NOTHING) -> None:
        sink = PostgresSink(self.pool, APP_ID)
        claim = self._claims.get((stage, source)) or await sink.claim(stage, source, 0)
        self._claims[stage, source] = await sink.advance(claim, to, msgspec.to_builtins(state), writes)

    async def routed(self, event: str, watermark: datetime, *, records: int = 1) -> None:
        """Route has read on, and nobody else."""
        self.offset += records
        name = f"raw-{event.lower()}"
        state = RouteState(watermarks={event: at_ms(watermark)}, records=self.offset, received={event: self.offset})
        await self._advance(ROUTE, f"{name}/0", self.offset, state)

    async def emit(
        self, event: str, rows: Sequence[Row], *, watermark: datetime, closed: datetime | None = None
    ) -> None:
        """These totals of the event's rollup, emitted with all that came before them."""
        await self.routed(event, watermark)
        marks = {source: claim.next_offset for (stage, source), claim in self._claims.items() if stage == ROUTE}
        events = f"{events_topic(APP_ID)}/0"
        books = Books(event, f"raw-{event.lower()}/0", counted=sum(row[3] for row in rows), records=1)
        await self._advance(DEDUP, events, self.offset, DedupState(marks=marks), Writes(books=(books,)))
        for rollup in CONFIG.rollups:
            source = f"{deltas_topic(APP_ID, rollup.table)}/0"
            mine = rollup in next(one for one in CONFIG.events if one.event == event).rollups
            writes = Writes(partials=(self._partials(rollup, rows),)) if mine and rows else NOTHING
            state = RollupState(marks={events: self.offset})
            if closed is not None:
                state = msgspec.structs.replace(state, closed_ms=at_ms(closed))
            await self._advance(ROLLUP, source, self.offset, state, writes)

    def _partials(self, rollup: Rollup, rows: Sequence[Row]) -> Partials:
        shape = Schema.of(rollup)
        columns: Mapping[str, Any] = {
            "window_ms": pl.Int64,
            **dict.fromkeys(shape.tuple_columns, pl.String),
            "count": pl.Int64,
            "sum_bytes": pl.String,
        }
        data = [
            (at_ms(DAY + window * WINDOW), customer, *groups, count, total)
            for window, customer, groups, count, total in rows
        ]
        frame = pl.DataFrame(data, schema=columns, orient="row").with_columns(
            pl.lit(self.offset, dtype=pl.Int64).alias("revision"),
            pl.lit(False).alias("final"),
            keys.tuple_key(shape.tuple_columns).alias("tuple_key"),
        )
        return Partials(rollup.table, frame.with_columns(keys.idempotency_key(rollup.table).alias("idempotency_key")))

    async def key(self, *scopes: str, customer: str | None = None, name: str | None = None) -> str:
        """A key; by itself of scopes read and query."""
        name = name or f"{'-'.join(scopes)} of {customer}, {len(await api_keys.listed(self.pool, APP_ID))}"
        return await api_keys.create(self.pool, APP_ID, name, scopes or ("read", "query"), customer)


def settings(**changes: object) -> Settings:
    return Settings(_env_file=None, app_id=APP_ID, **({"api_rate": "100000/minute"} | changes))  # type: ignore[call-arg, arg-type]


@dataclass
class Client:
    """What a program that asks the API sees."""

    http: httpx.AsyncClient
    app: FastAPI
    key: str

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    async def get(self, path: str, *, key: str | None = None, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=self._headers(key, headers))

    async def post(self, path: str, content: Any, *, key: str | None = None, **headers: str) -> httpx.Response:
        return await self.http.post(path, json=content, headers=self._headers(key, headers))

    def _headers(self, key: str | None, headers: Mapping[str, str]) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return {"Authorization": f"Bearer {self.key if key is None else key}", **named}

    async def look(self) -> None:
        """Let the next answer see the stages as they are now."""
        self.services._looked_at = float("-inf")
        await self.services.look()


@asynccontextmanager
async def client(bed: Bed, key: str = "", **changes: object) -> AsyncIterator[Client]:
    """The API on the bed's database, without a server."""
    chosen = settings(**changes)

    @asynccontextmanager
    async def services() -> AsyncIterator[Services]:
        runner = MetricRunner(bed.url)
        async with Services.started(chosen, bed.pool, runner, lambda _: METRICS) as started:
            yield started
        await runner.close()

    app = application(services, chosen)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        await asyncio.sleep(0)
        yield Client(http, app, key or await bed.key())
