"""Running a rewritten metric, so that it can neither change anything nor run on and on.

Owns: the connection of one metric, its limits and the form of its result. Must never run a statement that did not
come from the rewriter, and never keep a connection: whatever a statement set ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import asyncpg

from billable_metrics.rewriter import Rewritten
from rollup_engine.errors import DatabaseUnavailable, MetricError

APPLICATION_NAME: Final = "rollup-engine metric"
CLOSE_TIMEOUT_S: Final = 2.0
GRACE_S: Final = 1.0
"""How much longer than the server's own timeout the client waits, so that usually the server answers first."""

_LOST: Final = (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
"""The connection is gone: broken, or ended by the server's administrator."""


@dataclass(frozen=True, slots=True)
class Result:
    """A metric's answer. Whole numbers are `int`, others `Decimal` without trailing zeros, times aware, in UTC."""

    columns: list[str]
    rows: list[tuple[object, ...]]


async def run(database_url: str, rewritten: Rewritten, *, timeout_s: float = 30, row_limit: int = 100_000) -> Result:
    """The rows of a rewritten metric, read in one READ ONLY transaction on a connection of its own.

    Raises MetricError where Postgres refuses the statement, it takes longer than `timeout_s` or gives more than
    `row_limit` rows; DatabaseUnavailable where Postgres cannot be reached.
    """
    try:
        connection = await asyncpg.connect(
            database_url, timeout=timeout_s, server_settings=_settings(timeout_s), statement_cache_size=0
        )
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _unavailable(database_url, error) from error
    try:
        return await asyncio.wait_for(_fetch(connection, rewritten, row_limit), timeout_s + GRACE_S)
    except (TimeoutError, asyncpg.QueryCanceledError) as error:
        raise MetricError(f"the metric took longer than {timeout_s:g} s; ask for a shorter period") from error
    except (OSError, *_LOST) as error:
        raise _unavailable(database_url, error) from error
    except asyncpg.PostgresError as error:
        raise MetricError(_reason(error)) from error
    except asyncpg.InterfaceError as error:
        if connection.is_closed():
            raise _unavailable(database_url, error) from error
        raise MetricError(f"Postgres did not take the metric's parameters: {error}") from error
    finally:
        await _close(connection)


def _unavailable(database_url: str, error: Exception) -> DatabaseUnavailable:
    where = database_url.rsplit("@", 1)[-1]  # never the password
    return DatabaseUnavailable(
        f"Postgres at {where} does not answer: {error}. Check that it runs, and ROLLUP_DATABASE_URL."
    )


def _settings(timeout_s: float) -> dict[str, str]:
    timeout_ms = str(max(1, round(timeout_s * 1000)))
    return {
        "application_name": APPLICATION_NAME,
        "statement_timeout": timeout_ms,
        "lock_timeout": timeout_ms,
        "idle_in_transaction_session_timeout": timeout_ms,
        # Names mean the built-in functions and types only, and text means what the rewriter printed.
        "search_path": "pg_catalog",
        "standard_conforming_strings": "on",
        "timezone": "UTC",
        "datestyle": "ISO, YMD",
        "intervalstyle": "postgres",
    }


async def _fetch(connection: asyncpg.Connection, rewritten: Rewritten, row_limit: int) -> Result:
    async with connection.transaction(readonly=True):
        statement = await connection.prepare(rewritten.sql)
        cursor = await statement.cursor(*rewritten.params)
        records = await cursor.fetch(row_limit + 1)
        columns = [attribute.name for attribute in statement.get_attributes()]
    if len(records) > row_limit:
        raise MetricError(f"the metric gives more than {row_limit} rows; group by less, or add a LIMIT")
    return Result(columns=columns, rows=[tuple(map(exact, record.values())) for record in records])


async def _close(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=CLOSE_TIMEOUT_S)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()  # the answer, or its error, is already known; only the goodbye failed


def exact(value: object) -> object:
    """A value as results show it: `Decimal('12.000')` is 12 and `Decimal('2.50')` is 2.5, at any number of digits."""
    if not isinstance(value, Decimal) or not value.is_finite():
        return value
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    while exponent < 0 and digits and digits[-1] == 0:
        digits, exponent = digits[:-1], exponent + 1
    if exponent < 0 and digits:
        return Decimal((sign, digits, exponent))
    return int(Decimal((sign, digits or (0,), max(exponent, 0))))


_REASONS: Final[dict[str, Callable[[asyncpg.PostgresError], str]]] = {
    "42P01": lambda error: f"{error}; run `rollup-engine migrate`, or start the engine once, so that tables exist",
    "42703": lambda error: f"{error}; run `rollup-engine migrate`, or start the engine once, so that columns exist",
}


def _reason(error: asyncpg.PostgresError) -> str:
    reason = _REASONS.get(error.sqlstate or "", str)(error)
    hint = getattr(error, "hint", None)
    return f"Postgres refuses the metric: {reason}" + (f". {hint}" if hint else "")
