"""Many partial rollups for the query benchmark, made inside Postgres in the order in which an engine would emit them.

Owns: the rollup `usage`, its rows and how many. The tables are those that the engine makes.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

import asyncpg

from billable_metrics.catalog import catalog_from_config
from rollup_engine.config.model import Aggregate, Config, EventType, GroupColumn, Rollup, Timestamp
from rollup_engine.emit.months import month_of
from rollup_engine.runtime import schema, sql
from rollup_engine.runtime.database import at_ms, lock_schema

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

APP_ID = "bench"
FIRST = datetime(2026, 9, 1, tzinfo=UTC)
WINDOW_S, WINDOWS_A_DAY, TUPLES, PARTIALS_MAX = 600, 144, 5, 20
TIMEOUT_S = 600.0

USAGE = Rollup(
    name="usage",
    table="usage",
    group_by=(GroupColumn(path="speed", column="speed"),),
    aggregates=(Aggregate(kind="sum", path="bytes", column="sum_bytes"),),
    window_ms=WINDOW_S * 1_000,
    emit_every_ms=30_000,
)
CONFIG = Config(
    events=(
        EventType(
            event="usage",
            kafka_topics=("usage",),
            id_paths=("id",),
            timestamp=Timestamp(path="at"),
            customer_path="customer",
            rollups=(USAGE,),
            grace_ms=None,
            horizon_ms=86_400_000,
            max_future_ms=300_000,
        ),
    )
)
CATALOG = catalog_from_config(CONFIG)


class Size(NamedTuple):
    """About how many partials, of how many customers, over how many days."""

    partials: int
    customers: int
    days: int

    @property
    def end(self) -> datetime:
        return FIRST + timedelta(days=self.days)


# One day. A window of a tuple has 1 to 20 partials, 30 s apart, with totals that grow.
FILL = """
INSERT INTO rollups.usage_aggregated (idempotency_key, "timestamp", external_customer_id, count, revision, final,
    emitted_at, tuple_key, speed, sum_bytes)
SELECT gen_random_uuid(), start, customer, partial * each, partial, partial = partials,
    start + (partial * 30 + 600) * interval '1 second', tuple_key, speed, partial * each * 1237
FROM (
    SELECT $1::timestamptz + number * $2::int * interval '1 second' AS start, 'customer-' || customer AS customer,
        'speed-' || speed AS speed, md5(customer || '/' || speed)::uuid AS tuple_key,
        1 + floor(random() * $5::int)::int AS partials, 1 + floor(random() * 9)::int AS each
    FROM generate_series(0, $3::int - 1) AS number, generate_series(0, $4::int - 1) AS customer,
        generate_series(0, $6::int - 1) AS speed
    WHERE random() < $7::float8
    OFFSET 0
) AS series, generate_series(1, partials) AS partial
ORDER BY start + partial * 30 * interval '1 second', tuple_key
"""


async def fill(pool: Pool, size: Size) -> None:
    """Tables as the engine makes them, then day after day."""
    await schema.migrate(pool)
    async with pool.acquire() as connection:
        async with connection.transaction():
            await lock_schema(connection)
            await schema.declare(connection, APP_ID, CONFIG)
        windows = size.days * WINDOWS_A_DAY * size.customers * TUPLES
        share = size.partials / windows / ((PARTIALS_MAX + 1) / 2)
        made: set[str] = set()
        await connection.execute("SELECT setseed(0.5)")
        for number in range(size.days):
            day = FIRST + timedelta(days=number)
            month = month_of(at_ms(day))
            if month is not None and month.name not in made:
                text = sql.template("month", table="usage", month=month.name, start=month.start, end=month.end)
                await connection.execute(text)
                made.add(month.name)
            sizes = (WINDOW_S, WINDOWS_A_DAY, size.customers, PARTIALS_MAX, TUPLES, share)
            await connection.execute(FILL, day, *sizes, timeout=TIMEOUT_S)
        await connection.execute("SELECT rollup_engine.note_all('usage')")
        await connection.execute("VACUUM ANALYZE", timeout=TIMEOUT_S)


async def bytes_of(pool: Pool, suffix: str) -> int:
    """Of a table, or of all its partitions; indexes included."""
    return int(
        await pool.fetchval(
            "SELECT greatest(sum(pg_total_relation_size(relid)), pg_total_relation_size($1::text::regclass))"
            " FROM pg_partition_tree($1::text::regclass)",
            f"rollups.usage{suffix}",
        )
    )
