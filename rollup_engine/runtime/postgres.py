"""The sink in PostgreSQL: claims, the fenced advance with what is written in it, and reading totals back.

A fault of the database is waited out (backpressure). Tried again after a commit without an answer, an advance waits for
it if it is under way, and finds its row moved if it took place: then it reads back that it was itself. A fault of the
data is raised.
"""

import io
import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import numpy as np
import polars as pl
from asyncpg.pgproto.pgproto import UUID

from rollup_engine import injection, keys
from rollup_engine.emit.months import month_of
from rollup_engine.errors import ClaimLost
from rollup_engine.ports import Span
from rollup_engine.progress import KINDS, Claim, Partials, Position, Writes
from rollup_engine.runtime import sql
from rollup_engine.runtime.database import Connection, at_ms, at_time, lock_schema, persist, some_time
from rollup_engine.runtime.tiers import HOUR_MS
from rollup_engine.tables import Schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

_READ_BACK_ROWS = 10_000
_COPY_SECONDS = 600.0  # many rows at once may take their time
_COPY_BYTES = 1 << 20


class PostgresSink:
    """Implements `ports.Sink` for one app id."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", app_id: str) -> None:
        self._pool, self._app_id = pool, app_id
        self._query = sql.queries("progress")
        self._months: set[tuple[str, str]] = set()

    async def claim(self, stage: str, partition: str, first_offset: int) -> Claim:
        args = (self._app_id, stage, partition, first_offset)
        row = await persist("claim", lambda: self._pool.fetchrow(self._query["claim"], *args))
        return Claim(stage, partition, _position(row))

    async def position(self, stage: str, partition: str) -> Position | None:
        return await persist("position", lambda: self._position("position", stage, partition))

    async def _position(self, query: str, stage: str, partition: str) -> Position | None:
        row = await self._pool.fetchrow(self._query[query], self._app_id, stage, partition)
        return None if row is None else _position(row)

    async def positions(self, stages: Sequence[str]) -> Mapping[tuple[str, str], Position]:
        query, args = self._query["positions"], (self._app_id, list(stages))
        rows = await persist("positions", lambda: self._pool.fetch(query, *args))
        return {(row["stage"], row["source"]): _position(row) for row in rows}

    async def accepted(self, stage: str, partition: str) -> Collection[str]:
        query, args = self._query["accepted"], (self._app_id, stage, partition)
        return {row["loss"] for row in await persist("accepted losses", lambda: self._pool.fetch(query, *args))}

    async def advance(self, claim: Claim, next_offset: int, state: Mapping[str, object], writes: Writes) -> Claim:
        for partials in writes.partials:
            await persist("make months", partial(self._make_months, partials))
        moved = claim.advanced(next_offset, state)
        unknown = False  # whether an earlier try may have been committed

        async def attempt() -> Claim:
            nonlocal unknown
            again, unknown = unknown, True
            try:
                async with self._pool.acquire() as connection:
                    if writes.dead_letters is None and not writes.partials:
                        await self._move(connection, claim, moved, writes)  # one statement is a transaction
                    else:
                        async with connection.transaction():
                            await self._move(connection, claim, moved, writes)
                            await self._write(connection, writes)
                            injection.passing("sink.commit")
            except ClaimLost:
                found = await self._position("position", claim.stage, claim.partition) if again else None
                if found is None or (found.epoch, found.version) != (claim.position.epoch, moved.position.version):
                    raise  # otherwise it was the try before: a commit without an answer
            return moved

        try:
            return await persist("advance", attempt)
        except asyncpg.CheckViolationError:  # a month was dropped since we last looked: the next session makes it again
            self._months.clear()
            raise

    async def _move(self, connection: Connection, claim: Claim, moved: Claim, writes: Writes) -> None:
        """With the hours in the same transaction, whoever sees these partials sees that the hours' totals lack them."""
        updated = await connection.fetchrow(
            self._query["advance"],
            self._app_id,
            claim.stage,
            claim.partition,
            claim.position.epoch,
            claim.position.version,
            moved.position.next_offset,
            json.dumps(moved.position.state),
            *([getattr(books, kind) for books in writes.books] for kind in ("event", "source", *KINDS, "records")),
            *_hours(writes.partials),
        )
        if updated is None:
            raise ClaimLost

    async def _write(self, connection: Connection, writes: Writes) -> None:
        if writes.dead_letters is not None:
            await self._write_letters(connection, writes.dead_letters)
        for partials in writes.partials:
            await _write_partials(connection, partials)

    async def _write_letters(self, connection: Connection, letters: pl.DataFrame) -> None:
        columns = ["app_id", *(name.replace("record_ms", "recorded_at") for name in letters.columns)]
        at = letters.columns.index("record_ms")
        rows = ((self._app_id, *row[:at], some_time(row[at]), *row[at + 1 :]) for row in letters.iter_rows())
        await connection.copy_records_to_table(
            "dead_letters", schema_name="rollup_engine", records=rows, columns=columns, timeout=_COPY_SECONDS
        )

    async def _make_months(self, partials: Partials) -> None:
        starts = partials.frame["window_ms"].unique().to_list()
        months = {month for start_ms in starts if (month := month_of(start_ms)) is not None}
        for month in sorted(months):
            if (partials.table, month.name) in self._months:
                continue
            async with self._pool.acquire() as connection, connection.transaction():
                await lock_schema(connection)
                exists = f'rollups."{partials.table}_aggregated_{month.name}"'
                if await connection.fetchval("SELECT to_regclass($1)", exists) is None:
                    made = sql.template(
                        "month", table=partials.table, month=month.name, start=month.start, end=month.end
                    )
                    await connection.execute(made)
            self._months.add((partials.table, month.name))

    async def read_back(self, schema: Schema, wanted: pl.DataFrame) -> pl.DataFrame:
        frames = [_back_frame([], schema)]
        for part in wanted.iter_slices(_READ_BACK_ROWS):
            frames.append(await persist("read back", partial(self._read_back, schema, part)))
        return pl.concat(frames)

    async def _read_back(self, schema: Schema, wanted: pl.DataFrame) -> pl.DataFrame:
        query = sql.fill(self._query["read_back"], table=schema.table, columns=_back_columns(schema))
        windows = [at_time(start_ms) for start_ms in wanted["window_ms"]]
        rows = await self._pool.fetch(query, windows, list(map(UUID, keys.to_bytes(wanted["tuple_key"]).tolist())))
        return _back_frame([(at_ms(row[0]), row[1].int, *row[2:]) for row in rows], schema)

    async def last_window_ms(self, schema: Schema) -> int | None:
        query = sql.fill(self._query["last_window"], table=schema.table)
        start = await persist("last window", lambda: self._pool.fetchval(query))
        return None if start is None else at_ms(start)

    async def not_final(
        self, schema: Schema, span: Span, partition: int, partitions: int, partials_max: int
    ) -> tuple[pl.DataFrame, Span | None]:
        names = {"table": schema.table, "columns": _back_columns(schema)}
        query = sql.fill(self._query["not_final"], **names, rows=str(partials_max))  # a limit that every plan knows
        args = (
            at_time(span.from_ms),
            at_time(span.to_ms),
            UUID(span.to_key.to_bytes(16, "big")),
            partitions,
            partition,
        )
        rows = await persist("not final", lambda: self._pool.fetch(query, *args))
        found = [(at_ms(row[1]), row[2].int, *row[3:]) for row in rows]
        mine = [series for row, series in zip(rows, found, strict=True) if row["WANTED"]]
        return _back_frame(mine, schema), Span(span.from_ms, *found[-1][:2]) if found else None


def _back_columns(schema: Schema) -> str:
    plain = [f'"{name}"' for name in (*schema.tuple_columns, "count")]
    return ", ".join([*plain, *(f'"{aggregate.name}"::text' for aggregate in schema.aggregates)])


def _back_frame(rows: list[tuple[Any, ...]], schema: Schema) -> pl.DataFrame:
    columns: dict[str, Any] = {"window_ms": pl.Int64, "tuple_key": pl.UInt128}
    columns |= dict.fromkeys(schema.tuple_columns, pl.String) | {"count": pl.Int64}
    columns |= {aggregate.name: pl.String for aggregate in schema.aggregates}
    return pl.DataFrame(rows, schema=columns, orient="row")


def _hours(changed: Sequence[Partials]) -> tuple[list[str], list[datetime]]:
    """(tables, starts): the hours of which there are partials."""
    tables, starts = list[str](), list[datetime]()
    for partials in changed:
        hours = (partials.frame["window_ms"] // HOUR_MS).unique() * HOUR_MS
        tables += [partials.table] * len(hours)
        starts += map(at_time, hours)
    return tables, starts


async def _write_partials(connection: Connection, partials: Partials) -> None:
    """COPY straight into the table: the compare-and-set already excludes repeats. As CSV, which Polars writes at half
    of what asyncpg takes to encode row by row; a piece at a time, while others work."""
    columns = ["timestamp" if name == "window_ms" else name for name in partials.frame.columns]
    await connection.copy_to_table(
        f"{partials.table}_aggregated",
        schema_name="rollups",
        source=_pieces(partials.frame),
        columns=columns,
        format="csv",
        timeout=_COPY_SECONDS,
    )


async def _pieces(frame: pl.DataFrame) -> AsyncIterator[bytes]:
    rows_max = max(1, frame.height * _COPY_BYTES // max(1, int(frame.estimated_size())))
    for part in frame.iter_slices(rows_max):
        text = _csv(part)  # of far larger rows than the mean: Postgres takes 1 GiB at a time at most
        for at in range(0, len(text), _COPY_BYTES):
            yield text[at : at + _COPY_BYTES]


def _csv(frame: pl.DataFrame) -> bytes:
    times = {start_ms: at_time(start_ms).isoformat() for start_ms in frame["window_ms"].unique()}
    texts = [
        frame["window_ms"].replace_strict(times, return_dtype=pl.String),
        pl.Series("tuple_key", _hex(keys.to_bytes(frame["tuple_key"]))),
        pl.Series("idempotency_key", _hex(_version_8(keys.to_bytes(frame["idempotency_key"])))),
    ]
    buffer = io.BytesIO()
    # All text is quoted, and null is nothing: so the two are told apart, whatever a text says.
    frame.with_columns(texts).write_csv(buffer, include_header=False, quote_style="non_numeric")
    return buffer.getvalue()


def _hex(values: "NDArray[np.void]") -> list[str]:
    """UUIDs as Postgres reads them, of 16 bytes each."""
    digits = values.tobytes().hex()
    return [digits[at : at + 32] for at in range(0, len(digits), 32)]


def _version_8(hashes: "NDArray[np.void]") -> "NDArray[np.void]":
    """UUIDs of version 8 (RFC 9562: by a scheme of one's own) from 128-bit hashes."""
    octets = hashes.view(np.uint8).reshape(-1, 16)
    octets[:, 6] = octets[:, 6] & 0x0F | 0x80
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    return hashes


def _position(row: asyncpg.Record | None) -> Position:
    assert row is not None
    return Position(row["next_offset"], row["first_offset"], row["epoch"], row["version"], json.loads(row["state"]))
