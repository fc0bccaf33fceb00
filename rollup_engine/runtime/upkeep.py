"""Upkeep: tiers brought up to date and superseded partials deleted, as the notes in the database ask for it.

One pass does what is due: hours, then days, then compaction, a bounded part of it. One process per app id has a pass in
hand at a time; without notes it costs a few small queries. No fault in here stops the engine: readers take from the
partials whatever is still noted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

import asyncpg
import structlog

from rollup_engine.runtime import sql
from rollup_engine.runtime.compaction import compact
from rollup_engine.runtime.database import Connection, transient
from rollup_engine.runtime.refresh import Rollup, note_unknown, refresh
from rollup_engine.runtime.tiers import DAY, HOUR, tiers_of
from rollup_engine.telemetry import COMPACTED, TIER_ROWS, UPKEEP_FAULTS, UPKEEP_NOTED

log = structlog.get_logger(__name__)
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

QUIET_SECONDS = 60.0  # an hour in which nothing came for so long is refreshed,
OVERDUE_SECONDS = 600.0  # and one that is over and has waited for so long in any case: notes must not pile up
KEEP_SECONDS = 3_600.0
PAUSE_SECONDS = 5.0
FAULT_PAUSE_SECONDS = 30.0
STEPS_MAX = 100  # of each kind in one pass, so that none waits for all of another


@dataclass
class Report:
    """What a pass did. `elsewhere`: nothing, for another process has one in hand. `more`: it did not get to all.

    `touched`: partitions out of which partials were deleted.
    """

    hours: int = 0
    days: int = 0
    rows_written: int = 0
    compacted_hours: int = 0
    partials_deleted: int = 0
    more: bool = False
    elsewhere: bool = False
    touched: set[str] = field(default_factory=set)


async def upkeep_once(
    pool: Pool,
    app_id: str,
    *,
    quiet_s: float = QUIET_SECONDS,
    overdue_s: float = OVERDUE_SECONDS,
    keep_s: float = KEEP_SECONDS,
    steps_max: int = STEPS_MAX,
    on_step: Callable[[Report], None] = lambda report: None,
) -> Report:
    """One pass over what is due now. `keep_s`: how long superseded partials stay. `on_step` hears of progress.

    Raises what the database raises; what was done by then is done, and the rest is still noted. A step that cannot be
    done keeps none of the others waiting: its fault is raised after them.
    """
    report, faults = Report(), list[Exception]()

    @contextmanager
    def step(table: str, start: datetime | None = None) -> Iterator[None]:
        try:
            yield
        except asyncpg.PostgresError as error:
            if transient(error):
                raise
            log.exception("upkeep failed, going on with what else is due", table=table, start=start)
            faults.append(error)
        else:
            on_step(report)

    query = sql.queries("upkeep")
    async with _session(pool, app_id) as (connection, mine):
        rollups = await _rollups(connection, app_id) if mine else {}
        await _count_notes(connection, list(rollups))
        if not mine:
            return Report(elsewhere=True)

        async def due(name: str, *args: object) -> list[asyncpg.Record]:
            rows = await connection.fetch(query[name], list(rollups), *args, steps_max)
            report.more |= len(rows) == steps_max
            return rows

        for (table,) in await connection.fetch(query["unknown"], list(rollups), quiet_s, overdue_s):
            with step(table):
                await note_unknown(connection, table)
        for table, start in await due("due_hours", quiet_s, overdue_s):
            with step(table, start):
                written = await refresh(connection, rollups[table], HOUR, start)
                report.rows_written += _counted(table, HOUR.name, written)
                report.hours += 1
        for table, start in await due("due_days"):
            with step(table, start):
                written = await refresh(connection, rollups[table], DAY, start)
                report.rows_written += _counted(table, DAY.name, written)
                report.days += 1
        before = await connection.fetchval(query["before"], keep_s)
        for table, start in await due("due_compactions", before):
            with step(table, start):
                compacted = await compact(connection, table, start, before)
                COMPACTED.labels(table).inc(compacted.deleted)
                report.partials_deleted += compacted.deleted
                report.compacted_hours += 1
                if compacted.deleted and compacted.partition is not None:
                    report.touched.add(compacted.partition)
    if faults:
        raise faults[0]
    return report


async def upkeep_forever(pool: Pool, app_id: str, *, emit_every_s: float, keep_s: float = KEEP_SECONDS) -> None:
    """Passes, one after another, until cancelled; waits where there is nothing due. Raises nothing else: a fault is
    logged, counted and tried again. `emit_every_s`: the longest of the YAML's rollups."""
    quiet_s = max(QUIET_SECONDS, 2 * emit_every_s)
    overdue_s = max(OVERDUE_SECONDS, quiet_s)
    while True:
        pause = PAUSE_SECONDS
        try:
            report = await upkeep_once(pool, app_id, quiet_s=quiet_s, overdue_s=overdue_s, keep_s=keep_s)
        except Exception as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # a ROLLBACK that fails takes the place of the cancellation
                raise asyncio.CancelledError from error
            UPKEEP_FAULTS.inc()
            pause = FAULT_PAUSE_SECONDS
            if transient(error):
                log.warning("upkeep was interrupted, trying again", error=str(error) or repr(error), seconds=pause)
            else:
                log.exception("upkeep failed, trying again", seconds=pause)
        else:
            if report.more:
                pause = 0.0
            if report.hours or report.days or report.compacted_hours:
                log.debug(
                    "upkeep",
                    hours=report.hours,
                    days=report.days,
                    rows=report.rows_written,
                    deleted=report.partials_deleted,
                )
        await asyncio.sleep(pause)


@asynccontextmanager
async def _session(pool: Pool, app_id: str) -> AsyncIterator[tuple[Connection, bool]]:
    """A connection, and whether this process has the pass in hand. That lock is the session's, and not a transaction's:
    no snapshot of ours may be older than what another process wrote last."""
    query = sql.queries("upkeep")
    async with pool.acquire() as connection:
        try:
            yield connection, await connection.fetchval(query["only_one"], app_id)
        finally:
            try:
                await connection.execute(query["let_go"])
            except BaseException:
                connection.terminate()  # which ends the session
                raise


async def _rollups(connection: Connection, app_id: str) -> dict[str, Rollup]:
    """By table. One whose tiers are still to be made, by whoever starts with its YAML, keeps its notes until then."""
    rollups = {}
    for row in await connection.fetch(sql.queries("upkeep")["tables"], app_id):
        tiers = tiers_of(row["window_ms"])
        if {tier.name for tier in tiers} == set(row["made"]):
            rollups[row["table_name"]] = Rollup(row["table_name"], tiers)
    return rollups


async def _count_notes(connection: Connection, tables: list[str]) -> None:
    """By the process that has the pass in hand; the others tell of none, so that a sum over all is right."""
    found = {row["tier"]: row["steps"] for row in await connection.fetch(sql.queries("upkeep")["noted"], tables)}
    for kind in (HOUR.name, DAY.name, "compact"):
        UPKEEP_NOTED.labels(kind).set(found.get(kind, 0))


def _counted(table: str, tier: str, written: int) -> int:
    TIER_ROWS.labels(table, tier).inc(written)
    return written
