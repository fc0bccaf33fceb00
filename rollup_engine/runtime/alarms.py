"""Alarms: which partitions stand still and why, in the database for whoever asks; and losses an operator accepts.

A worker tells its own here, besides its log, its metrics and `/health`. What it could not write, because the database
is away, it writes later; nothing waits for it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import structlog

from rollup_engine.errors import PartitionHalted, UsageError
from rollup_engine.runtime import sql

log = structlog.get_logger(__name__)
_WRITE_SECONDS = 5.0


@dataclass(frozen=True)
class Halt:
    """A partition that stands still. `loss`: what `accept-loss` would give up; None where nothing can be."""

    stage: str
    source: str
    cause: str
    remedy: str
    loss: str | None
    since: datetime


class Alarms:
    """A worker's alarms on their way to the database."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", app_id: str) -> None:
        self._pool, self._app_id = pool, app_id
        self._query = sql.queries("halts")
        self._news: dict[tuple[str, str], PartitionHalted | None] = {}  # None: it goes on
        self._publishing = asyncio.Lock()

    def tell(self, stage: str, source: str, halt: PartitionHalted | None) -> None:
        """Note a halt, or that the partition goes on; `publish` writes it."""
        self._news[stage, source] = halt

    async def publish(self) -> None:
        """Write what is new, as far as the database lets us. Several stages may call it."""
        async with self._publishing:
            for (stage, source), halt in list(self._news.items()):
                if not await self._write(stage, source, halt):
                    return
                if self._news[stage, source] is halt:
                    del self._news[stage, source]

    async def _write(self, stage: str, source: str, halt: PartitionHalted | None) -> bool:
        where = self._app_id, stage, source
        if halt is None:
            writing = self._pool.execute(self._query["clear"], *where)
        else:
            writing = self._pool.execute(self._query["raise"], *where, halt.cause, halt.remedy, halt.loss)
        try:
            await asyncio.wait_for(writing, _WRITE_SECONDS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.debug("alarms are written later", error=str(error) or repr(error))
            return False
        return True


async def halts(pool: "asyncpg.Pool[asyncpg.Record]", app_id: str) -> list[Halt]:
    """The partitions that stand still, the longest first."""
    return [Halt(**dict(row)) for row in await pool.fetch(sql.queries("halts")["halts"], app_id)]


async def accept_loss(
    pool: "asyncpg.Pool[asyncpg.Record]", app_id: str, source: str, sure: Callable[[Halt], bool]
) -> Halt | None:
    """Let a halted partition go on without what it has lost, once `sure` says so; None where it does not.

    Raises `UsageError` where the partition does not stand still, or could not go on.
    """
    found = [halt for halt in await halts(pool, app_id) if halt.source == source]
    if not found:
        raise UsageError(f"Partition {source} does not stand still. `rollup-engine status` shows those that do.")
    possible = [halt for halt in found if halt.loss is not None]
    if not possible:
        raise UsageError(f"{source} cannot go on without a remedy: {found[0].cause}. {found[0].remedy}")
    halt = possible[0]
    if not sure(halt):
        return None
    accepted = await pool.fetchval(sql.queries("halts")["accept"], app_id, halt.stage, source, halt.loss)
    if accepted is None:
        raise UsageError(f"{source} stands still for another reason by now. Look at `rollup-engine status` again.")
    return halt
