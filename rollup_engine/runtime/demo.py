"""`demo`: a real access log as traffic, through real Kafka into Postgres, and a proof of every total at the end.

The proof is a recount of the log file by plain Python that shares no code with the engine (`examples/access_log`).
Exact means: every (window, client, status, method) equal, nothing missing, nothing more, and the books as sent.
"""

import asyncio
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from billable_metrics.catalog import catalog_from_config
from billable_metrics.execute import MetricRunner
from billable_metrics.rewriter import rewrite
from rollup_engine.config.loader import load
from rollup_engine.config.model import Config
from rollup_engine.config.settings import Settings
from rollup_engine.errors import RollupError
from rollup_engine.progress import KINDS
from rollup_engine.runtime import up
from rollup_engine.runtime.addresses import Addresses
from rollup_engine.runtime.children import Children
from rollup_engine.runtime.database import at_ms
from rollup_engine.runtime.produce import produce
from rollup_engine.runtime.screens import status_table, table
from rollup_engine.runtime.status import Status, collect
from rollup_engine.telemetry import configure_logging

EVENTS_PER_SECOND = 1_500  # so that there is something to watch
PATIENCE_SECONDS = 90
METRIC = """SELECT status, SUM(aggregated_count) AS downloads, SUM(sum_bytes_downloaded) AS bytes
FROM AGGREGATED_EVENTS('file_download')
GROUP BY status
ORDER BY downloads DESC"""

console = Console()


def run(*, keep: bool) -> bool:
    """Run the demo to its end. True only if totals and books are exact."""
    example = _example()
    with _state_dir(keep=keep) as state_dir:
        settings = Settings(
            kafka_bootstrap_servers=None,
            database_url=None,
            config_dir=example / "rollups",
            state_dir=state_dir,
            app_id="demo",
            log_level="WARNING",
        )
        configure_logging(settings.log_level, settings.log_format)
        console.print(
            Panel.fit(
                "A real access log (10,000 downloads, 1,753 clients, May 2015) becomes billable totals.\n"
                "Added to it, seeded: 5 % duplicates, conflicting duplicates, malformed lines, strangers.\n"
                "Every total is checked against a recount of the file at the end.",
                title="[bold]rollup-engine demo[/bold]",
                title_align="left",
            )
        )
        started = time.monotonic()
        with up.services(settings) as addresses:
            exact = asyncio.run(_demo(settings, addresses, example))
        console.print(f"[dim]{time.monotonic() - started:.0f} s in all.[/dim]")
        if keep:
            console.print(
                f"Look around: [bold]ROLLUP_APP_ID=demo ROLLUP_STATE_DIR={state_dir} rollup-engine status[/bold]"
                " (or query, dead-letters list)"
            )
    return exact


async def _demo(settings: Settings, addresses: Addresses, example: Path) -> bool:
    traffic = _module(example / "traffic.py").demo_traffic(example / "apache_access.log")
    expected = _module(example / "recount.py").recount(example / "apache_access.log")
    config = load(settings.config_dir)
    console.print(f"Kafka at {addresses.kafka}, Postgres 18, [bold]route[/bold] and [bold]work[/bold] as processes.")
    running = up.engine(settings, config, str(settings.config_dir), addresses, drain=True)
    async with running as (children, pool, kafka):
        with console.status("starting route and work"):
            await children.ready()
        progress = Progress(
            SpinnerColumn(), TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), console=console
        )
        sending = progress.add_task("sent to Kafka", total=len(traffic.records))
        booking = progress.add_task("judged and booked", total=len(traffic.records))
        sender = asyncio.create_task(
            produce(
                settings,
                addresses.kafka,
                config.topics[0],
                traffic.records,
                rate=EVENTS_PER_SECOND,
                on_sent=lambda _: progress.advance(sending),
            )
        )
        with Live(progress, console=console, refresh_per_second=8, transient=not console.is_terminal) as live:
            status = await _follow(settings, pool, kafka, children, progress, booking, live, len(traffic.records))
        await sender
        if not console.is_terminal:
            console.print(f"{len(traffic.records):,} events sent to Kafka; {_booked(status):,} judged and booked.")
    # the roles have ended cleanly: everything pending is emitted
    return await _prove(addresses, config, status, traffic.expected_books, expected)


async def _follow(
    settings: Settings,
    pool: "asyncpg.Pool[asyncpg.Record]",
    kafka: Any,
    children: Children,
    progress: Progress,
    booking: TaskID,
    live: Live,
    total: int,
) -> Status:
    """Show the books and the newest totals until all that was sent is booked."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        children.watch()
        status = await collect(pool, settings.app_id, kafka)
        progress.update(booking, completed=_booked(status))
        live.update(Group(progress, status_table(status, console.width), await _newest(pool)))
        if _booked(status) >= total and status.lag == 0:
            return status
        if time.monotonic() > deadline:
            raise RollupError(f"Only {_booked(status):,} of {total:,} events were booked within {PATIENCE_SECONDS} s.")
        await asyncio.sleep(0.4)


def _booked(status: Status) -> int:
    return status.received


async def _newest(pool: "asyncpg.Pool[asyncpg.Record]") -> Table:
    rows = await pool.fetch(
        'SELECT "timestamp", external_customer_id, status, method, count, sum_bytes_downloaded, emitted_at'
        " FROM rollups.file_download_aggregated ORDER BY emitted_at DESC, count DESC LIMIT 6"
    )
    columns = ["window", "customer", "status", "method", "count", "sum_bytes_downloaded"]
    return table("newest partial rollups", columns, [row[:6] for row in rows], numbers=columns[4:])


async def _prove(
    addresses: Addresses, config: Config, status: Status, books: dict[str, int], expected: dict[Any, tuple[int, int]]
) -> bool:
    connection = await asyncpg.connect(addresses.database)
    try:
        rows = await connection.fetch(
            'SELECT "timestamp", external_customer_id, status, method, count, sum_bytes_downloaded'
            " FROM rollups.file_download"
        )
        partials = await connection.fetchval("SELECT count(*) FROM rollups.file_download_aggregated")
        reasons = await connection.fetch(
            "SELECT outcome, reason, count(*) FROM rollup_engine.dead_letters GROUP BY 1, 2 ORDER BY 3 DESC, 2"
        )
    finally:
        await connection.close()
    found = {(at_ms(row[0]), row[1], row[2], row[3]): (row[4], int(row[5] or 0)) for row in rows}
    console.print("\n[bold]A metric, as a billing analyst writes it[/bold]")
    console.print(METRIC, style="cyan", highlight=False)
    runner = MetricRunner(addresses.database)
    answer = await runner.run(lambda catalog: rewrite(METRIC, catalog), catalog_from_config(config))
    console.print(table(None, answer.columns, answer.rows, numbers=answer.columns[1:]))
    console.print(
        table("dead letters", ["outcome", "reason", "letters"], [tuple(row) for row in reasons], numbers=["letters"])
    )
    wrong = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
    booked = {kind: sum(getattr(event, kind) for event in status.events.values()) for kind in ("received", *KINDS)}
    totals = [
        ["groups (window, client, status, method)", len(expected), len(found)],
        ["downloads", sum(c for c, _ in expected.values()), sum(c for c, _ in found.values())],
        ["bytes", sum(b for _, b in expected.values()), sum(b for _, b in found.values())],
        *([f"books: {kind}", books.get(kind, 0), count] for kind, count in booked.items()),
    ]
    shown = table(
        "reconciliation",
        ["", "recount of the file", "rollup-engine", ""],
        [],
        numbers=["recount of the file", "rollup-engine"],
    )
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


def _example() -> Path:
    """The example beside the package, as in a checkout."""
    found = Path(__file__).resolve().parents[2] / "examples" / "access_log"
    if not (found / "apache_access.log").is_file():
        raise RollupError("The demo's data is part of the source checkout, and is not here. Run it from a checkout.")
    return found


def _module(path: Path) -> ModuleType:
    """A module of the example, by its file: examples are no part of the package."""
    name = f"examples.access_log.{path.stem}"
    root = str(path.parents[2])
    if root not in sys.path:
        sys.path.insert(0, root)
    return importlib.import_module(name)


@contextmanager
def _state_dir(*, keep: bool) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rollup-engine-demo-"))
    try:
        yield path
    finally:
        if not keep:
            real = (path / "postgres").resolve()
            shutil.rmtree(path, ignore_errors=True)
            if real.is_dir() and os.fspath(real).startswith("/var/lib/rollup-engine/"):
                shutil.rmtree(real, ignore_errors=True)
