"""Seeded download events, and what they come to by a plain recount."""

import json
import random
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

Group = tuple[str, str, str | None]  # window start, customer, speed
FIRST = datetime(2022, 8, 14, 15, 0, tzinfo=UTC)

YAML = """\
event: file_download
source: {topic: downloads}
fields: {id: id, timestamp: download_timestamp, external_customer_id: customer}
rollups:
  - group_by: [download_speed]
    aggregates: [{sum: bytes_downloaded, minimum: 0}]
    emit_every: %(emit_every)s
grace_period: %(grace_period)s
"""


def yaml(emit_every: str = "500ms", grace_period: str = "unlimited") -> str:
    return YAML % {"emit_every": emit_every, "grace_period": grace_period}


def event(**changes: object) -> str:
    """One event as a line, the issue's unless told otherwise."""
    plain = {
        "id": str(uuid.uuid4()),
        "customer": "617cb4de",
        "download_timestamp": "2022-08-14T15:14:31.132Z",
        "bytes_downloaded": 3256,
        "download_speed": "fast",
    }
    return json.dumps(plain | changes)


def events(count: int, seed: int, repeated: float = 0.0) -> list[str]:
    """Events over an hour of 40 customers; a share of them once more, some while later."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        at = FIRST + timedelta(milliseconds=rng.randrange(3_600_000))
        lines.append(
            event(
                id=str(uuid.UUID(int=rng.getrandbits(128))),
                customer=f"customer-{rng.randrange(40)}",
                download_timestamp=at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                bytes_downloaded=rng.randrange(5_000_000),
                download_speed=rng.choice(["fast", "medium", "slow", None]),
            )
        )
        if rng.random() < repeated:
            lines.append(rng.choice(lines))
    return lines


def recount(lines: Iterable[str]) -> dict[Group, tuple[int, int]]:
    """Group to (count, bytes) of every id once: what the rows must say."""
    seen, counts, sums = set(), Counter[Group](), Counter[Group]()
    for line in lines:
        one = json.loads(line)
        if one["id"] in seen:
            continue
        seen.add(one["id"])
        at = datetime.fromisoformat(one["download_timestamp"])
        window = at - timedelta(minutes=at.minute % 10, seconds=at.second, microseconds=at.microsecond)
        group = window.isoformat(), one["customer"], one.get("download_speed")
        counts[group] += 1
        sums[group] += one.get("bytes_downloaded", 0)
    return {group: (count, sums[group]) for group, count in counts.items()}


async def rows(database_url: str, query: str, *arguments: object) -> Sequence[dict[str, Any]]:
    connection = await asyncpg.connect(database_url)
    try:
        return [dict(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()


async def totals(database_url: str, view: str = "file_download") -> dict[Group, tuple[int, int]]:
    """What the view says, as `recount` puts it."""
    found = await rows(database_url, f'SELECT * FROM rollups."{view}"')
    return {
        (row["timestamp"].isoformat(), row["external_customer_id"], row["download_speed"]): (
            row["count"],
            int(row["sum_bytes_downloaded"]),
        )
        for row in found
    }


async def partials(database_url: str, table: str = "file_download_aggregated") -> Sequence[dict[str, Any]]:
    return await rows(database_url, f'SELECT * FROM rollups."{table}" ORDER BY revision')


async def send(kafka: str, records: Iterable[tuple[int, bytes | None]], topic: str = "downloads") -> list[int]:
    """Send (partition, value) in order; the offsets. For what no line of a file can say: no bytes, no value at all."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", max_request_size=16 << 20)
    await producer.start()
    try:
        return [
            (await producer.send_and_wait(topic, value, key=b"key", partition=partition)).offset
            for partition, value in records
        ]
    finally:
        await producer.stop()
