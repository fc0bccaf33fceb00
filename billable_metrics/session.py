"""One throw-away connection to Postgres: how it is opened, with which rights, and how it is made to end.

Owns: the connection's life. Must never give a connection back for a second use, nor say that one has ended while
Postgres still works for it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Final, cast
from urllib.parse import urlsplit

import asyncpg

from billable_metrics import role
from billable_metrics.limits import APPLICATION_NAME, Limits, session_settings, welcome_settings
from rollup_engine.errors import DatabaseUnavailable

CONNECT_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
ENDING_POLL_S: Final = 0.25
ENDING_POLL_MAX_S: Final = 5.0
ENDING_PATIENCE_S: Final = 600.0
"""How long a connection counts as used that neither we nor Postgres can end. The longest that one was seen to need is
far below: a single operation of Postgres that looks for no interrupts."""

LOST: Final = (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
"""The connection is gone: broken, or ended by the server's administrator."""
_NO_SUCH_ROLE, _MAY_NOT = "22023", "42501"
_FAULTS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_END: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start <= $2
"""
"""A process that started later than our session's first statement has only taken over its number."""


class Session:
    """A connection in one READ ONLY, REPEATABLE READ transaction, as a role that can only read rollups."""

    def __init__(self, database_url: str, limits: Limits, timeout_s: float, metric_role: str | None) -> None:
        """`metric_role`: the role to take on; None for a login that has no more rights than that by itself."""
        self._url, self._limits, self._timeout_s, self._role = database_url, limits, timeout_s, metric_role
        self._pid = 0
        self._seen_at: datetime | None = None
        self._meter: Meter | None = None
        self.connection: asyncpg.Connection | None = None

    @property
    def overflowed(self) -> bool:
        """Whether Postgres sent more than the limit, and was hung up on."""
        return self._meter is not None and self._meter.bytes_left < 0

    async def open(self) -> None:
        """Connects. Raises DatabaseUnavailable where Postgres does not answer, or has no such role for the login."""
        settings = session_settings(self._limits, self._timeout_s)
        welcome = welcome_settings(self._limits)
        if self._role is not None:
            settings["role"] = self._role
        while True:
            try:
                self.connection = await asyncpg.connect(
                    self._url,
                    timeout=CONNECT_TIMEOUT_S,
                    server_settings={**settings, **welcome},
                    statement_cache_size=0,
                )
                break
            except (ValueError, *_FAULTS) as error:
                refused = [name for name in welcome if name in str(error)]
                if refused and isinstance(error, asyncpg.PostgresError):
                    del welcome[refused[0]]
                    continue
                raise self._not_opened(error) from error
        self._pid = self.connection.get_server_pid()
        self._meter = Meter.put_before(self.connection, self._limits.result_bytes_max)

    def _not_opened(self, error: Exception) -> DatabaseUnavailable:
        state = getattr(error, "sqlstate", None)
        if self._role is not None and self._role in str(error) and state in (_NO_SUCH_ROLE, _MAY_NOT):
            login = urlsplit(self._url).username or "the engine's"
            return DatabaseUnavailable(role.cannot_take_on(login, is_there=state == _MAY_NOT))
        return unavailable(self._url, error)

    @property
    def is_open(self) -> bool:
        """Whether the connection is there, as far as is known."""
        return self.connection is not None and not self.connection.is_closed()

    async def begin(self) -> asyncpg.Connection:
        """Starts the transaction; its snapshot is taken here. Raises asyncpg's errors."""
        assert self.connection is not None
        await self.connection.transaction(isolation="repeatable_read", readonly=True).start()
        self._seen_at = await self.connection.fetchval("SELECT now()")
        return self.connection

    async def end(self) -> bool:
        """Ends the connection; True once Postgres's process for it is known to have ended."""
        if self.connection is None:
            return True
        broken = self.connection.is_closed()
        try:
            await self.connection.close(timeout=CLOSE_TIMEOUT_S)
        except (TimeoutError, *_FAULTS):
            self.connection.terminate()
            broken = True
        # After a goodbye the server hangs up as its process ends.
        return not broken or await self._terminate()

    async def _terminate(self) -> bool:
        """Has Postgres end the process, asked from another connection; True if it has ended."""
        if self._seen_at is None:
            return True  # nothing was begun: it sees at once that we have gone
        try:
            connection = await asyncpg.connect(
                self._url, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": f"{APPLICATION_NAME} ending"}
            )
        except (ValueError, *_FAULTS):
            return False
        try:
            return not await connection.fetch(_END, self._pid, self._seen_at, timeout=CONNECT_TIMEOUT_S)
        except (TimeoutError, *_FAULTS):
            return False
        finally:
            connection.terminate()

    async def ended(self) -> None:
        """Returns once the process has ended, asking for it again and again; or when patience is over."""
        pause_s = ENDING_POLL_S
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_PATIENCE_S):
                while not await self._terminate():
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, ENDING_POLL_MAX_S)


class Meter(asyncio.Protocol):
    """Stands before asyncpg's protocol and counts what Postgres sends; hangs up when it is too much.

    asyncpg has no limit of its own: a single value of 1 GB would be held in memory before a row could be counted.
    """

    def __init__(self, inner: asyncio.Protocol, transport: asyncio.Transport, bytes_max: int) -> None:
        self._inner, self._transport = inner, transport
        self.bytes_left = bytes_max

    @classmethod
    def put_before(cls, connection: asyncpg.Connection, bytes_max: int) -> Meter:
        """Counts from now on what comes in on the connection."""
        transport = cast(asyncio.Transport, connection._transport)  # type: ignore[attr-defined]  # no public way
        meter = cls(cast(asyncio.Protocol, transport.get_protocol()), transport, bytes_max)
        transport.set_protocol(meter)
        return meter

    def data_received(self, data: bytes) -> None:
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            self._transport.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def unavailable(database_url: str, error: Exception) -> DatabaseUnavailable:
    """The error where Postgres cannot be reached, or the connection broke."""
    where = database_url.rsplit("@", 1)[-1]  # never the password
    return DatabaseUnavailable(
        f"Postgres at {where} does not answer: {error}. Check that it runs, and ROLLUP_DATABASE_URL."
    )
