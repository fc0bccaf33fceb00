"""An hour or day of a table in parts of bounded size: ranges of tuple keys over the windows that there are.

Owns how large work is cut. Tuple keys are hashes, so equal ranges hold about equally many rows.
"""

from datetime import datetime
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from rollup_engine.runtime import sql
from rollup_engine.runtime.database import Connection

_KEYS = 1 << 128
_SAMPLED = 256  # as in the query


class Slice(NamedTuple):
    """Rows of these windows with tuple keys from `first` to `last`."""

    windows: list[datetime]
    first: UUID
    last: UUID


async def slices(
    connection: Connection, table: str, suffix: str, start: datetime, step_ms: int, rows: int
) -> list[Slice]:
    """Slices of about `rows` rows that together are the step; a single one, of no window, where it holds no row."""
    query = sql.queries("upkeep")
    windows = await connection.fetchval(sql.fill(query["windows"], table=table, suffix=suffix), start, step_ms)
    sampled = await connection.fetchval(sql.fill(query["sample"], table=table, suffix=suffix), windows)
    many = max(1, sampled * _SAMPLED // rows)
    edges = [_KEYS * number // many for number in range(many + 1)]
    return [Slice(windows, UUID(int=low), UUID(int=high - 1)) for low, high in pairwise(edges)]
