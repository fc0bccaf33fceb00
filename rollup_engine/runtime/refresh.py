"""Making the totals of one hour or day anew, as far as the notes on it say that they are behind.

    1 read     the ids of the step's notes, and the columns and windows that there are
    2 total    the latest partials of its windows, or the hours of a day; and write what differs
    3 settle   delete exactly those notes, and note what follows from them: the day, and superseded partials

An emission that is not in what 1 read has a note of its own, which stays: the step is read from the partials until
somebody comes for that one too. So nothing is locked that an emission could meet. A large step is totalled in ranges of
tuple keys, each in a transaction, the last of which settles it. Cut off anywhere, the step is still noted.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple

from rollup_engine.config.naming import TABLE_SUFFIX
from rollup_engine.runtime import sql
from rollup_engine.runtime.database import Connection
from rollup_engine.runtime.slices import Slice, slices
from rollup_engine.runtime.tiers import DAY, HOUR, Tier

RANGE_ROWS = 500_000  # finer rows that one transaction reads, about
WORK_SECONDS = 600.0


class Rollup(NamedTuple):
    """A rollup's table, and the tiers it has, finest first."""

    table: str
    tiers: tuple[Tier, ...]


class _Work(NamedTuple):
    ids: list[int]
    columns: list[tuple[str, str]]  # (name, kind)
    slices: list[Slice]


async def refresh(
    connection: Connection, rollup: Rollup, tier: Tier, start: datetime, range_rows: int = RANGE_ROWS
) -> int:
    """Bring one hour or day up to date; returns the rows written. An hour without totals is handed on to its day."""
    async with _one_snapshot(connection):
        work = await _read(connection, rollup, tier, start, range_rows)
        written = await _total(connection, rollup, tier, start, work, 0)
        if len(work.slices) <= 1:
            await _settle(connection, rollup, tier, start, work.ids)
    for number in range(1, len(work.slices)):
        async with _one_snapshot(connection):
            written += await _total(connection, rollup, tier, start, work, number)
            if number == len(work.slices) - 1:
                await _settle(connection, rollup, tier, start, work.ids)
    return written


async def note_unknown(connection: Connection, table: str) -> None:
    """Where somebody has changed partials without notes: note every hour that there is."""
    query = sql.queries("upkeep")
    async with _one_snapshot(connection):
        ids = await connection.fetchval(query["all_notes"], table)
        await connection.execute(query["note_all"], table)
        await connection.execute(query["done"], ids)


@asynccontextmanager
async def _one_snapshot(connection: Connection) -> AsyncIterator[None]:
    async with connection.transaction(isolation="repeatable_read"):
        yield


async def _read(connection: Connection, rollup: Rollup, tier: Tier, start: datetime, range_rows: int) -> _Work:
    query = sql.queries("upkeep")
    ids = await connection.fetchval(query["notes"], rollup.table, tier.name, start, None)
    if tier not in rollup.tiers:
        return _Work(ids, [], [])
    columns = [(row["column_name"], row["kind"]) for row in await connection.fetch(query["columns"], rollup.table)]
    parts = await slices(connection, rollup.table, _finer(rollup, tier), start, tier.step_ms, range_rows)
    return _Work(ids, columns, parts)


def _finer(rollup: Rollup, tier: Tier) -> str:
    """The suffix of the table that a tier is made from."""
    return HOUR.suffix if tier is DAY and HOUR in rollup.tiers else TABLE_SUFFIX


async def _total(connection: Connection, rollup: Rollup, tier: Tier, start: datetime, work: _Work, number: int) -> int:
    if not work.slices:
        return 0
    query, table = sql.queries("upkeep"), rollup.table
    source = query["from_hours" if _finer(rollup, tier) == HOUR.suffix else "from_partials"]
    groups = [name for name, kind in work.columns if kind == "group"]
    totals = [("count", "sum(count)::bigint AS count")]
    totals += [(name, f'{kind}("{name}") AS "{name}"') for name, kind in work.columns if kind != "group"]
    text = sql.fill(
        query["refresh"],
        source=source,
        columns=", ".join(["tuple_key", "external_customer_id", *(f'"{name}"' for name in groups)]),
        totals=", ".join(text for _, text in totals),
        names=", ".join(f'"{name}"' for name, _ in totals),
        held=", ".join(f'held."{name}"' for name, _ in totals),
        excluded=", ".join(f'excluded."{name}"' for name, _ in totals),
        table=table,
        suffix=tier.suffix,
    )
    part = work.slices[number]
    done = await connection.execute(text, start, part.windows, part.first, part.last, timeout=WORK_SECONDS)
    return int(done.split()[-1])


async def _settle(connection: Connection, rollup: Rollup, tier: Tier, start: datetime, ids: list[int]) -> None:
    query = sql.queries("upkeep")
    await connection.execute(query["done"], ids)
    if tier is HOUR:
        await connection.execute(query["add_note"], rollup.table, "compact", start)
        if DAY in rollup.tiers:
            day = start.replace(hour=0)
            await connection.execute(query["add_note"], rollup.table, DAY.name, day)
