"""Emissions as the rollup stage writes them, and what a reader must find: for the tests of tiers and compaction.

`Emitter` is the oracle too: it knows the latest totals of all its windows and tuples.
"""

from collections.abc import Iterable
from decimal import Decimal

import polars as pl

from billable_metrics.catalog import Catalog, catalog_from_config
from billable_metrics.coverage import with_coverage
from rollup_engine import keys
from rollup_engine.config.model import Config
from rollup_engine.progress import ROLLUP, Claim, Partials, Writes
from rollup_engine.runtime.database import Connection, at_time
from rollup_engine.runtime.postgres import PostgresSink
from rollup_engine.tables import Schema
from tests.contract.specs import config, rollup

HOUR_MS, DAY_MS, WINDOW_MS = 3_600_000, 86_400_000, 600_000
DAY = 1_660_435_200_000  # 2022-08-14T00:00:00Z
CATALOG = catalog_from_config(config())

Totals = tuple[int, Decimal, Decimal | None]
"""Count, sum_bytes, max_bytes."""


class Emitter:
    """One partition of the rollup stage. Totals given to `emit` are cumulative; sums may fall."""

    def __init__(self, sink: PostgresSink, source: str, table: str = "downloads", schema: Schema | None = None) -> None:
        self._sink, self._source, self._table = sink, source, table
        self._schema = schema or Schema.of(rollup(table))
        self._claim: Claim | None = None
        self._revision = 0
        self.latest: dict[tuple[int, str, str | None], Totals] = {}
        """By window, customer and region."""

    async def emit(self, totals: dict[tuple[int, str, str | None], Totals], *, final: bool = False) -> None:
        """Write these totals; committed once it returns."""
        claim = self._claim or await self._sink.claim(ROLLUP, self._source, 0)
        self._revision += 1
        writes = Writes(partials=(self.partials(totals, final),))
        self._claim = await self._sink.advance(claim, self._revision, {}, writes)
        self.latest |= totals

    def partials(self, totals: dict[tuple[int, str, str | None], Totals], final: bool = False) -> Partials:
        columns = {"window_ms": pl.Int64} | dict.fromkeys(self._schema.tuple_columns, pl.String) | {"count": pl.Int64}
        columns |= {aggregate.name: pl.String for aggregate in self._schema.aggregates}
        shown = {"sum_bytes": 1, "max_bytes": 2}
        rows = [
            {"window_ms": window, "external_customer_id": customer, "region": region, "count": values[0]}
            | {name: None if values[at] is None else str(values[at]) for name, at in shown.items()}
            for (window, customer, region), values in totals.items()
        ]
        frame = pl.DataFrame(rows, schema=columns, orient="row")
        frame = frame.with_columns(
            pl.lit(self._revision, dtype=pl.Int64).alias("revision"),
            pl.lit(final).alias("final"),
            keys.tuple_key(self._schema.tuple_columns).alias("tuple_key"),
        )
        return Partials(self._table, frame.with_columns(keys.idempotency_key(self._table).alias("idempotency_key")))


def true_totals(emitters: Iterable[Emitter]) -> tuple[int, Decimal]:
    """Count and sum over everything emitted."""
    every = [values for emitter in emitters for values in emitter.latest.values()]
    return sum(values[0] for values in every), sum((values[1] for values in every), Decimal(0))


_PER_STEP = """
SELECT date_trunc('{step}', "timestamp", 'UTC') AS "timestamp", tuple_key, external_customer_id{groups},
    sum(count)::bigint AS count{totals}
FROM (
    SELECT DISTINCT ON ("timestamp", tuple_key) * FROM rollups."{table}_aggregated"
    ORDER BY "timestamp", tuple_key, revision DESC
) AS latest GROUP BY 1, 2, 3{groups}
"""


async def wrong_steps(
    connection: Connection, content: Config | None = None, catalog: Catalog | None = None
) -> tuple[list[str], int]:
    """Every row that a tier has otherwise than the partials, outside what is noted as stale; and how many rows were
    compared. For a transaction of one snapshot."""
    content = content or config()
    covered = await with_coverage(connection, catalog or catalog_from_config(content))  # type: ignore[arg-type]
    found, compared = [], 0
    for spec in content.rollups:
        table = covered.table(spec.name)
        assert table is not None
        for tier in table.tiers:
            totals = "".join(f', {one.kind}("{one.column}") AS "{one.column}"' for one in spec.aggregates)
            groups = "".join(f', "{group.column}"' for group in spec.group_by)
            base = _PER_STEP.format(step=tier.name, table=spec.table, groups=groups, totals=totals)
            names = '"timestamp", tuple_key, external_customer_id' + groups + ", count"
            names += "".join(f', "{one.column}"' for one in spec.aggregates)
            fresh = "".join(f""" AND NOT ("timestamp" >= '{a}' AND "timestamp" < '{b}')""" for a, b in tier.stale)
            held = f"SELECT {names} FROM {tier.base_table} WHERE true{fresh}"
            meant = f"SELECT {names} FROM ({base}) AS meant WHERE true{fresh}"
            rows = await connection.fetch(
                f"WITH held AS MATERIALIZED ({held}), meant AS MATERIALIZED ({meant})"
                " SELECT 'in the tier only' AS what, * FROM (SELECT * FROM held EXCEPT ALL SELECT * FROM meant) AS a"
                " UNION ALL"
                " SELECT 'in the partials only', * FROM (SELECT * FROM meant EXCEPT ALL SELECT * FROM held) AS b"
            )
            found += [f"{tier.base_table}: {dict(row)}" for row in rows]
            compared += await connection.fetchval(f"SELECT count(*) FROM {tier.base_table} WHERE true{fresh}")
    return found, compared


def window(day: int, hour: int, number: int = 0) -> int:
    return DAY + day * DAY_MS + hour * HOUR_MS + number * WINDOW_MS


def times(*milliseconds: int) -> list[object]:
    return [at_time(ms) for ms in milliseconds]
