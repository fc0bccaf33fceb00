"""`bucket`: the objects of buckets, what came of each, and having seen to those that are a problem."""

import asyncio
from dataclasses import fields
from typing import Annotated

import typer

from rollup_engine.commands import words

app = typer.Typer(help="The objects of buckets, and what came of each.", no_args_is_help=True)


@app.command("list")
def list_objects(
    problems: Annotated[
        bool, typer.Option("--problems", help="Only what is damaged, changed or gone, and not accepted.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="The newest so many.")] = 20,
    output: words.Format = "table",
) -> None:
    """The newest objects: waiting, reading, read, damaged, changed or gone."""
    from rollup_engine.runtime import addresses, bucket_objects, screens

    words.one_of(output, "table", "json", "csv")
    settings = words.settings()

    async def run() -> list[bucket_objects.Listed]:
        async with addresses.pool_of(settings) as pool:
            return await bucket_objects.listed(pool, settings.app_id, problems=problems, limit=limit)

    found = asyncio.run(run())
    if not found and output == "table":
        print("No problems." if problems else "No objects.")
        return
    columns = [column.name for column in fields(bucket_objects.Listed)]
    narrow = output == "table" and screens.console.width < 160
    if narrow:
        columns = ["object", "size", "state", "rows", "refused"]
    screens.print_rows(columns, [[getattr(one, column) for column in columns] for one in found], output)
    for one in found if narrow else ():
        if one.note:
            seen_to = "" if one.accepted_at is None else " Seen to."
            print(f"{one.bucket}{one.object}: {one.note}.{seen_to}")


@app.command()
def accept(
    name: Annotated[str, typer.Argument(metavar="NAME", help="From `bucket list`: an object's name, or its URL.")],
) -> None:
    """The problem is seen to: it no longer shows in `status`. Nothing is read again."""
    from rollup_engine.runtime import addresses, bucket_objects

    settings = words.settings()

    async def run() -> str:
        async with addresses.pool_of(settings) as pool:
            return await bucket_objects.accept(pool, settings.app_id, name)

    print(f"{asyncio.run(run())} is seen to.")
