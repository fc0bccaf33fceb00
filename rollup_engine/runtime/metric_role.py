"""The role that metrics run as: made where the login may, and given the right to read rollups and nothing else.

Owns: that role's rights. Must never give it a right to write, nor fail where the login may not make roles: metrics
then refuse by themselves, and `migrate` says what an administrator has to run.
"""

import asyncio
from typing import Final

import asyncpg

from billable_metrics.role import METRIC_ROLE, cannot_take_on
from rollup_engine.runtime import sql
from rollup_engine.runtime.database import Connection

_TRIES: Final = 40
_PAUSE_SECONDS: Final = 0.05
# Roles belong to the whole server: another database's migration may make the same one at the same moment.
_RACES: Final = (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError, asyncpg.InternalServerError)


async def grant_reading(connection: Connection) -> str | None:
    """Makes the role, lets the login take it on, and lets it read the rollups there are, within the caller's
    transaction. Returns None, or what an administrator has to do first."""
    queries = sql.queries("metric_role")
    login: str = await connection.fetchval("SELECT session_user")
    # Before version 16 of PostgreSQL every member may take a role on.
    may_take_on = "SET" if connection.get_server_version().major >= 16 else "MEMBER"
    try:
        await _until(connection, queries["role"], f"CREATE ROLE {METRIC_ROLE} NOLOGIN NOINHERIT", METRIC_ROLE)
        await _until(
            connection, queries["taken_on"], f"GRANT {METRIC_ROLE} TO {_quoted(login)}", METRIC_ROLE, login, may_take_on
        )
        for row in await connection.fetch(queries["unreadable"], METRIC_ROLE):
            kind, name = row
            right = "USAGE" if kind == "SCHEMA" else "SELECT"
            statement = f"GRANT {right} ON {kind} {name} TO {METRIC_ROLE}"
            await _until(connection, f"SELECT {_HAS[kind]}($1, $2, $3)", statement, METRIC_ROLE, name, right)
    except asyncpg.InsufficientPrivilegeError:
        return cannot_take_on(login, is_there=await connection.fetchval(queries["role"], METRIC_ROLE))
    return None


_HAS: Final = {"SCHEMA": "has_schema_privilege", "TABLE": "has_table_privilege"}


async def _until(connection: Connection, done: str, statement: str, *arguments: str) -> None:
    """Runs the statement, unless or until `done` says that it has been: by us, or by somebody else at the same time."""
    for left in reversed(range(_TRIES)):
        if await connection.fetchval(done, *arguments):
            return
        try:
            async with connection.transaction():
                await connection.execute(statement)
        except _RACES:
            if not left:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
