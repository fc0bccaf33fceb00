"""What `dead-letters` prints: letters for people and as JSON, and what a replay did. Decides nothing."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from rollup_engine.config.settings import Settings
from rollup_engine.errors import RollupError, UsageError
from rollup_engine.runtime import addresses, sql
from rollup_engine.runtime.screens import console, plain, shown, table


def letters_table(rows: Sequence[dict[str, Any]], width: int) -> Table:
    """One row per letter; on a narrow terminal without what `show` tells as well."""
    columns = ["id", "event", "reason", "detail", "record", "recorded_at", "replayed_at"]
    if width < 120:
        columns = ["id", "reason", "detail", "record"]
        if any(row["replayed_at"] for row in rows):
            columns.append("replayed")
    cells = [
        {**row, "id": str(row["id"]), "record": _place(row, " @"), "replayed": "yes" if row["replayed_at"] else None}
        for row in rows
    ]
    return table(None, columns, [[row[column] for column in columns] for row in cells], numbers=["id"])


def _place(row: dict[str, Any], at: str) -> str:
    """Where the record is: in an object of a bucket, or in a topic of Kafka's."""
    if row["object"] is not None:
        return f"{row['object']} line {row['line']}"
    return f"{row['source']}{at}{row['source_offset']}"


def list_letters(settings: Settings, event: str | None, reason: str | None, limit: int, form: str) -> None:
    async def run() -> list[dict[str, Any]]:
        async with addresses.pool_of(settings) as pool:
            rows = await pool.fetch(sql.queries("status")["letters"], settings.app_id, event, reason, limit)
            return [dict(row) for row in rows]

    rows = asyncio.run(run())
    if form == "json":
        print(json.dumps([{name: plain(value) for name, value in row.items()} for row in rows], indent=2))
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
    original = row["original"]
    first = ["id", "event", "source", "source_offset", *(("object", "line") if row["object"] is not None else ())]
    others = [name for name in row if name not in (*first, "app_id", "object", "line", "original")]
    grid = Table.grid(padding=(0, 2))
    for name in (*first, *others):
        plain_number = name in ("id", "source_offset", "line")
        grid.add_row(f"[bold]{name}[/bold]", str(row[name]) if plain_number else shown(row[name]))
    console.print(grid)
    if original is None:
        where = "the bucket, at" if row["object"] is not None else "the raw topic at"
        console.print(f"The original is in {where} {_place(row, ', offset ')}.", markup=False, soft_wrap=True)
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
