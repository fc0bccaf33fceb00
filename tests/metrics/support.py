"""What the metric tests share: rollups to query, partial histories, a naive table of true totals, one database."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid5

import asyncpg

from billable_metrics.catalog import catalog_from_config
from billable_metrics.execute import MetricRunner, Result, exact
from billable_metrics.rewriter import rewrite
from rollup_engine.config.model import Aggregate, Config, EventType, GroupColumn, Rollup, Timestamp
from rollup_engine.runtime import schema, sql

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = datetime(2024, 3, 14, tzinfo=UTC)
WINDOW = timedelta(minutes=10)
NAMESPACE = UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")

MONTHS = (("2024_03", "2024-03-01Z", "2024-04-01Z"), ("2024_04", "2024-04-01Z", "2024-05-01Z"))

CUSTOMER = "acme"
START = DAY + timedelta(hours=1)
END = DAY + timedelta(hours=3)
"""The customer and the period of the schema `restricted`."""


def rollup(name: str, table: str, groups: Sequence[str], aggregates: Sequence[Aggregate]) -> Rollup:
    group_by = tuple(GroupColumn(path=path, column=path.lower().replace(".", "_")) for path in groups)
    return Rollup(
        name=name, table=table, group_by=group_by, aggregates=tuple(aggregates), window_ms=600_000, emit_every_ms=30_000
    )


def event(name: str, *rollups: Rollup) -> EventType:
    return EventType(
        event=name,
        kafka_topics=(name.lower(),),
        id_paths=("id",),
        timestamp=Timestamp(path="ts"),
        customer_path="customer",
        rollups=rollups,
        grace_ms=None,
        horizon_ms=86_400_000,
        max_future_ms=300_000,
    )


DOWNLOADS = rollup(
    "file_download",
    "file_download",
    ("download_speed", "data.clusterId"),
    [
        Aggregate(kind="sum", path="bytes", column="sum_bytes"),
        Aggregate(kind="min", path="bytes", column="min_bytes"),
        Aggregate(kind="max", path="bytes", column="max_bytes"),
    ],
)
REQUESTS = rollup(
    "API_REQUEST",
    "api_request",
    ("data_status",),
    [Aggregate(kind="sum", path="duration", column="sum_duration")],
)
CONFIG = Config(events=(event("file_download", DOWNLOADS), event("API_REQUEST", REQUESTS)))
CATALOG = catalog_from_config(CONFIG)


@dataclass(frozen=True)
class Series:
    """The partials of one (window, tuple), oldest first: (count, then one value per aggregate)."""

    window: int
    customer: str
    groups: tuple[str | None, ...]
    partials: tuple[tuple[int | Decimal | None, ...], ...] = field(default=())

    @property
    def timestamp(self) -> datetime:
        return DAY + self.window * WINDOW

    @property
    def tuple_key(self) -> UUID:
        return uuid5(NAMESPACE, repr((self.customer, self.groups)))


def millis(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


class Database:
    """One database with the rollups' real tables, and the naive ones in the schemas `naive` and `restricted`."""

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self.url, self.runner = url, runner
        self.connection = runner.run(self._set_up())

    async def _set_up(self) -> "asyncpg.Connection[asyncpg.Record]":
        pool = await schema.connect(self.url)
        await schema.migrate(pool)
        async with pool.acquire() as connection:
            await schema.declare(connection, "tests", CONFIG)  # type: ignore[arg-type]
        await pool.close()
        connection = await asyncpg.connect(self.url, server_settings={"timezone": "UTC"})
        await connection.execute("CREATE SCHEMA naive; CREATE SCHEMA restricted")
        for each in CONFIG.rollups:
            await self._naive_table(connection, each)
            for month, start, end in MONTHS:
                await connection.execute(sql.template("month", table=each.table, month=month, start=start, end=end))
        return connection

    async def _naive_table(self, connection: "asyncpg.Connection[asyncpg.Record]", each: Rollup) -> None:
        columns = [f"{group.column} text" for group in each.group_by] + ["aggregated_count bigint"]
        columns += [f"{aggregate.column} numeric" for aggregate in each.aggregates]
        await connection.execute(
            f'CREATE TABLE naive.{each.table} ("timestamp" timestamptz, timestamp_millis bigint,'
            f" external_customer_id text, {', '.join(columns)})"
        )
        await connection.execute(
            f"CREATE VIEW restricted.{each.table} AS SELECT * FROM naive.{each.table} WHERE external_customer_id ="
            f" '{CUSTOMER}' AND \"timestamp\" >= '{START}' AND \"timestamp\" < '{END}'"
        )

    def close(self) -> None:
        self.runner.run(self.connection.close())

    def execute(self, text: str) -> None:
        self.runner.run(self.connection.execute(text))

    def load(self, each: Rollup, history: Iterable[Series]) -> None:
        """Replaces the content of a rollup's tables by these partials, and the naive one by their last ones."""
        partials, totals = [], []
        for series in history:
            head = (series.timestamp, series.customer, *series.groups)
            for revision, values in enumerate(series.partials):
                partials.append((uuid5(series.tuple_key, f"{series.window}:{revision}"), *head, *values))
                partials[-1] += (revision << 20, series.tuple_key)
            totals.append((series.timestamp, millis(series.timestamp), *head[1:], *series.partials[-1]))
        names = [group.column for group in each.group_by] + ["count"] + [a.column for a in each.aggregates]
        columns = ["idempotency_key", "timestamp", "external_customer_id", *names, "revision", "final", "tuple_key"]
        rows = [(*row[:-1], False, row[-1]) for row in partials]
        self.runner.run(self._replace(each, rows, columns, totals))

    async def _replace(
        self, each: Rollup, rows: list[tuple[object, ...]], columns: list[str], totals: list[tuple[object, ...]]
    ) -> None:
        await self.connection.execute(f"TRUNCATE rollups.{each.table_name}, naive.{each.table}")
        await self.connection.copy_records_to_table(
            each.table_name, schema_name="rollups", records=rows, columns=columns
        )
        await self.connection.copy_records_to_table(each.table, schema_name="naive", records=totals)
        # As the sink would have: the tiers hold none of this.
        await self.connection.execute("DELETE FROM rollup_engine.changes WHERE table_name = $1", each.table)
        await self.connection.execute("SELECT rollup_engine.note_all($1)", each.table)

    def plain(self, text: str) -> Result:
        """The result of any SQL, as it is."""

        async def fetch() -> Result:
            statement = await self.connection.prepare(text)
            records = await statement.fetch()
            names = [attribute.name for attribute in statement.get_attributes()]
            return Result(names, [tuple(map(exact, record.values())) for record in records])

        return self.runner.run(fetch())

    def naive(self, metric: str, schema_name: str = "naive") -> Result:
        """The result of a metric read as SQL over the tables of true totals."""
        return self.plain(over_naive(metric, schema_name))

    def metric(self, metric: str, *, restricted: bool = False, **options: float) -> Result:
        """The result of a metric, rewritten and run."""
        asked = {"customer": CUSTOMER, "start": START, "end": END} if restricted else {}
        running = MetricRunner(self.url).run(
            lambda catalog: rewrite(metric, catalog, **asked),  # type: ignore[arg-type]
            CATALOG,
            **options,  # type: ignore[arg-type]
        )
        return self.runner.run(running)


def over_naive(metric: str, schema_name: str = "naive") -> str:
    return re.sub(
        r"AGGREGATED_EVENTS\('(\w+)'\)", lambda found: f"{schema_name}.{found[1].lower()}", metric, flags=re.IGNORECASE
    )


def unordered(result: Result) -> list[tuple[object, ...]]:
    return sorted(result.rows, key=repr)


@dataclass(frozen=True)
class Pair:
    """One `input; expected;` pair of a fixture file, with its `# key: value` lines."""

    file: str
    line: int
    metric: str
    expected: str
    notes: dict[str, str]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.notes.get('title', '')}".strip()


def load_pairs(path: Path) -> list[Pair]:
    pairs: list[Pair] = []
    notes: dict[str, str] = {}
    statements: list[str] = []
    pending: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.startswith("#"):
            key, _, value = line[1:].strip().partition(":")
            notes[key.strip()] = value.strip()
            continue
        if not line and not pending:
            continue
        pending.append(line)
        if line.endswith(";"):
            statements.append("\n".join(pending)[:-1])
            pending = []
        if len(statements) == 2:
            pairs.append(Pair(path.name, number, statements[0], statements[1], notes))
            notes, statements = {}, []
    assert not pending, f"{path.name} ends in the middle of a statement"
    assert not statements, f"{path.name} ends without the expected text of its last metric"
    return pairs
