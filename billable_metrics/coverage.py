"""Which hours and days the tiers may answer for, as of the reader's snapshot.

Owns: reading the notes of what has changed, and turning them into the catalog's tiers. Must never decide which tier a
query reads, nor be called outside the transaction, REPEATABLE READ, whose snapshot that query will see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from billable_metrics.catalog import SCHEMA, Catalog, Tier
from rollup_engine.config.naming import TABLE_SUFFIX, TIER_SUFFIXES

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)

_THERE: Final = "SELECT to_regclass('rollup_engine.tiers') IS NOT NULL"
# Steps as text: an array of numbers would make a fresh connection ask for its type first, which takes longer than this.
_NOTES: Final = """
SELECT tiers.table_name, tiers.tier, tiers.step_ms, (
    SELECT string_agg(step::text, ',' ORDER BY step) FROM (
        SELECT DISTINCT floor(extract(epoch FROM changes.start) * 1000 / tiers.step_ms)::bigint AS step
        FROM rollup_engine.changes
        WHERE changes.table_name = tiers.table_name
            AND (changes.tier = 'hour' OR (changes.tier = 'day' AND tiers.tier = 'day'))
    ) AS steps
) AS stale
FROM rollup_engine.tiers
WHERE NOT EXISTS (
    SELECT FROM rollup_engine.changes WHERE changes.table_name = tiers.table_name AND changes.tier = 'all'
)
ORDER BY tiers.step_ms DESC
"""


async def with_coverage(connection: asyncpg.Connection, catalog: Catalog) -> Catalog:
    """The catalog with the tiers that the database has, each with the steps it must not be read for.

    A day is stale while it, or any hour in it, has a note. A database without tier tables gives none, and neither does
    a rollup of which it is not known what has changed.
    """
    if not await connection.fetchval(_THERE):
        return catalog
    found: dict[str, tuple[Tier, ...]] = {}
    for row in await connection.fetch(_NOTES):
        table, step_ms = row["table_name"], row["step_ms"]
        tier = Tier(
            name=row["tier"],
            base_table=f'{SCHEMA}."{table}{TIER_SUFFIXES[row["tier"]]}"',
            step_ms=step_ms,
            stale=tuple(_ranges(map(int, row["stale"].split(",") if row["stale"] else ()), step_ms)),
        )
        base = f'{SCHEMA}."{table}{TABLE_SUFFIX}"'
        found[base] = (*found.get(base, ()), tier)
    return catalog.with_tiers({table.name: found.get(table.base_table, ()) for table in catalog.tables})


def _ranges(steps: Iterable[int], step_ms: int) -> Iterator[tuple[datetime, datetime]]:
    """Half-open ranges over numbers of steps since the epoch, ascending; neighbours become one range."""
    first = last = None
    for step in steps:
        if last is not None and step == last + 1:
            last = step
            continue
        if first is not None and last is not None:
            yield _time(first * step_ms), _time((last + 1) * step_ms)
        first = last = step
    if first is not None and last is not None:
        yield _time(first * step_ms), _time((last + 1) * step_ms)


def _time(ms: int) -> datetime:
    """Calendars end with year 9999, its last hour with them."""
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return _LAST
