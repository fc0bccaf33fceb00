"""Configurations for the contract tests, small enough to read in a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from rollup_engine.config.model import Aggregate, Config, EventType, GroupColumn, Rollup, Timestamp
from rollup_engine.runtime import schema
from rollup_engine.runtime.database import lock_schema

APP_ID = "contract"


def rollup(table: str = "downloads", **changes: object) -> Rollup:
    spec: dict[str, object] = {
        "name": table,
        "table": table,
        "group_by": (GroupColumn(path="region", column="region"), GroupColumn(path="speed", column="speed")),
        "aggregates": (
            Aggregate(kind="sum", path="bytes", column="sum_bytes"),
            Aggregate(kind="max", path="bytes", column="max_bytes"),
        ),
        "window_ms": 600_000,
        "emit_every_ms": 30_000,
    }
    return Rollup.model_validate(spec | changes)


def event_type(event: str = "download", *rollups: Rollup, **changes: object) -> EventType:
    spec: dict[str, object] = {
        "event": event,
        "kafka_topics": ("raw",),
        "id_paths": ("id",),
        "timestamp": Timestamp(path="at"),
        "customer_path": "customer",
        "rollups": rollups or (rollup(),),
        "grace_ms": None,
        "horizon_ms": 86_400_000,
        "max_future_ms": 300_000,
    }
    return EventType.model_validate(spec | changes)


def config(*events: EventType) -> Config:
    return Config(events=events or (event_type(),))


@asynccontextmanager
async def migrated(database_url: str) -> AsyncIterator["asyncpg.Pool[asyncpg.Record]"]:
    """A pool on the database, brought to the newest schema."""
    pool = await schema.connect(database_url)
    try:
        await schema.migrate(pool)
        yield pool
    finally:
        await pool.close()


async def declared(pool: "asyncpg.Pool[asyncpg.Record]", content: Config, app_id: str = APP_ID) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await lock_schema(connection)
        await schema.declare(connection, app_id, content)
