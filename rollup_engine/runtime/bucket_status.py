"""How far buckets are read, and what is wrong with their objects. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from rollup_engine.buckets import offsets
from rollup_engine.config.model import Config
from rollup_engine.progress import DEDUP, ROUTE
from rollup_engine.runtime import sql
from rollup_engine.topology import events_topic, source_name

if TYPE_CHECKING:
    import asyncpg

PROBLEMS_SHOWN = 20  # of each bucket


@dataclass(frozen=True)
class Problem:
    """An object that is damaged, changed or gone, and that nobody has seen to yet."""

    object: str  # its URL
    outcome: str
    note: str


@dataclass(frozen=True)
class BucketStatus:
    """`lag`: objects not wholly in the books, and 1 more while a complete listing is awaited. `problems`: how many."""

    url: str
    topic: str
    objects: int
    lag: int
    problems: int
    latest: Sequence[Problem]


class _Marks(msgspec.Struct):
    marks: dict[str, int] = {}


async def collect(
    pool: asyncpg.Pool[asyncpg.Record], app_id: str, config: Config, positions: Iterable[asyncpg.Record]
) -> list[BucketStatus]:
    """Of each bucket of the YAML. `positions`: all stages' rows, as of before."""
    if not config.buckets:
        return []
    query = sql.queries("buckets")
    judges = await pool.fetchval(query["judges"], app_id, events_topic(app_id)) or 0
    first: dict[str, int] = {}
    marks: list[dict[str, int]] = []
    for row in positions:
        if row["stage"] == ROUTE:
            first[row["source"]] = row["first_offset"]
        elif row["stage"] == DEDUP:
            marks.append(msgspec.json.decode(row["state"], type=_Marks).marks)
    marks += [{}] * (judges - len(marks))  # those that have not begun
    found = []
    for row in await pool.fetch(query["state"], app_id, list(config.buckets)):
        lag = int(row["unlisted"])
        for number in range(offsets.BUCKET_PARTITIONS):
            source = source_name(row["topic"], number)
            booked = min((one.get(source, first.get(source, 0)) for one in marks), default=0)
            lag += offsets.objects_between(number, booked, row["objects"])
        latest = []
        if row["problems"]:
            rows = await pool.fetch(query["problems"], app_id, row["topic"], PROBLEMS_SHOWN)
            latest = [Problem(row["url"] + one["name"], one["outcome"], one["note"]) for one in rows]
        found.append(BucketStatus(row["url"], row["topic"], row["objects"], lag, row["problems"], latest))
    return found
