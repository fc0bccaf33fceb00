"""`compact`: everything that upkeep would do, now, with progress and what it came to. Safe beside a running engine."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rollup_engine.config.durations import format_duration
from rollup_engine.config.naming import TIER_SUFFIXES
from rollup_engine.config.settings import Settings
from rollup_engine.errors import RollupError
from rollup_engine.runtime import sql
from rollup_engine.runtime.addresses import pool_of
from rollup_engine.runtime.database import persist
from rollup_engine.runtime.refresh import WORK_SECONDS
from rollup_engine.runtime.screens import console, table
from rollup_engine.runtime.upkeep import Pool, Report, upkeep_once

TURN_SECONDS = 0.5  # between tries, while another process has a pass in hand


@dataclass(frozen=True)
class Size:
    """Of one rollup: its partials, their bytes, and the bytes of its tiers."""

    rows: int
    bytes: int
    tiers: int


def run(settings: Settings, keep: timedelta, *, full: bool) -> None:
    """Work off all notes, delete partials superseded for longer than `keep`, and vacuum what was thinned out.

    `full`: copy every partition, and so give its room back to the disk; its readers and writers wait meanwhile.
    Raises `RollupError` where the app id has no rollups.
    """

    async def going() -> None:
        async with pool_of(settings) as pool:
            before = await sizes(pool, settings.app_id)
            if not before:
                raise RollupError(f"App id {settings.app_id!r} has no rollups on this database. Nothing to compact.")
            touched = await _work_off(pool, settings.app_id, keep.total_seconds())
            if full:  # an earlier run may have left room as well
                leaves = await pool.fetch(sql.queries("upkeep")["partitions"], list(before))
                touched = {row[0] for row in leaves}
            for partition in sorted(touched):
                with console.status(f"VACUUM {partition}"):
                    await _give_back(pool, partition, full=full)
            _show(before, await sizes(pool, settings.app_id))
            for line in await _left(pool, settings.app_id, keep):
                console.print(line)
            if touched and not full:
                console.print("Later partials use the freed space again; --full gives it back to the disk.")

    asyncio.run(going())


async def _give_back(pool: Pool, partition: str, *, full: bool) -> None:
    """The room of what was deleted. VACUUM leaves an index as large as it was, so that is made anew."""
    if full:
        await pool.execute(f"VACUUM (FULL, ANALYZE) {partition}", timeout=WORK_SECONDS)
        return
    await pool.execute(f"VACUUM (ANALYZE) {partition}", timeout=WORK_SECONDS)
    for (left,) in await pool.fetch(sql.queries("upkeep")["unfinished_indexes"], partition):
        await pool.execute(f"DROP INDEX {left}")  # by an earlier run that was cut off
    await pool.execute(f"REINDEX TABLE CONCURRENTLY {partition}", timeout=WORK_SECONDS)


async def sizes(pool: Pool, app_id: str) -> dict[str, Size]:
    """By table."""
    query, found = sql.queries("upkeep"), {}
    for row in await pool.fetch(query["tables"], app_id):
        name = row["table_name"]
        rows = await pool.fetchval(sql.fill(query["count"], table=name), timeout=WORK_SECONDS)
        size = await pool.fetchrow(query["sizes"], name, list(TIER_SUFFIXES.values()))
        assert size is not None
        found[name] = Size(rows, size["partials"], size["tiers"])
    return found


async def _work_off(pool: Pool, app_id: str, keep_s: float) -> set[str]:
    """Passes until one gets to all that is due. Returns the partitions out of which partials were deleted."""
    touched: set[str] = set()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar, done = progress.add_task("hours and days", total=None), 0

        def step(report: Report) -> None:
            at = done + report.hours + report.days + report.compacted_hours
            progress.update(bar, completed=at, description=f"{deleted + report.partials_deleted:,} partials deleted")

        deleted = 0
        while True:
            waiting = sum(row["steps"] for row in await pool.fetch(sql.queries("upkeep")["waiting"], app_id))
            progress.update(bar, total=done + waiting)
            report = await persist(
                "compact", lambda: upkeep_once(pool, app_id, quiet_s=0, overdue_s=0, keep_s=keep_s, on_step=step)
            )
            done += report.hours + report.days + report.compacted_hours
            deleted += report.partials_deleted
            touched |= report.touched
            if report.elsewhere:
                progress.update(bar, description="another process is at it, waiting")
                await asyncio.sleep(TURN_SECONDS)
            elif not report.more:
                progress.update(bar, total=done, completed=done)
                return touched


def _show(before: Mapping[str, Size], after: Mapping[str, Size]) -> None:
    columns = ["rollup", "partials before", "after", "MB before", "after ", "tiers, MB"]
    rows = []
    for name, size in before.items():
        now = after.get(name, size)
        megabytes = [f"{number / 1e6:,.1f}" for number in (size.bytes, now.bytes, now.tiers)]
        rows.append([name, size.rows, now.rows, *megabytes])
    console.print(table(None, columns, rows, numbers=columns[1:]))


async def _left(pool: Pool, app_id: str, keep: timedelta) -> list[str]:
    """What was not done, and why."""
    lines = []
    for name, kind, steps in await pool.fetch(sql.queries("upkeep")["waiting"], app_id):
        if kind == "compact":
            kept = format_duration(round(keep.total_seconds() * 1_000))
            lines.append(f"{name}: partials superseded less than {kept} ago stay in {steps:,} hours.")
        elif kind == "all":
            lines.append(
                f"{name}: somebody goes on changing its partials without a note, such as an older version of this"
                " engine. Its hourly and daily totals are not read until that ends: stop it."
            )
        else:
            lines.append(
                f"{name}: {steps:,} {kind}s wait for their totals: they changed meanwhile, or the tables for them are"
                " still to be made. `rollup-engine migrate` makes those of the YAML."
            )
    return lines
