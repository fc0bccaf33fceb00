"""`demo`: a real access log as traffic, through real Kafka into Postgres, and a proof of every total at the end.

The proof is a recount of the log file by plain Python that shares no code with the engine (`examples/access_log`). One
event more comes over HTTP, of an event type of its own (`examples/demo`).
"""

import asyncio
import importlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from rollup_engine.config.loader import load
from rollup_engine.config.settings import Settings
from rollup_engine.errors import RollupError
from rollup_engine.runtime import demo_http, demo_proof, up
from rollup_engine.runtime.addresses import Addresses
from rollup_engine.runtime.children import Children
from rollup_engine.runtime.produce import produce
from rollup_engine.runtime.screens import status_table, table
from rollup_engine.runtime.status import EventStatus, Status, collect
from rollup_engine.telemetry import configure_logging

EVENTS_PER_SECOND = 1_500  # so that there is something to watch
PATIENCE_SECONDS = 90
console = Console(emoji=False)


def run(*, keep: bool) -> bool:
    """Run the demo to its end. True only if totals and books are exact."""
    example = _example()
    with _state_dir(keep=keep) as state_dir:
        settings = Settings(
            kafka_bootstrap_servers=None,
            database_url=None,
            config_dir=_rollups(state_dir, example),
            metrics_dir=example / "metrics",
            state_dir=state_dir,
            app_id="demo",
            log_level="WARNING",
        )
        configure_logging(settings.log_level, settings.log_format)
        console.print(
            Panel.fit(
                "A real access log (10,000 downloads, 1,753 clients, May 2015) becomes billable totals.\n"
                "Added to it, seeded: 5 % duplicates, conflicting duplicates, malformed lines, strangers.\n"
                "Every total is checked against a recount of the file at the end. One more event comes by curl.",
                title="[bold]rollup-engine demo[/bold]",
                title_align="left",
            )
        )
        started = time.monotonic()
        with up.services(settings) as addresses:
            exact, api = asyncio.run(_demo(settings, addresses, example))
        console.print(f"[dim]{time.monotonic() - started:.0f} s in all.[/dim]")
        if keep:
            _say_where(settings, api)
    return exact


def _say_where(settings: Settings, api: str) -> None:
    """How to go on with what was kept. The port is named, so that the curl line finds the API again."""
    kept = {"APP_ID": settings.app_id, "STATE_DIR": settings.state_dir, "CONFIG_DIR": settings.config_dir}
    kept |= {"API_PORT": urlsplit(api).port}
    lines = [
        "Look around:",
        "",
        f"export {' '.join(f'ROLLUP_{name}={shlex.quote(str(value))}' for name, value in kept.items())}",
        "rollup-engine status    # or dead-letters list, or query 'SELECT …'",
        "rollup-engine up        # starts it again, and the curl line above works again",
        "",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


async def _demo(settings: Settings, addresses: Addresses, example: Path) -> tuple[bool, str]:
    """Whether all is exact, and where the API was."""
    traffic = _module(example / "traffic.py").demo_traffic(example / "apache_access.log")
    expected = _module(example / "recount.py").recount(example / "apache_access.log")
    config = load(settings.config_dir)
    topic = next(event.kafka_topics[0] for event in config.events if event.event == demo_proof.EVENT)
    console.print(
        f"Kafka at {addresses.kafka}, Postgres 18; [bold]route[/bold], [bold]work[/bold] and the API as processes."
    )
    running = up.engine(settings, config, str(settings.config_dir), addresses, drain=True, api=True)
    async with running as (children, pool, kafka):
        with console.status("starting route, work and the API"):
            await children.ready()
            api = await demo_http.ready(children)
        posted = await demo_http.send(pool, settings.app_id, api, console)
        progress = Progress(
            SpinnerColumn(), TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), console=console
        )
        sending = progress.add_task("sent to Kafka", total=len(traffic.records))
        booking = progress.add_task("judged and booked", total=len(traffic.records))
        sender = asyncio.create_task(
            produce(
                settings,
                addresses.kafka,
                topic,
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
    await demo_proof.show_metric(addresses.database, config, console)
    connection = await asyncpg.connect(addresses.database)
    try:
        arrived = not posted or await demo_http.show(connection, status, console)
        exact = await demo_proof.prove(connection, _of_the_log(status), traffic.expected_books, expected, console)
    finally:
        await connection.close()
    return arrived and exact, api


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
        if _booked(status) >= total and not any(event.lag for event in _of_the_log(status).values()):
            return status
        if time.monotonic() > deadline:
            raise RollupError(f"Only {_booked(status):,} of {total:,} events were booked within {PATIENCE_SECONDS} s.")
        await asyncio.sleep(0.4)


def _of_the_log(status: Status) -> dict[str, EventStatus]:
    """The books of what the log file was sent as: what comes over HTTP, ours or anybody's, is apart."""
    return {name: event for name, event in status.events.items() if name != demo_http.EVENT}


def _booked(status: Status) -> int:
    return sum(event.received + event.unmatched for event in _of_the_log(status).values())


async def _newest(pool: "asyncpg.Pool[asyncpg.Record]") -> Table:
    rows = await pool.fetch(
        'SELECT "timestamp", external_customer_id, status, method, count, sum_bytes_downloaded, emitted_at'
        " FROM rollups.file_download_aggregated ORDER BY emitted_at DESC, count DESC LIMIT 6"
    )
    columns = ["window", "customer", "status", "method", "count", "sum_bytes_downloaded"]
    return table("newest partial rollups", columns, [row[:6] for row in rows], numbers=columns[4:])


def _example() -> Path:
    """The example beside the package, as in a checkout."""
    found = Path(__file__).resolve().parents[2] / "examples" / "access_log"
    if not (found / "apache_access.log").is_file():
        raise RollupError("The demo's data is part of the source checkout, and is not here. Run it from a checkout.")
    return found


def _rollups(state_dir: Path, example: Path) -> Path:
    """The YAML files of both examples in one directory."""
    made = state_dir / "rollups"
    for directory in (example, example.parent / "demo"):
        shutil.copytree(directory / "rollups", made, dirs_exist_ok=True)
    return made


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
