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
# A complete listing is overdue after so many polls, so many times what the last one took (the rest after it is three
# times as long, and the next has to end), and what it takes until another process lists.
OVERDUE_POLLS, OVERDUE_LISTINGS, OVERDUE_MS = 3, 6, 30_000


@dataclass(frozen=True)
class Problem:
    """An object that is damaged, changed or gone, and that nobody has seen to yet."""

    object: str  # its URL
    outcome: str
    note: str


@dataclass(frozen=True)
class BucketStatus:
    """`lag`: objects not wholly in the books, and 1 more while a complete listing is awaited or overdue. `listed_at`,
    RFC 3339: what was there then is known. `overdue`: the bucket cannot be listed, or nobody does it. `problems`: how
    many."""

    url: str
    topic: str
    objects: int
    lag: int
    listed_at: str | None
    overdue: bool
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
        overdue_ms = OVERDUE_POLLS * config.buckets[row["topic"]].poll_ms + OVERDUE_LISTINGS * row["listing_ms"]
        overdue = row["age_ms"] > overdue_ms + OVERDUE_MS
        lag = int(row["unlisted"] or overdue)
        for number in range(offsets.BUCKET_PARTITIONS):
            source = source_name(row["topic"], number)
            booked = min((one.get(source, first.get(source, 0)) for one in marks), default=0)
            lag += offsets.objects_between(number, booked, row["objects"])
        latest = []
        if row["problems"]:
            rows = await pool.fetch(query["problems"], app_id, row["topic"], PROBLEMS_SHOWN)
            latest = [Problem(row["url"] + one["name"], one["outcome"], one["note"]) for one in rows]
        listed_at = row["listed_at"] and row["listed_at"].isoformat(timespec="seconds").replace("+00:00", "Z")
        found.append(
            BucketStatus(row["url"], row["topic"], row["objects"], lag, listed_at, overdue, row["problems"], latest)
        )
    return found
