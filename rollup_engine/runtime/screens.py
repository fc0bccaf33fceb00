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
from rollup_engine.errors import RollupError, UsageError
from rollup_engine.progress import KINDS
from rollup_engine.runtime import addresses, alarms, sql
from rollup_engine.runtime.alarms import Halt
from rollup_engine.runtime.status import Status, collect

console = Console()


def table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[str] = ()
) -> Table:
    """A table whose `numbers` columns stand to the right."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_shown(value) for value in row))
    return made


def _shown(value: object) -> str:
    if value is None:
        return "[dim]-[/dim]"
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds" if value.microsecond else "seconds").replace("+00:00", "Z")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Decimal):
        return f"{value:,f}"
    return escape(str(value))


def _plain(value: object) -> object:
    """For JSON: numbers stay exact."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else f"{value:f}"
    if isinstance(value, datetime):
        return _shown(value)
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return str(value)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[object]], form: str) -> None:
    """A query's result as table, JSON (a list of objects) or CSV."""
    if form == "json":
        print(json.dumps([dict(zip(columns, map(_plain, row), strict=True)) for row in rows], indent=2))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if value is None else _plain(value) for value in row] for row in rows])
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
            f"[bold red]{escape(halt.source)} stands still[/bold red] in {halt.stage} since {_shown(halt.since)}"
        )
        console.print(f"  {escape(halt.cause)}.\n  {escape(halt.remedy)}", soft_wrap=True)
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


def letters_table(rows: Sequence[dict[str, Any]], width: int) -> Table:
    """One row per letter; on a narrow terminal without what `show` tells as well."""
    columns = ["id", "event", "reason", "detail", "record", "recorded_at", "replayed_at"]
    if width < 120:
        columns = ["id", "reason", "detail", "record"]
        if any(row["replayed_at"] for row in rows):
            columns.append("replayed")
    shown = [
        {
            **row,
            "id": str(row["id"]),
            "record": f"{row['source']} @{row['source_offset']}",
            "replayed": "yes" if row["replayed_at"] else None,
        }
        for row in rows
    ]
    return table(None, columns, [[row[column] for column in columns] for row in shown], numbers=["id"])


def list_letters(settings: Settings, event: str | None, reason: str | None, limit: int, form: str) -> None:
    async def run() -> list[dict[str, Any]]:
        async with addresses.pool_of(settings) as pool:
            rows = await pool.fetch(sql.queries("status")["letters"], settings.app_id, event, reason, limit)
            return [dict(row) for row in rows]

    rows = asyncio.run(run())
    if form == "json":
        print(json.dumps([{name: _plain(value) for name, value in row.items()} for row in rows], indent=2))
    elif not rows:
        console.print("No dead letters.")
    else:
        console.print(letters_table(rows, console.width))
        console.print("[dim]`rollup-engine dead-letters show ID` shows one in full.[/dim]")


def show_letter(settings: Settings, number: int) -> None:
    async def run() -> dict[str, Any] | None:
        async with addresses.pool_of(settings) as pool:
            row = await pool.fetchrow(sql.queries("status")["letter"], settings.app_id, number)
            return None if row is None else dict(row)

    row = asyncio.run(run())
    if row is None:
        raise RollupError(f"There is no dead letter {number}. `rollup-engine dead-letters list` shows those there are.")
    original = row.pop("original")
    grid = Table.grid(padding=(0, 2))
    for name, value in row.items():
        grid.add_row(f"[bold]{name}[/bold]", _shown(value) if name not in ("id", "source_offset") else str(value))
    console.print(grid)
    if original is None:
        console.print(f"The original is in the raw topic at {row['source']}, offset {row['source_offset']}.")
        return
    console.print(
        "[bold]original[/bold]" + (" (its first part)" if len(original) < (row["original_bytes"] or 0) else "")
    )
    print(original.decode("utf-8", errors="backslashreplace"))


def replay_letters(settings: Settings, repaired: Path | None, **wanted: Any) -> bool:
    """Prints what was sent again, and what was left out and why. False where something named, or all, was left out."""
    from rollup_engine.clock import SystemClock
    from rollup_engine.runtime.replay import Outcome, Wanted, replay

    async def run(value: bytes | None) -> Outcome:
        async with addresses.kafka_if_running(settings) as kafka:
            if kafka is None:
                raise RollupError("Kafka does not run, and replay sends by it. Start `rollup-engine up` first.")
            async with addresses.pool_of(settings) as pool:
                return await replay(pool, kafka, settings.app_id, SystemClock(), Wanted(repaired=value, **wanted))

    outcome = asyncio.run(run(None if repaired is None else _read(repaired)))
    print(f"{outcome.sent:,} dead letters sent again." if outcome.sent != 1 else "1 dead letter sent again.")
    for cause, count in sorted(outcome.left_out.items()):
        sentences = outcome.sentences[cause]
        if not wanted["ids"]:
            print(f"{count:,} left out, {cause}. For example: {sentences[0]}")
            continue
        print("\n".join(sentences), file=sys.stderr)
        if count > len(sentences):
            print(f"And {count - len(sentences):,} more, {cause}.", file=sys.stderr)
    return not outcome.left_out or (not wanted["ids"] and outcome.sent > 0)


def _read(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error


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
