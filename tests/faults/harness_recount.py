"""The oracle: the raw topic as Kafka gives it back, counted naively; and the engine's totals and books beside it.

Knows the events of `harness_load` and the YAML of `harness`; nothing of the engine's code is used.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.acceptance.traffic import rows

Group = tuple[int, str, str | None]  # window start in ms, customer, speed
Total = tuple[int, Decimal]  # count, bytes
WINDOW_MS = 600_000
KINDS = ("counted", "duplicate", "conflicting", "late", "invalid")
READ_SECONDS = 60


@dataclass(frozen=True)
class Raw:
    """A record of the raw topic."""

    offset: int
    value: bytes
    timestamp_ms: int = 0


@dataclass
class Recount:
    """What must come out. `letters`: (source, offset) of every record that is neither counted nor a duplicate."""

    records: int = 0
    books: Counter[str] = field(default_factory=Counter)
    totals: dict[Group, Total] = field(default_factory=dict)
    letters: set[tuple[str, int]] = field(default_factory=set)

    @property
    def counted(self) -> int:
        return self.books["counted"]


async def read_topic(servers: str, topic: str) -> dict[int, list[Raw]]:
    """Partition to its committed records, all that there are now, in order."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=16 << 20,
    )
    await consumer.start()
    try:
        numbers = sorted(consumer.partitions_for_topic(topic) or await _partitions(consumer, topic))
        ones = [TopicPartition(topic, number) for number in numbers]
        found: dict[int, list[Raw]] = {one.partition: [] for one in ones}
        ends = await consumer.end_offsets(ones)
        open_ones = [one for one in ones if ends[one] > 0]
        consumer.assign(open_ones)
        await consumer.seek_to_beginning(*open_ones)
        async with asyncio.timeout(READ_SECONDS):
            while open_ones:
                for one, records in (await consumer.getmany(timeout_ms=200, max_records=50_000)).items():
                    found[one.partition] += [Raw(r.offset, r.value or b"", r.timestamp) for r in records]
                left = []
                for one in open_ones:  # the embedded broker lists ends that are too low; its fetches tell the true one
                    end = consumer.highwater(one)
                    if end is None or await consumer.position(one) < max(end, ends[one]):
                        left.append(one)
                open_ones = left
        return found
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    await consumer._client.add_topic(topic)
    return set(consumer.partitions_for_topic(topic) or ())


def recount(topic: str, partitions: Mapping[int, Sequence[Raw]], grace_ms: int | None) -> Recount:
    """Every id once: the first copy counts. `grace_ms` None: nothing is late."""
    result = Recount()
    first: dict[str, tuple[object, ...]] = {}
    for number, records in partitions.items():
        watermark_ms, source = 0, f"{topic}/{number}"
        for record in records:
            result.records += 1
            mapped = _mapped(record.value)
            if mapped is None:
                kind = "invalid"
            else:
                name, at_ms, customer, speed, size = mapped
                watermark_ms = max(watermark_ms, at_ms)
                if name in first:
                    kind = "duplicate" if first[name] == mapped else "conflicting"
                elif grace_ms is not None and at_ms < watermark_ms - grace_ms:
                    kind = "late"
                else:
                    kind, first[name] = "counted", mapped
                    group = at_ms - at_ms % WINDOW_MS, customer, speed
                    count, total = result.totals.get(group, (0, Decimal(0)))
                    result.totals[group] = count + 1, total + size
            result.books[kind] += 1
            if kind in ("conflicting", "late", "invalid"):
                result.letters.add((source, record.offset))
    return result


def _mapped(value: bytes) -> tuple[str, int, str, str | None, Decimal] | None:
    """(id, time in ms, customer, speed, bytes); None for what is malformed."""
    try:
        one = json.loads(value, parse_float=Decimal)
        at = datetime.fromisoformat(one["download_timestamp"])
        name, customer, size = one["id"], one["customer"], one.get("bytes_downloaded")
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not name or not customer or (size is not None and size < 0):
        return None
    return name, round(at.timestamp() * 1000), customer, one.get("download_speed"), Decimal(size or 0)


async def totals_of(database_url: str, view: str = "file_download") -> dict[Group, Total]:
    """What the view says, as `recount` puts it."""
    found = await rows(database_url, f'SELECT * FROM rollups."{view}"')
    return {
        (round(row["timestamp"].timestamp() * 1000), row["external_customer_id"], row["download_speed"]): (
            row["count"],
            Decimal(row["sum_bytes_downloaded"] or 0),
        )
        for row in found
    }


@dataclass(frozen=True)
class Difference:
    """Between what is in Postgres and a recount: sums over all groups of the differences' sizes."""

    events: int
    bytes: Decimal

    def __str__(self) -> str:
        return f"{self.events}" if not self.bytes else f"{self.events} events, {self.bytes} bytes"


def difference(expected: Mapping[Group, Total], found: Mapping[Group, Total]) -> Difference:
    nothing = 0, Decimal(0)
    pairs = [(expected.get(group, nothing), found.get(group, nothing)) for group in expected.keys() | found.keys()]
    return Difference(sum(abs(a[0] - b[0]) for a, b in pairs), sum((abs(a[1] - b[1]) for a, b in pairs), Decimal(0)))


async def books_of(database_url: str, app_id: str) -> Counter[str]:
    """Kind to number, and `records`: distinct raw records in the books."""
    sums = ", ".join(f"coalesce(sum({kind}), 0)::bigint AS {kind}" for kind in (*KINDS, "unmatched", "records"))
    (row,) = await rows(database_url, f"SELECT {sums} FROM rollup_engine.books WHERE app_id = $1", app_id)
    return Counter(row)


async def letters_of(database_url: str, app_id: str) -> list[tuple[str, int]]:
    query = "SELECT source, source_offset FROM rollup_engine.dead_letters WHERE app_id = $1"
    return [(row["source"], row["source_offset"]) for row in await rows(database_url, query, app_id)]


async def faults_of_series(database_url: str, table: str = "file_download_aggregated") -> list[str]:
    """What is wrong with the partial rollups: keys used twice, revisions that do not rise, counts that fall."""
    query = f"""
        WITH steps AS (
            SELECT timestamp, tuple_key, revision, count, idempotency_key,
                lag(revision) OVER series AS before, lag(count) OVER series AS count_before
            FROM rollups."{table}" WINDOW series AS (PARTITION BY timestamp, tuple_key ORDER BY revision)
        )
        SELECT count(*) - count(DISTINCT idempotency_key) AS keys_used_twice,
            count(*) FILTER (WHERE revision <= before) AS revisions_that_do_not_rise,
            count(*) FILTER (WHERE count < count_before) AS counts_that_fall
        FROM steps"""
    (found,) = await rows(database_url, query)
    return [f"{number} {name.replace('_', ' ')}" for name, number in found.items() if number]


def wrong_books(expected: Recount, books: Mapping[str, int], letters: Sequence[tuple[str, int]]) -> list[str]:
    """Where books and dead letters differ from the recount."""
    faults = [
        f"{kind}: {books[kind]} in the books, {expected.books[kind]} by recount"
        for kind in KINDS
        if books[kind] != expected.books[kind]
    ]
    received = sum(books[kind] for kind in KINDS)
    if received != expected.records:
        faults.append(f"received: {received} in the books, {expected.records} on the topic")
    there = Counter(letters)
    missing, foreign = expected.letters - there.keys(), there.keys() - expected.letters
    twice = [letter for letter, count in there.items() if count > 1]
    for what, found in (("missing", missing), ("of records that count", foreign), ("written twice", twice)):
        if found:
            faults.append(f"{len(found)} dead letters {what}, such as {sorted(found)[0]}")
    return faults


def seen(status: Mapping[str, Any]) -> dict[str, int]:
    """The numbers of `status` over all its event types, `topic:…` included."""
    return {name: sum(event[name] for event in status.values()) for name in (*KINDS, "received", "routed", "unmatched")}
