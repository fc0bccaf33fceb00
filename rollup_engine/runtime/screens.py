"""What commands print: tables and progress for people, JSON and CSV for programs. Decides nothing."""

import asyncio
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rollup_engine.config.settings import Settings
from rollup_engine.errors import UsageError
from rollup_engine.progress import KINDS
from rollup_engine.runtime import addresses, alarms
from rollup_engine.runtime.alarms import Halt
from rollup_engine.runtime.status import Status, collect

console = Console(emoji=False)  # `:a:` in an id is no picture


def table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[str] = ()
) -> Table:
    """A table whose `numbers` columns stand to the right."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(shown(value) for value in row))
    return made


def shown(value: object) -> str:
    """A cell for people, safe for rich."""
    if value is None:
        return "[dim]-[/dim]"
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds" if value.microsecond else "seconds").replace("+00:00", "Z")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Decimal):
        return f"{value:,f}"
    return escape(str(value))


def plain(value: object) -> object:
    """For JSON: numbers stay exact."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else f"{value:f}"
    if isinstance(value, datetime):
        return shown(value)
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return str(value)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[object]], form: str) -> None:
    """A query's result as table, JSON (a list of objects) or CSV."""
    if form == "json":
        print(json.dumps([dict(zip(columns, map(plain, row), strict=True)) for row in rows], indent=2))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if value is None else plain(value) for value in row] for row in rows])
    else:
        numbers = [column for i, column in enumerate(columns) if rows and isinstance(rows[0][i], (int, float, Decimal))]
        console.print(table(None, columns, rows, numbers=numbers))


def status_table(status: Status, width: int) -> Table:
    """One row per event type; on a narrow terminal one column per event type."""
    lost = ["lost"] if any(event.lost for event in status.events.values()) else []
    names = ["received", *KINDS, *lost, "lag", "watermark"]
    events = sorted(status.events.items(), key=lambda item: (item[0].startswith("topic:"), item[0]))
    if width >= 120:
        rows = [[name, *(getattr(event, kind) for kind in names)] for name, event in events]
        return table(None, ["event", *names], rows, numbers=names[:-1])
    rows = [[kind, *(getattr(event, kind) for _, event in events)] for kind in names]
    return table(None, ["", *(name for name, _ in events)], rows, numbers=[name for name, _ in events])


def show_status(settings: Settings, form: str) -> None:
    async def run() -> Status:
        async with addresses.pool_of(settings) as pool, addresses.kafka_if_running(settings) as kafka:
            return await collect(pool, settings.app_id, kafka)

    status = asyncio.run(run())
    if form == "json":
        print(json.dumps(status.to_dict(), indent=2))
        return
    console.print(status_table(status, console.width))
    for halt in status.halted:
        console.print(
            f"[bold red]{escape(halt.source)} stands still[/bold red] in {halt.stage} since {shown(halt.since)}"
        )
        console.print(f"  {escape(halt.cause)}.\n  {escape(halt.remedy)}", soft_wrap=True)
    for bucket in status.buckets:
        lines = [f"{escape(bucket.url)}: {bucket.objects:,} objects, {bucket.lag:,} not yet in the books"]
        if bucket.overdue:
            since = bucket.listed_at or "it was named"
            lines.append(
                f"  [bold red]not listed[/bold red] since {since}: it does not answer, or `route` does not run."
            )
        for one in bucket.latest:
            lines.append(f"  [bold red]{one.outcome}[/bold red] {escape(one.object)}: {escape(one.note)}.")
        if bucket.problems:
            lines.append(f"  {bucket.problems:,} to see to: `rollup-engine bucket list --problems`, `bucket accept`.")
        console.print("\n".join(lines), soft_wrap=True)
    if not status.kafka:
        console.print("[dim]Kafka does not run: lag counts only what was routed and is not yet in the books.[/dim]")


def accept_loss(settings: Settings, source: str, sure: Callable[[Halt], bool]) -> None:
    async def run() -> Halt | None:
        async with addresses.pool_of(settings) as pool:
            return await alarms.accept_loss(pool, settings.app_id, source, sure)

    halt = asyncio.run(run())
    print(
        "Nothing was changed." if halt is None else f"{source} goes on without: {halt.loss}. Within 15 s, if it runs."
    )


def run_query(
    settings: Settings,
    text: str,
    customer: str | None,
    start: datetime | None,
    end: datetime | None,
    explain: bool,
    form: str,
) -> None:
    from billable_metrics.catalog import Catalog, catalog_from_config
    from billable_metrics.rewriter import Rewritten, rewrite
    from rollup_engine.runtime.active import active_config
    from rollup_engine.runtime.metric_runner import metric_runner

    def plan(catalog: Catalog) -> Rewritten:
        return rewrite(text, catalog, customer=customer, start=start, end=end)

    async def answer() -> Any:
        with addresses.database_of(settings) as url:
            catalog = catalog_from_config(*await active_config(settings, url))
            runner = metric_runner(settings, url)
            if explain:
                rewritten = await runner.explain(plan, catalog)
                for note in rewritten.notes:
                    print(f"-- {note}")
                print(rewritten.sql)
                for number, value in enumerate(rewritten.params, 1):
                    print(f"-- ${number} = {value.isoformat() if isinstance(value, datetime) else repr(value)}")
                return None
            return await runner.run(plan, catalog)

    result = asyncio.run(answer())
    if result is not None:
        print_rows(result.columns, result.rows, form)


def produce_file(settings: Settings, file: Path, topic: str, rate: float | None) -> None:
    from rollup_engine.runtime.produce import produce

    kafka = settings.kafka_bootstrap_servers or addresses.running(settings).kafka
    with ExitStack() as stack:
        try:
            lines: BinaryIO = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
        size = None if str(file) == "-" else file.stat().st_size
        progress = stack.enter_context(
            Progress(
                TextColumn(f"[bold]{escape(topic)}"),
                BarColumn(),
                DownloadColumn(),
                TextColumn("{task.fields[events]:,} events"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
        )
        task = progress.add_task("", total=size, events=0)
        sent = 0

        def on_sent(length: int) -> None:
            nonlocal sent
            sent += 1
            progress.update(task, advance=length + 1, events=sent)

        count = asyncio.run(produce(settings, kafka, topic, _events(lines), rate=rate, on_sent=on_sent))
        progress.update(task, completed=size or 0, events=count)
    print(f"{count:,} events acknowledged on topic {topic}.")


def _events(lines: BinaryIO) -> Iterator[tuple[int | None, bytes]]:
    for line in lines:
        stripped = line.rstrip(b"\r\n")
        if stripped.strip():
            yield None, stripped
