"""The demo's proof: what is in Postgres against a recount of the log file by plain Python.

Exact means: every (window, client, status, method) equal, nothing missing, nothing more, and the books as sent.
"""

from typing import Any

import asyncpg
from rich.console import Console

from billable_metrics.catalog import catalog_from_config
from billable_metrics.execute import MetricRunner
from billable_metrics.rewriter import rewrite
from rollup_engine.config.model import Config
from rollup_engine.progress import KINDS
from rollup_engine.runtime.database import at_ms
from rollup_engine.runtime.screens import table
from rollup_engine.runtime.status import EventStatus

EVENT = "file_download"
METRIC = """SELECT status, SUM(aggregated_count) AS downloads, SUM(sum_bytes_downloaded) AS bytes
FROM AGGREGATED_EVENTS('file_download')
GROUP BY status
ORDER BY downloads DESC"""

Expected = dict[Any, tuple[int, int]]  # (window ms, client, status, method) -> (downloads, bytes)


async def show_metric(database_url: str, config: Config, console: Console) -> None:
    """A metric, and its answer."""
    console.print("\n[bold]A metric, as a billing analyst writes it[/bold]")
    console.print(METRIC, style="cyan", highlight=False)
    runner = MetricRunner(database_url)
    answer = await runner.run(lambda catalog: rewrite(METRIC, catalog), catalog_from_config(config))
    console.print(table(None, answer.columns, answer.rows, numbers=answer.columns[1:]))


async def prove(
    connection: asyncpg.Connection,
    status: dict[str, EventStatus],
    books: dict[str, int],
    expected: Expected,
    console: Console,
) -> bool:
    """Show the reconciliation. `status`: of all that the log file was sent as. True only if all is exact."""
    rows = await connection.fetch(
        'SELECT "timestamp", external_customer_id, status, method, count, sum_bytes_downloaded'
        " FROM rollups.file_download"
    )
    partials = await connection.fetchval("SELECT count(*) FROM rollups.file_download_aggregated")
    reasons = await connection.fetch(
        "SELECT outcome, reason, count(*) FROM rollup_engine.dead_letters WHERE event = ANY ($1)"
        " GROUP BY 1, 2 ORDER BY 3 DESC, 2",
        list(status),
    )
    found = {(at_ms(row[0]), row[1], row[2], row[3]): (row[4], int(row[5] or 0)) for row in rows}
    console.print(
        table("dead letters", ["outcome", "reason", "letters"], [tuple(row) for row in reasons], numbers=["letters"])
    )
    wrong = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
    booked = {kind: sum(getattr(event, kind) for event in status.values()) for kind in ("received", *KINDS)}
    totals = [
        ["groups (window, client, status, method)", len(expected), len(found)],
        ["downloads", sum(c for c, _ in expected.values()), sum(c for c, _ in found.values())],
        ["bytes", sum(b for _, b in expected.values()), sum(b for _, b in found.values())],
        *([f"books: {kind}", books.get(kind, 0), count] for kind, count in booked.items()),
    ]
    numbers = ["recount of the file", "rollup-engine"]
    shown = table("reconciliation", ["", *numbers, ""], [], numbers=numbers)
    for name, theirs, ours in totals:
        shown.add_row(
            str(name), f"{theirs:,}", f"{ours:,}", "[green]equal[/green]" if theirs == ours else "[red]DIFFERS[/red]"
        )
    console.print(shown)
    balanced = booked["received"] == sum(booked[kind] for kind in KINDS if kind != "unmatched")
    exact = not wrong and balanced and all(theirs == ours for _, theirs, ours in totals)
    if exact:
        console.print(
            f"[bold green]Exact.[/bold green] All {len(expected):,} groups equal the recount, from {partials:,} partial"
            " rollups; the books balance."
        )
    else:
        console.print(f"[bold red]NOT exact.[/bold red] {len(wrong):,} groups differ, for example {sorted(wrong)[:3]}.")
    return exact
