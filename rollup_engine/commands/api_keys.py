"""`api-keys`: who may ask the API for what."""

import asyncio
from typing import Annotated

import typer

from rollup_engine.commands import words

app = typer.Typer(help="Keys for the API.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="To know it by; one good key has it at a time.")],
    scope: Annotated[
        list[str],
        typer.Option("--scope", metavar="S", help="read, query, ingest or admin (all of them). Several times."),
    ],
    customer: Annotated[
        str | None, typer.Option("--customer", metavar="C", help="Sees this customer, and nothing else.")
    ] = None,
) -> None:
    """Make a key. It is printed this once, as the last word, and kept nowhere."""
    from rollup_engine.runtime import addresses, api_keys

    settings = words.settings()

    async def run() -> str:
        async with addresses.pool_of(settings) as pool:
            return await api_keys.create(pool, settings.app_id, name, scope, customer)

    key = asyncio.run(run())
    bound = f" for customer {customer!r} only" if customer is not None else ""
    print(f"Key {name!r}, {' and '.join(sorted(set(scope)))}{bound}. Keep it now, it cannot be shown again: {key}")


@app.command("list")
def list_keys(output: words.Format = "table") -> None:
    """All keys: what they may do, and whether they still may. Never the keys themselves."""
    from rollup_engine.runtime import addresses, api_keys, screens

    words.one_of(output, "table", "json", "csv")
    settings = words.settings()

    async def run() -> list[api_keys.ApiKey]:
        async with addresses.pool_of(settings) as pool:
            return await api_keys.listed(pool, settings.app_id)

    columns = ["id", "name", "scopes", "customer", "created_at", "revoked_at"]
    rows = [
        [key.id, key.name, " ".join(sorted(key.scopes)), key.customer, key.created_at, key.revoked_at]
        for key in asyncio.run(run())
    ]
    screens.print_rows(columns, rows, output)


@app.command()
def revoke(name: Annotated[str, typer.Argument(metavar="NAME|ID", help="From `api-keys list`.")]) -> None:
    """End a key: the next request with it is refused."""
    from rollup_engine.runtime import addresses, api_keys

    settings = words.settings()

    async def run() -> str:
        async with addresses.pool_of(settings) as pool:
            return await api_keys.revoke(pool, settings.app_id, name)

    print(f"Key {asyncio.run(run())!r} is revoked.")
