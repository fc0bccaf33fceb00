"""Running a rewritten metric, so that it can neither change anything nor run on and on.

Owns: how many metrics run at once, the limits of each, and the form of its result. Must never run a statement that
did not come from the rewriter, and never use a connection twice: whatever a statement set ends with it.

"Without catalogue rights" is the rewriter's doing alone: what PostgreSQL lets everybody read in pg_catalog cannot be
taken from one role without taking it from all, so the wall there is that a metric names no table but its rollups'.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

import asyncpg

from billable_metrics.catalog import Catalog
from billable_metrics.coverage import with_coverage
from billable_metrics.limits import MIB, Limits
from billable_metrics.rewriter import Rewritten
from billable_metrics.role import METRIC_ROLE
from billable_metrics.session import LOST, Session, unavailable
from rollup_engine.errors import MetricError, MetricsBusy

CHUNK_ROWS: Final = 5_000
"""Rows fetched and turned into their form at a time: other tasks get their turn between."""

Plan: TypeAlias = Callable[[Catalog], Rewritten]
"""Makes the statement, given the catalog with the tiers as they are in the snapshot that the statement will read."""


@dataclass(frozen=True, slots=True)
class Result:
    """A metric's answer. Whole numbers are `int`, others `Decimal` without trailing zeros, times aware, in UTC.

    `notes`: what the rewriter chose to read, one line a scan.
    """

    columns: list[str]
    rows: list[tuple[object, ...]]
    notes: list[str] = field(default_factory=list, compare=False)


class MetricRunner:
    """Runs metrics, a bounded number at once, each on a connection of its own that is thrown away."""

    def __init__(
        self, database_url: str, limits: Limits | None = None, *, metric_role: str | None = METRIC_ROLE
    ) -> None:
        """`metric_role`: what the login turns into; None for a login that can only read rollups by itself."""
        self.limits = limits or Limits()
        self._database_url, self._role = database_url, metric_role
        self._free = asyncio.Semaphore(self.limits.connections_max)
        self._of_callers: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._ending: set[asyncio.Task[None]] = set()

    async def run(
        self,
        plan: Plan,
        catalog: Catalog,
        *,
        timeout_s: float | None = None,
        row_limit: int | None = None,
        caller: str | None = None,
    ) -> Result:
        """The rows of a metric, read in one READ ONLY transaction whose snapshot its tiers were judged by.

        `caller`: who asks, so that one cannot take all connections. Raises MetricError where Postgres refuses the
        statement, it takes longer than `timeout_s`, gives more than `row_limit` rows or too much data, and what `plan`
        raises; MetricsBusy where no connection became free in time; DatabaseUnavailable where Postgres cannot be
        reached or has no role for metrics.
        """
        timeout_s = self.limits.timeout_s if timeout_s is None else timeout_s
        row_limit = self.limits.rows_max if row_limit is None else row_limit
        try:
            return await self._run(plan, catalog, timeout_s, row_limit, caller)
        except MetricError as error:
            if not isinstance(error.__cause__, asyncpg.DeadlockDetectedError):
                raise
        # A column was being added to the tables that it reads, in another order. Nothing was changed, so ask again.
        return await self._run(plan, catalog, timeout_s, row_limit, caller)

    async def _run(self, plan: Plan, catalog: Catalog, timeout_s: float, row_limit: int, caller: str | None) -> Result:
        async with self._session(timeout_s, caller) as connection:
            rewritten = await _planned(plan, await with_coverage(connection, catalog))
            return await _fetch(connection, rewritten, row_limit)

    async def explain(self, plan: Plan, catalog: Catalog, *, caller: str | None = None) -> Rewritten:
        """The statement that `run` would run now. Raises what `plan` raises, MetricsBusy and DatabaseUnavailable."""
        async with self._session(self.limits.timeout_s, caller) as connection:
            return await _planned(plan, await with_coverage(connection, catalog))

    async def close(self) -> None:
        """Waits until every connection has ended."""
        while self._ending:
            await asyncio.wait(self._ending)

    @asynccontextmanager
    async def _session(self, timeout_s: float, caller: str | None) -> AsyncIterator[asyncpg.Connection]:
        taken = await self._take(caller)
        session = Session(self._database_url, self.limits, timeout_s, self._role)
        try:
            await session.open()
            async with asyncio.timeout(timeout_s + self.limits.grace_s):
                yield await session.begin()
        except (TimeoutError, asyncpg.QueryCanceledError) as error:
            raise MetricError(f"the metric took longer than {timeout_s:g} s; ask for a shorter period") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self._said(error, session) from error
        finally:
            answered = asyncio.Event()
            ending = asyncio.create_task(self._end(session, taken, answered))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            await answered.wait()

    async def _take(self, caller: str | None) -> list[asyncio.Semaphore]:
        """A place for one connection, waiting for it: what to release in the end. Raises MetricsBusy."""
        limits, taken = self.limits, list[asyncio.Semaphore]()
        of_caller = None
        if caller is not None:
            of_caller = self._of_callers.setdefault(caller, asyncio.Semaphore(limits.connections_per_caller_max))
        try:
            async with asyncio.timeout(limits.wait_s):
                for places in filter(None, (of_caller, self._free)):
                    await places.acquire()
                    taken.append(places)
        except TimeoutError as error:
            _release(taken)
            whose = "metrics" if of_caller is None or taken else f"metrics of {caller!r}"
            count = limits.connections_max if of_caller is None or taken else limits.connections_per_caller_max
            raise MetricsBusy(
                f"{count} {whose} run already, and none ended within {limits.wait_s:g} s; try again later, or raise"
                " ROLLUP_METRICS_CONNECTIONS"
            ) from error
        except BaseException:
            _release(taken)
            raise
        return taken

    async def _end(self, session: Session, taken: list[asyncio.Semaphore], answered: asyncio.Event) -> None:
        """Ends the connection. Whoever asked is answered before, but the place is free only once Postgres is done."""
        try:
            gone = await session.end()
            answered.set()
            if not gone:
                await session.ended()
        finally:
            answered.set()
            _release(taken)

    def _said(self, error: Exception, session: Session) -> Exception:
        if session.overflowed:
            size = self.limits.result_bytes_max
            shown = f"{size // MIB} MiB" if size >= MIB else f"{size} bytes"
            return MetricError(f"the metric gives more than {shown}; group by less, or add a LIMIT")
        lost = isinstance(error, LOST) or not session.is_open
        if lost:
            return unavailable(self._database_url, error)
        if isinstance(error, asyncpg.PostgresError):
            return MetricError(_reason(error))
        return MetricError(f"Postgres did not take the metric's parameters: {error}")


def _release(taken: list[asyncio.Semaphore]) -> None:
    for places in taken:
        places.release()


async def _planned(plan: Plan, catalog: Catalog) -> Rewritten:
    """In a thread: rewriting the largest of metrics takes a third of a second, and nobody else waits for that."""
    return await asyncio.to_thread(plan, catalog)


async def _fetch(connection: asyncpg.Connection, rewritten: Rewritten, row_limit: int) -> Result:
    statement = await connection.prepare(rewritten.sql)
    cursor = await statement.cursor(*rewritten.params)
    rows: list[tuple[object, ...]] = []
    try:
        while records := await cursor.fetch(min(CHUNK_ROWS, row_limit + 1 - len(rows))):
            rows += [tuple(map(exact, record.values())) for record in records]
            if len(rows) > row_limit:
                raise MetricError(f"the metric gives more than {row_limit} rows; group by less, or add a LIMIT")
    except (OverflowError, ValueError) as error:  # asyncpg's: years before 1 and after 9999
        raise MetricError(f"the metric gives a value that is out of range: {error}") from error
    columns = [attribute.name for attribute in statement.get_attributes()]
    return Result(columns, rows, notes=rewritten.notes)


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
