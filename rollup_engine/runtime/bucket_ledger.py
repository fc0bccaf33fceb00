"""The ledger of buckets in PostgreSQL. Faults that pass are waited out; every statement may be repeated."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import asyncpg

from rollup_engine.buckets.ledger import Finished, Known, Lease, Object, Taken
from rollup_engine.errors import ConfigError
from rollup_engine.runtime import sql
from rollup_engine.runtime.database import Connection, persist

if TYPE_CHECKING:
    from rollup_engine.buckets.store import Found
    from rollup_engine.config.model import Config

    Pool = asyncpg.Pool[asyncpg.Record]


class PostgresLedger:
    """Implements `buckets.ledger.Ledger` for one app id."""

    def __init__(self, pool: Pool, app_id: str) -> None:
        self._pool, self._app_id = pool, app_id
        self._query = sql.queries("buckets")

    async def known(self) -> Mapping[str, Known]:
        rows = await self._fetch("known")
        return {row["topic"]: Known(row["objects"], _refusal(row), row["listed_ms"]) for row in rows}

    async def objects(self, topic: str, numbers: Collection[int]) -> Sequence[Object]:
        return [Object(**dict(row)) for row in await self._fetch("objects", topic, list(numbers))]

    async def begin(self, topic: str, number: int, etag: str) -> bool:
        return bool(await self._fetch("begin", topic, number, etag))

    async def finish(self, topic: str, finished: Sequence[Finished]) -> None:
        await self._fetch("finish", topic, *map(list, zip(*finished, strict=True)))

    async def hold(self, topic: str, holder: str, seconds: float) -> Lease:
        rows = await self._fetch("hold", topic, holder, seconds)
        return Lease(True, rows[0][0]) if rows else Lease(False)

    async def release(self, topic: str, holder: str) -> None:
        await self._fetch("release", topic, holder)

    async def now_ms(self) -> int:
        return int(await persist("ask the time", lambda: self._pool.fetchval(self._query["now_ms"])))

    async def last_name(self, topic: str) -> str:
        rows = await self._fetch("last_name", topic)
        return rows[0][0] or ""

    async def take_in(self, topic: str, page: Sequence[Found]) -> Taken:
        names, etags = [found.name for found in page], [found.etag for found in page]
        news = await self._fetch("news", topic, names, etags)
        if not news:
            return Taken(0, ())
        return await persist("take in objects", lambda: self._take_in(topic, [page[row[0] - 1] for row in news]))

    async def _take_in(self, topic: str, page: Sequence[Found]) -> Taken:
        names, etags, sizes = map(list, zip(*page, strict=True))
        async with self._pool.acquire() as connection, connection.transaction():
            bucket = await connection.fetchval(self._query["lock"], self._app_id, topic)
            added = await connection.fetch(self._query["add"], bucket, names, etags, sizes)
            await connection.execute(self._query["retake"], bucket, names, etags, sizes)
            others = await connection.fetch(self._query["others"], bucket, names, etags)
        return Taken(len(added), [(Object(*list(row)[:-1]), page[row["place"] - 1]) for row in others])

    async def changed(self, topic: str, number: int, etag: str, note: str) -> bool:
        return bool(await self._fetch("changed", topic, number, etag, note))

    async def waiting(self, topic: str) -> bool:
        return bool((await self._fetch("waiting", topic))[0][0])

    async def listed(self, topic: str, started_ms: int) -> int:
        rows = await self._fetch("listed", topic, started_ms)
        return int(rows[0][0])

    async def refused(self, topic: str, cause: str, remedy: str) -> None:
        await self._fetch("refused", topic, cause, remedy)

    async def _fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        return await persist(f"buckets: {query}", lambda: self._pool.fetch(self._query[query], self._app_id, *args))


async def declare(connection: Connection, app_id: str, config: Config, *, anew: bool) -> None:
    """Make the buckets of the YAML known. `anew`: whoever starts has to know what is in them now.

    Raises `ConfigError` for one that has been read in another format: lines are not what they were.
    """
    for topic, bucket in config.buckets.items():
        args = (app_id, topic, bucket.url, bucket.format, anew)
        format_ = await connection.fetchval(sql.queries("buckets")["declare"], *args)
        if format_ != bucket.format:
            raise ConfigError(
                f"{bucket.url} has been read as {format_}, and the YAML says {bucket.format}. The format of objects"
                " already read cannot be changed: put the others under another prefix, or start under a new"
                " ROLLUP_APP_ID."
            )


def _refusal(row: asyncpg.Record) -> tuple[str, str] | None:
    return None if row["refusal_cause"] is None else (row["refusal_cause"], row["refusal_remedy"])
