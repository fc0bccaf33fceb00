"""The database schema: migrations, and the table and view of every rollup. Safe to run twice and from two places."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg

from rollup_engine.config.model import Config, EventType, Rollup
from rollup_engine.errors import ConfigError, DatabaseUnavailable
from rollup_engine.route.state import NO_WATERMARK_MS
from rollup_engine.runtime import sql, tiers
from rollup_engine.runtime.database import Connection, at_time, lock_schema, persist, prepare
from rollup_engine.runtime.metric_role import grant_reading
from rollup_engine.tables import Column, Schema

_CLOSE_SECONDS = 5.0


async def _as_it_is(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Of a connection given back only an open transaction is ended: who changes more of its session, changes it back.
    asyncpg's own statement for that took a round trip after every advance."""


async def connect(database_url: str, connections_max: int = 10) -> "asyncpg.Pool[asyncpg.Record]":
    """A pool. Raises `DatabaseUnavailable` where no database answers at once."""
    try:
        return await asyncpg.create_pool(
            database_url,
            min_size=0,  # with a floor, asyncpg logs a traceback for every try to restore it
            init_size=1,
            max_size=connections_max,
            command_timeout=60,
            init=prepare,
            reset=_as_it_is,
            server_settings={
                "application_name": "rollup-engine",
                "timezone": "UTC",
                # A worker that vanished without a word must not hold its row's lock for hours.
                "idle_in_transaction_session_timeout": "20s",
                "tcp_keepalives_idle": "30",
                "rollup_engine.notes": "on",  # what changes partials here notes their hours
            },
        )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        where = database_url.rsplit("@", 1)[-1]  # never the password
        raise DatabaseUnavailable(
            f"Postgres at {where} does not answer: {error}. Check that it runs, and ROLLUP_DATABASE_URL."
        ) from error


@asynccontextmanager
async def connected(database_url: str, connections_max: int = 10) -> "AsyncIterator[asyncpg.Pool[asyncpg.Record]]":
    """A pool for the block. At its end a database that is gone is not waited for."""
    pool = await connect(database_url, connections_max)
    try:
        yield pool
    finally:
        try:
            await asyncio.wait_for(pool.close(), _CLOSE_SECONDS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()


async def migrate(pool: "asyncpg.Pool[asyncpg.Record]") -> list[str]:
    """Apply what has not been applied yet; returns the names of what was."""

    async def attempt() -> list[str]:
        applied = []
        async with pool.acquire() as connection, connection.transaction():
            await lock_schema(connection)
            await connection.execute("CREATE SCHEMA IF NOT EXISTS rollup_engine")
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS rollup_engine.migrations"
                " (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            done = {row["name"] for row in await connection.fetch("SELECT name FROM rollup_engine.migrations")}
            for name, text in sql.migrations():
                if name not in done:
                    await connection.execute(text)
                    await connection.execute("INSERT INTO rollup_engine.migrations (name) VALUES ($1)", name)
                    applied.append(name)
        return applied

    return await persist("migrate", attempt)


async def declare(connection: Connection, app_id: str, config: Config, before: Config | None = None) -> None:
    """Make or extend the table, view and tiers of every rollup; `before`: the YAML until now.

    Raises `ConfigError` for what cannot be changed in place.
    """
    went_on = {rollup.table for rollup in before.rollups} if before is not None else set()
    for event in config.events:
        for rollup in event.rollups:
            owner = await connection.fetchrow(
                "SELECT app_id, window_ms FROM rollup_engine.rollups WHERE table_name = $1", rollup.table
            )
            if owner is None:
                await connection.execute(
                    "INSERT INTO rollup_engine.rollups (table_name, app_id, name, event, window_ms, complete_from)"
                    " VALUES ($1, $2, $3, $4, $5, $6)",
                    rollup.table,
                    app_id,
                    rollup.name,
                    event.event,
                    rollup.window_ms,
                    await _complete_from(connection, app_id, event, rollup.window_ms),
                )
                await connection.execute(sql.template("table", table=rollup.table))
            else:
                _check_owner(rollup, app_id, owner)
                if before is not None and rollup.table not in went_on:
                    since = await _complete_from(connection, app_id, event, rollup.window_ms)
                    await connection.execute(sql.queries("registry")["incomplete_before"], rollup.table, since)
            await _declare_columns(connection, rollup)
            await tiers.declare(connection, rollup.table, rollup.window_ms)
    await grant_reading(connection)


async def _complete_from(connection: Connection, app_id: str, event: EventType, window_ms: int) -> datetime | None:
    """The first window of which a rollup declared now sees everything: after all that its topics have shown so far, of
    whatever event type, for what none took is gone by. None where they have shown nothing."""
    seen_ms = await connection.fetchval(sql.queries("registry")["latest_seen"], app_id, list(event.topics))
    if seen_ms is None or seen_ms <= NO_WATERMARK_MS:
        return None
    return at_time((seen_ms // window_ms + 1) * window_ms)


def _check_owner(rollup: Rollup, app_id: str, owner: asyncpg.Record) -> None:
    if owner["app_id"] != app_id:
        raise ConfigError(
            f"Table rollups.{rollup.table_name} belongs to app id {owner['app_id']!r}, and this is {app_id!r}."
            " Give the rollup another name, or start under that ROLLUP_APP_ID."
        )
    if owner["window_ms"] != rollup.window_ms:
        raise ConfigError(
            f"Rollup {rollup.name!r} has windows of {owner['window_ms'] // 1000} s in the database, and"
            f" {rollup.window_ms // 1000} s in the YAML. A window cannot be changed: declare a rollup of a new name."
        )


async def _declare_columns(connection: Connection, rollup: Rollup) -> None:
    known = {
        row["column_name"]: row["kind"]
        for row in await connection.fetch(
            "SELECT column_name, kind FROM rollup_engine.rollup_columns WHERE table_name = $1", rollup.table
        )
    }
    declared = [(column.column, "group") for column in rollup.group_by]
    declared += [(aggregate.column, aggregate.kind) for aggregate in rollup.aggregates]
    new = False
    for name, kind in declared:
        if known.setdefault(name, kind) != kind:
            raise ConfigError(
                f"Column {name!r} of rollup {rollup.name!r} is a {known[name]} column in the database, and a {kind}"
                " column in the YAML. Give it another name with `as:`."
            )
        inserted = await connection.fetchval(
            "INSERT INTO rollup_engine.rollup_columns (table_name, column_name, kind, position)"
            " SELECT $1, $2, $3, count(*) FROM rollup_engine.rollup_columns WHERE table_name = $1"
            " ON CONFLICT DO NOTHING RETURNING position",
            rollup.table,
            name,
            kind,
        )
        if inserted is not None:
            new = True
            kind_of_column = "text" if kind == "group" else "numeric"
            await connection.execute(sql.template("column", table=rollup.table, column=name, type=kind_of_column))
    if new or not known:
        order = await connection.fetch(
            "SELECT column_name FROM rollup_engine.rollup_columns WHERE table_name = $1 ORDER BY position", rollup.table
        )
        columns = "".join(f', "{row[0]}"' for row in order)
        await connection.execute(sql.template("view", table=rollup.table, columns=columns))


async def schemas(connection: Connection, tables: list[str]) -> dict[str, Schema]:
    """Every column ever declared for each table, in order of declaration."""
    rows = await connection.fetch(
        "SELECT table_name, column_name, kind FROM rollup_engine.rollup_columns"
        " WHERE table_name = ANY($1) ORDER BY table_name, position",
        tables,
    )
    return {
        table: Schema(
            table,
            tuple(row["column_name"] for row in rows if row["table_name"] == table and row["kind"] == "group"),
            tuple(
                Column(row["kind"], row["column_name"])
                for row in rows
                if row["table_name"] == table and row["kind"] != "group"
            ),
        )
        for table in tables
    }
