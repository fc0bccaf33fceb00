"""The objects of an app id's buckets, for `rollup-engine bucket`."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from rollup_engine.errors import RollupError, UsageError
from rollup_engine.runtime import sql

if TYPE_CHECKING:
    from datetime import datetime

    Pool = asyncpg.Pool[asyncpg.Record]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Listed:
    """`size` in bytes. `state`: waiting, reading, or its outcome. `rows`: handed out of it, None before its end.
    `refused`: its dead letters so far. `accepted_at`: when somebody had seen to the problem."""

    bucket: str
    object: str
    size: int
    state: str
    rows: int | None
    refused: int
    seen_at: datetime
    accepted_at: datetime | None
    note: str


async def listed(pool: Pool, app_id: str, *, problems: bool, limit: int) -> list[Listed]:
    """The newest `limit` first; with `problems` only those not seen to."""
    rows = await _asked(pool.fetch(sql.queries("buckets")["list"], app_id, problems, limit))
    return [Listed(**dict(row)) for row in rows]


async def accept(pool: Pool, app_id: str, name: str) -> str:
    """Note that somebody has seen to the problem of an object; its URL. Raises `UsageError` where there is none."""
    query = sql.queries("buckets")
    found = await _asked(pool.fetch(query["called"], app_id, name))
    if not found:
        raise UsageError(f"There is no object {name!r}. `rollup-engine bucket list` shows those there are.")
    wrong = [row for row in found if row["problem"]]
    if not wrong:
        raise UsageError(f"Object {name!r} is no problem. `rollup-engine bucket list --problems` shows those that are.")
    if len(wrong) > 1:
        urls = ", ".join(row["url"] for row in wrong)
        raise UsageError(f"There is an object {name!r} in {urls}. Write it with its bucket's URL before it.")
    await pool.execute(query["accept"], wrong[0]["id"], wrong[0]["number"])
    return name if name.startswith(wrong[0]["url"]) else str(wrong[0]["url"]) + name


async def _asked(asking: Awaitable[Result]) -> Result:
    try:
        return await asking
    except asyncpg.UndefinedTableError as error:
        raise RollupError("This database has no buckets in it yet. Run `rollup-engine up` or `migrate`.") from error
