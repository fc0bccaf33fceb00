"""Tier tables for tests: made by a plain query over the true totals, and wrong wherever they are declared stale."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from billable_metrics.catalog import Catalog, Tier
from billable_metrics.execute import Result, exact
from billable_metrics.rewriter import Rewritten
from tests.metrics.support import Database

HOUR = timedelta(hours=1)
STEPS = {"day": timedelta(days=1), "hour": HOUR}
SCHEMA = "tiers"
COLUMNS = '"timestamp", timestamp_millis, external_customer_id, download_speed, data_clusterid'

Steps = Iterable[datetime]


def build(database: Database) -> None:
    """Hourly and daily tables of `file_download`, from its naive table."""
    database.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}")
    for name in STEPS:
        database.execute(f"""
            CREATE TABLE {SCHEMA}.file_download_{name} AS
            SELECT start AS "timestamp", (extract(epoch FROM start) * 1000)::bigint AS timestamp_millis,
                external_customer_id, download_speed, data_clusterid, sum(aggregated_count)::bigint AS count,
                sum(sum_bytes) AS sum_bytes, min(min_bytes) AS min_bytes, max(max_bytes) AS max_bytes,
                md5(ROW(external_customer_id, download_speed, data_clusterid)::text)::uuid AS tuple_key
            FROM (SELECT *, date_trunc('{name}', "timestamp", 'UTC') AS start FROM naive.file_download) AS windows
            GROUP BY start, external_customer_id, download_speed, data_clusterid;
            CREATE INDEX ON {SCHEMA}.file_download_{name} (external_customer_id, "timestamp");
        """)


def tiers(stale_hours: Steps = (), stale_days: Steps = ()) -> tuple[Tier, ...]:
    """The tiers, the day's first. A day with a stale hour is stale."""
    hours = sorted(set(stale_hours))
    days = sorted({*stale_days, *(hour.replace(hour=0) for hour in hours)})
    return tuple(
        Tier(
            name,  # type: ignore[arg-type]
            f"{SCHEMA}.file_download_{name}",
            step // timedelta(milliseconds=1),
            tuple(_ranges(steps, step)),
        )
        for (name, step), steps in zip(STEPS.items(), (days, hours), strict=True)
    )


def _ranges(steps: list[datetime], step: timedelta) -> Iterator[tuple[datetime, datetime]]:
    start: datetime | None = None
    for each in steps:
        if start is None:
            start = each
        if each + step not in steps:
            yield start, each + step
            start = None


def with_tiers(catalog: Catalog, made: tuple[Tier, ...]) -> Catalog:
    return catalog.with_tiers({"file_download": made})


@contextmanager
def spoiled(database: Database, made: tuple[Tier, ...]) -> Iterator[None]:
    """Inside, every stale step holds false totals, rows of its own, or none; afterwards the tables are as before."""
    text = ["BEGIN"]
    for tier in made:
        for start, end in tier.stale:
            inside = f"\"timestamp\" >= '{start}' AND \"timestamp\" < '{end}'"
            text.append(f'DELETE FROM {tier.base_table} WHERE {inside} AND extract(day FROM "timestamp") % 2 = 0')
            text.append(
                f"UPDATE {tier.base_table} SET count = count + 1000003, sum_bytes = sum_bytes - 5, min_bytes = -9e30,"
                f" max_bytes = 9e30 WHERE {inside}"
            )
            text.append(
                f"INSERT INTO {tier.base_table} SELECT step, 0, customer, 'false', 'false', 77, 7, -7e30, 7e30"
                f" FROM generate_series('{start}'::timestamptz, '{end}'::timestamptz - interval '1 hour',"
                f" interval '1 {tier.name}') AS step, unnest(ARRAY['acme', 'globex']) AS customer"
            )
    database.execute("; ".join(text))
    try:
        yield
    finally:
        database.execute("ROLLBACK")


def rows(database: Database, rewritten: Rewritten) -> Result:
    """The rewritten query's answer, read on the database's own connection, inside what `spoiled` has done."""
    fetched = database.runner.run(database.connection.fetch(rewritten.sql, *rewritten.params))
    columns = list(fetched[0].keys()) if fetched else []
    return Result(columns, [tuple(map(exact, record.values())) for record in fetched])


def day(number: int, hour: int = 0, minute: int = 0) -> datetime:
    """March 2024, counted on into April."""
    return datetime(2024, 3, 1, hour, minute, tzinfo=UTC) + timedelta(days=number - 1)
