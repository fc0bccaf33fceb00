"""The database as all use it: which faults pass and are waited out, times as PostgreSQL has them, the schema's lock."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypeVar

import asyncpg
import structlog

from rollup_engine.clock import FIRST_MS, LAST_MS

log = structlog.get_logger(__name__)
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Result = TypeVar("Result")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_RETRY_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)
# Connection, rollback, a standby being promoted, resources, locks, operator, system.
_TRANSIENT_CLASSES = ("08", "40", "25006", "53", "55", "57", "58")
# asyncpg's "internal" one is what it says when a connection dies just as it is given back to the pool.
_DRIVER_FAULTS = (OSError, TimeoutError, asyncpg.InternalClientError)


def transient(error: BaseException) -> bool:
    """Whether waiting and trying again can help."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_TRANSIENT_CLASSES)
    return isinstance(error, (asyncpg.InterfaceError, *_DRIVER_FAULTS))


async def persist(what: str, attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Call `attempt` until it is not hindered by a fault that passes; says so in the log."""
    tries = 0
    while True:
        try:
            return await attempt()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, *_DRIVER_FAULTS) as error:
            if not transient(error):
                raise
            pause = _RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)]
            tries += 1
            log.warning("database fault, trying again", doing=what, error=str(error) or repr(error), seconds=pause)
            await asyncio.sleep(pause)


def at_time(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def some_time(ms: int) -> datetime:
    """As near as a date comes: a raw producer may write any record time."""
    return at_time(min(max(ms, FIRST_MS), LAST_MS))


async def prepare(connection: Connection) -> None:
    """For new connections: asyncpg takes the first instant of year 1, many a program's zero time, for -infinity."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda time: ((time - _POSTGRES_EPOCH) // timedelta(microseconds=1),),
        decoder=lambda wire: _POSTGRES_EPOCH + timedelta(microseconds=wire[0]),
        format="tuple",
    )


def at_ms(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)


async def lock_schema(connection: Connection) -> None:
    """One change of the schema at a time, in whichever process; until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(7305809421600043829)")
