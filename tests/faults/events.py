"""Events that rows make up and send, and what they come to: whatever rows of more than one module are written with."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from tests.faults import harness_recount as recounts
from tests.faults.harness import PARTITIONS, Bed
from tests.faults.harness_load import Sendable
from tests.faults.harness_recount import Recount

AT = "2022-08-14T15:14:31.132Z"
_ID = re.compile(rb'"id":"([0-9a-f]{32})"')


def event(name: str, at: str = AT, customer: str = "odd", size: object = 1, **more: object) -> bytes:
    """A download event as compact JSON, the id first; `more` are other fields of it."""
    fields = {"id": name, "customer": customer, "download_timestamp": at, "bytes_downloaded": size, **more}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def spread(values: Iterable[bytes]) -> list[Sendable]:
    """Over the raw partitions, one after another."""
    return [(number % PARTITIONS, value) for number, value in enumerate(values)]


def mixed(events: Sequence[Sendable], odd: Sequence[Sendable]) -> list[Sendable]:
    """`odd` spread over the middle of `events`: these open each partition, and close it."""
    begin, every = len(events) // 10, max(1, len(events) * 8 // 10 // len(odd))
    result = list(events[:begin])
    left = iter(odd)
    for number, one in enumerate(events[begin:]):
        if number % every == 0 and (extra := next(left, None)) is not None:
            result.append(extra)
        result.append(one)
    return [*result, *left]


def without_conflicts(events: Sequence[Sendable]) -> list[Sendable]:
    """Copies mapped by another YAML's fields cannot be compared: a conflict across the change is a duplicate."""
    first: dict[bytes, bytes] = {}
    kept = []
    for to, value in events:
        found = _ID.search(value)
        if found is None or first.setdefault(found[1], value) == value:
            kept.append((to, value))
    return kept


def minute_ms(minute: str) -> int:
    """Of such as `2022-08-14T15:10`, in UTC."""
    return round(datetime.fromisoformat(f"{minute}:00Z").timestamp() * 1000)


def expected(bed: Bed, refused: Iterable[bytes] = (), *, text: Callable[[Any], str | None] | None = None) -> Recount:
    """The recount of the topic, where `refused` values are invalid whatever they look like; `text` puts a grouping
    value into words."""
    for load in bed.loads:
        load.done()
    wrong = set(refused)
    partitions = asyncio.run(recounts.read_topic(bed.kafka.servers, bed.topic))
    good = {number: [one for one in records if one.value not in wrong] for number, records in partitions.items()}
    result = recounts.recount(bed.topic, good, bed.grace_ms)
    for number, records in partitions.items():
        letters = {(f"{bed.topic}/{number}", one.offset) for one in records if one.value in wrong}
        result.records += len(letters)
        result.books["invalid"] += len(letters)
        result.letters |= letters
    if text is not None:
        totals: dict[recounts.Group, recounts.Total] = {}
        for (window, customer, value), (count, size) in result.totals.items():
            before = totals.get((window, customer, text(value)), (0, Decimal(0)))
            totals[window, customer, text(value)] = before[0] + count, before[1] + size
        result.totals = totals
    return result


def reasons(bed: Bed) -> Counter[str]:
    """How many dead letters there are of each reason."""
    found = bed.query(
        "SELECT reason, count(*) AS n FROM rollup_engine.dead_letters WHERE app_id = $1 GROUP BY 1", bed.app_id
    )
    return Counter({row["reason"]: row["n"] for row in found})
