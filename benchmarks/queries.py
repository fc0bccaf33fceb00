"""How fast metrics are answered over many partial rollups, with tiers, without, and by a query written by hand.

All forms of a question must give the same answer, or its figures are marked wrong. Refresh and compaction are timed in
the same run.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg
import numpy as np

from benchmarks.many_partials import (
    APP_ID,
    CATALOG,
    FIRST,
    PARTIALS_MAX,
    TIMEOUT_S,
    TUPLES,
    Pool,
    Size,
    bytes_of,
    fill,
)
from benchmarks.results import Figure, Row, Suite, console
from billable_metrics.catalog import Catalog
from billable_metrics.execute import MetricRunner
from billable_metrics.rewriter import Rewritten, rewrite
from rollup_engine.runtime import schema
from rollup_engine.runtime.embedded import start_database
from rollup_engine.runtime.upkeep import Report, upkeep_once

EQUAL, WRONG = "equal", "wrong"

BY_HAND = """
SELECT {columns} FROM (
    SELECT "timestamp", external_customer_id, speed, MAX(count) AS count, MAX(sum_bytes) AS sum_bytes
    FROM rollups.usage_aggregated
    WHERE "timestamp" >= $1 AND "timestamp" < $2 {customer} GROUP BY "timestamp", external_customer_id, speed
) AS windows {grouped}
"""


@dataclass(frozen=True)
class Question:
    """A metric, and the same written by hand over the partials. `one`: for one customer at a time."""

    title: str
    metric: str
    by_hand: str
    one: bool = False


QUESTIONS = (
    Question(
        "one customer's month",
        "SELECT SUM(aggregated_count) AS n, SUM(sum_bytes) AS bytes FROM AGGREGATED_EVENTS('usage')",
        BY_HAND.format(
            columns="SUM(count) AS n, SUM(sum_bytes) AS bytes", customer="AND external_customer_id = $3", grouped=""
        ),
        one=True,
    ),
    Question(
        "all customers' month by day",
        "SELECT date_trunc('day', timestamp) AS day, SUM(aggregated_count) AS n, SUM(sum_bytes) AS bytes"
        " FROM AGGREGATED_EVENTS('usage') GROUP BY 1 ORDER BY 1",
        BY_HAND.format(
            columns="date_trunc('day', \"timestamp\") AS day, SUM(count) AS n, SUM(sum_bytes) AS bytes",
            customer="",
            grouped="GROUP BY 1 ORDER BY 1",
        ),
    ),
    Question(
        "all customers' month by customer and day",
        "SELECT external_customer_id, date_trunc('day', timestamp) AS day, SUM(aggregated_count) AS n,"
        " SUM(sum_bytes) AS bytes FROM AGGREGATED_EVENTS('usage') GROUP BY 1, 2 ORDER BY 1, 2",
        BY_HAND.format(
            columns="external_customer_id, date_trunc('day', \"timestamp\") AS day, SUM(count) AS n,"
            " SUM(sum_bytes) AS bytes",
            customer="",
            grouped="GROUP BY 1, 2 ORDER BY 1, 2",
        ),
    ),
)


@dataclass
class Stage:
    """The database filled, and how to ask it."""

    pool: Pool
    url: str
    size: Size
    fast: int  # customers asked for with tiers,
    slow: int  # and in the other forms

    async def metric(self, question: Question, customer: str | None, *, tiers: bool) -> object:
        def plan(catalog: Catalog) -> Rewritten:
            return rewrite(
                question.metric, catalog if tiers else CATALOG, customer=customer, start=FIRST, end=self.size.end
            )

        result = await MetricRunner(self.url).run(plan, CATALOG, timeout_s=TIMEOUT_S)
        return [tuple(row) for row in result.rows]

    async def by_hand(self, question: Question, customer: str | None) -> object:
        connection = await asyncpg.connect(self.url)  # a connection of its own, as the others have
        try:
            args = (FIRST, self.size.end) if customer is None else (FIRST, self.size.end, customer)
            return [tuple(row) for row in await connection.fetch(question.by_hand, *args, timeout=TIMEOUT_S)]
        finally:
            await connection.close()


Form = Callable[[Question, str | None], Awaitable[object]]


async def _asked(form: Form, question: Question, customers: Sequence[str | None]) -> tuple[list[float], list[object]]:
    milliseconds, answers = [], []
    await form(question, customers[0])  # what is not in memory yet is read now
    for customer in customers:
        started = time.perf_counter()
        answers.append(await form(question, customer))
        milliseconds.append((time.perf_counter() - started) * 1_000)
    return milliseconds, answers


async def _questions(stage: Stage, state: str, forms: dict[str, Form], slow: Sequence[str]) -> list[Row]:
    """One row per question and form. The slow forms are asked fewer times."""
    rows: list[Row] = []
    for question in QUESTIONS:
        first: dict[str | None, object] = {}
        times: dict[str, float] = {}
        made: list[tuple[str, Row]] = []
        for name, form in forms.items():
            few, many = (stage.slow, stage.fast) if question.one else (1, 3)
            picked: list[str | None] = [None] * (few if name in slow else many)
            if question.one:
                chosen = random.Random(7).sample(range(stage.size.customers), max(few, many))
                picked = [f"customer-{number}" for number in chosen[: len(picked)]]
            milliseconds, answers = await _asked(form, question, picked)
            right = all(first.setdefault(who, answer) == answer for who, answer in zip(picked, answers, strict=True))
            times[name] = float(np.median(milliseconds))
            row: Row = {"question": f"{question.title}, {state}, {name}", "p50, ms": times[name]}
            row |= {"p95, ms": float(np.percentile(milliseconds, 95)), "asked": len(picked)}
            made.append((name, row | {"answer": EQUAL if right else WRONG}))
            console.print(f"{row['question']}: {times[name]:.1f} ms, {EQUAL if right else WRONG}")
        for name, row in made:
            row["× by hand"] = times["by hand"] / times[name] if "by hand" in times else None
            if "without tiers" in times:
                row["× without tiers"] = times["without tiers"] / times[name]
            rows.append(row)
    return rows


async def _work_off(stage: Stage, keep_s: float) -> tuple[Report, float]:
    """Passes until nothing is due; `keep_s` large: without compaction."""
    total, started = Report(), time.perf_counter()
    while True:
        report = await upkeep_once(stage.pool, APP_ID, quiet_s=0, overdue_s=0, keep_s=keep_s)
        for name in ("hours", "days", "rows_written", "compacted_hours", "partials_deleted"):
            setattr(total, name, getattr(total, name) + getattr(report, name))
        if not report.more:
            return total, time.perf_counter() - started


async def _measured(stage: Stage) -> tuple[list[Row], list[Row]]:
    started = time.perf_counter()
    await fill(stage.pool, stage.size)
    partials = await stage.pool.fetchval("SELECT count(*) FROM rollups.usage_aggregated")
    console.print(f"{partials:,} partials in {time.perf_counter() - started:.0f} s")
    before = await bytes_of(stage.pool, "_aggregated")
    work: list[Row] = []

    def told(what: str, unit: str, figure: Figure) -> None:
        work.append({"what": what, "unit": unit, "figure": figure})
        console.print(f"{what}: {figure} {unit}")

    told("partial rollups", "rows", partials)
    refreshed, seconds = await _work_off(stage, 10.0 * 365 * 86_400)
    told("refresh of hours and days", "partials/s", partials / seconds)
    told("hourly totals", "rows", await stage.pool.fetchval("SELECT count(*) FROM rollups.usage_hourly"))
    told("daily totals", "rows", await stage.pool.fetchval("SELECT count(*) FROM rollups.usage_daily"))
    told("refreshed", "hours", refreshed.hours)
    for suffix in ("_hourly", "_daily"):
        told(f"size of usage{suffix}", "MB", await bytes_of(stage.pool, suffix) / 1e6)
    await stage.pool.execute("VACUUM ANALYZE rollups.usage_hourly, rollups.usage_daily", timeout=TIMEOUT_S)
    # As while events come in: the newest two hours have partials that no tier has yet.
    newest = [stage.size.end - timedelta(hours=number) for number in (1, 2)]
    await stage.pool.execute(
        "INSERT INTO rollup_engine.changes (table_name, tier, start) SELECT 'usage', 'hour', unnest($1::timestamptz[])",
        newest,
    )
    forms: dict[str, Form] = {
        "by hand": stage.by_hand,
        "without tiers": lambda question, customer: stage.metric(question, customer, tiers=False),
        "with tiers": lambda question, customer: stage.metric(question, customer, tiers=True),
    }
    asked = await _questions(stage, "all partials there", forms, ["by hand", "without tiers"])
    compacted, seconds = await _work_off(stage, 0.0)
    told("compaction", "partials/s", partials / seconds)
    told("partials deleted", "rows", compacted.partials_deleted)
    told("size of the partials before", "MB", before / 1e6)
    for statement, name in (("VACUUM ANALYZE", "VACUUM"), ("VACUUM (FULL, ANALYZE)", "VACUUM FULL")):
        started = time.perf_counter()
        await stage.pool.execute(f"{statement} rollups.usage_aggregated", timeout=TIMEOUT_S)
        told(f"{name} after it", "s", time.perf_counter() - started)
        after = await bytes_of(stage.pool, "_aggregated")
        told(f"size of the partials after {name}", "MB", after / 1e6)
    await stage.pool.execute(
        "INSERT INTO rollup_engine.changes (table_name, tier, start) SELECT 'usage', 'hour', unnest($1::timestamptz[])",
        newest,
    )
    asked += await _questions(stage, "compacted", forms, ["by hand", "without tiers"])
    return asked, work


async def _run(options: argparse.Namespace, url: str) -> tuple[list[Row], list[Row]]:
    size = Size(options.partials, options.customers, options.days)
    async with schema.connected(url, connections_max=2) as pool:
        return await _measured(Stage(pool, url, size, options.fast, options.slow))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--partials", type=int, default=20_000_000, help="about so many (default: %(default)s)")
    parser.add_argument("--customers", type=int, default=2_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--fast", type=int, default=200, help="customers asked for with tiers")
    parser.add_argument("--slow", type=int, default=5, help="customers asked for in the other forms")


def main(options: argparse.Namespace) -> list[Suite]:
    with tempfile.TemporaryDirectory(prefix="rollup-engine-bench-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)  # PostgreSQL does not run as root
        server = start_database(Path(directory))
        try:
            asked, work = asyncio.run(_run(options, server.database_url))
        finally:
            server.destroy()
    parameters: dict[str, Figure] = {
        "partial rollups": work[0]["figure"],
        "customers": options.customers,
        "days": options.days,
        "tuples a customer": TUPLES,
        "partials a window": f"1 to {PARTIALS_MAX}",
    }
    asks = "Every question on a connection of its own, as `query` and the API ask it; two hours are behind, as they"
    hand = "By hand: the greatest count and sum per window, customer and speed, then added up; right here, where totals"
    notes = [f"{asks} are while events come in.", f"{hand} only grow.", "×: so many times as fast, by the medians."]
    return [
        Suite("queries", "Queries", parameters, asked, notes),
        Suite("queries.upkeep", "Queries: refresh and compaction", parameters, work),
    ]
