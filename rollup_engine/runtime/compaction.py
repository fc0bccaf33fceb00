"""Deleting superseded partials: of each window and tuple all but the latest, once they are old enough.

Whoever reads takes the latest revision, so no total can tell. Only hours with a note are looked at. The notes taken are
as old as what they let go of: what has come since has a later note.
"""

from datetime import datetime
from typing import NamedTuple

from rollup_engine.config.naming import TABLE_SUFFIX
from rollup_engine.runtime import sql
from rollup_engine.runtime.database import Connection
from rollup_engine.runtime.refresh import WORK_SECONDS
from rollup_engine.runtime.slices import slices
from rollup_engine.runtime.tiers import HOUR_MS

RANGE_ROWS = 200_000  # partials that one transaction looks at, about


class Compacted(NamedTuple):
    """How many partials were deleted, and of which partition of the table; None where the hour held nothing."""

    deleted: int
    partition: str | None


async def compact(
    connection: Connection, table: str, start: datetime, before: datetime, range_rows: int = RANGE_ROWS
) -> Compacted:
    """Delete what an hour's notes of no later than `before` stand for, some of it with every transaction, then them."""
    query = sql.queries("upkeep")
    ids = await connection.fetchval(query["notes"], table, "compact", start, before)
    parts = await slices(connection, table, TABLE_SUFFIX, start, HOUR_MS, range_rows)
    text = sql.fill(query["compact"], table=table)
    deleted, partition = 0, None
    for part in parts:
        done = await connection.execute(text, part.windows, part.first, part.last, before, timeout=WORK_SECONDS)
        deleted += int(done.split()[-1])
    if parts[0].windows:
        partition = await connection.fetchval(sql.fill(query["partition"], table=table), parts[0].windows[0])
    await connection.execute(query["done"], ids)
    return Compacted(deleted, partition)
