"""Event types and records for tests of route, written in one line; and what the router makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from rollup_engine.config.model import Aggregate, Bucket, EventType, GroupColumn, Match, Rollup, Timestamp, Unit
from rollup_engine.config.naming import column_name
from rollup_engine.route.router import Router
from rollup_engine.route.state import RouteState
from rollup_engine.runtime.memory import MemoryRecord

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
NOW_MS = 1_660_490_071_132  # 2022-08-14T15:14:31.132Z
Row = dict[str, Any]


def a_sum(path: str, minimum: str | None = None, scale: int = 9) -> Aggregate:
    column = column_name(f"sum_{path}")
    least = None if minimum is None else Decimal(minimum)
    return Aggregate(kind="sum", path=path, column=column, minimum=least, scale=scale)


def event_type(
    event: str = "download",
    *,
    match: Mapping[str, str] | None = None,
    id_paths: Sequence[str] = ("id",),
    at: str = "at",
    unit: Unit | None = None,
    customer: str = "customer",
    groups: Sequence[str] = (),
    sums: Sequence[Aggregate] = (),
    grace_ms: int | None = HOUR_MS,
    max_future_ms: int = 5 * MINUTE_MS,
    bucket: Bucket | None = None,
) -> EventType:
    rollup = Rollup(
        name=event,
        table=column_name(event),
        group_by=tuple(GroupColumn(path=path, column=column_name(path)) for path in groups),
        aggregates=tuple(sums),
        window_ms=600_000,
        emit_every_ms=30_000,
    )
    return EventType(
        event=event,
        kafka_topics=("raw",),
        bucket=bucket,
        match=tuple(Match(path=path, value=value) for path, value in (match or {}).items()),
        id_paths=tuple(id_paths),
        timestamp=Timestamp(path=at, unit=unit),
        customer_path=customer,
        rollups=(rollup,),
        grace_ms=grace_ms,
        horizon_ms=24 * HOUR_MS,
        max_future_ms=max_future_ms,
    )


CSV = Bucket(url="s3://usage/", format="csv", poll_ms=30_000)
DOWNLOAD = event_type(groups=["speed", "data.region"], sums=[a_sum("bytes", minimum="0")])


def event(**changes: object) -> bytes:
    """A good event with some properties changed; `...` leaves one out, bytes are written as they are."""
    good: dict[str, object] = {
        "id": "1",
        "at": "2022-08-14T15:14:31.132Z",
        "customer": "c",
        "bytes": 3256,
        "speed": "fast",
    }
    pairs = [(name, value) for name, value in {**good, **changes}.items() if value is not ...]
    raw = (
        (json.dumps(name), value if isinstance(value, bytes) else json.dumps(value).encode()) for name, value in pairs
    )
    return b"{%s}" % b",".join(name.encode() + b":" + value for name, value in raw)


def route(
    values: Sequence[bytes | None],
    *events: EventType,
    times_ms: Sequence[int] = (),
    state: RouteState | None = None,
    partitions: int = 4,
    first_offset: int = 0,
) -> tuple[dict[str, list[Row]], RouteState]:
    """Rows by table in offset order, and the state after."""
    times_ms = times_ms or [NOW_MS] * len(values)
    records = [
        MemoryRecord(first_offset + index, at_ms, value)
        for index, (value, at_ms) in enumerate(zip(values, times_ms, strict=True))
    ]
    routed = Router("raw", events or [DOWNLOAD], partitions).route(state or RouteState(), records, NOW_MS)
    rows: dict[str, list[Row]] = {}
    for to, tables in routed.tables.items():
        for table, frame in tables.items():
            rows.setdefault(table, []).extend({**row, "to": to} for row in frame.to_dicts())
    return {table: sorted(found, key=lambda row: int(row["offset"])) for table, found in rows.items()}, routed.state


def one(value: bytes, *events: EventType) -> Row:
    """The row of one well-formed event."""
    tables, _ = route([value], *events)
    (rows,) = tables.values()
    (row,) = rows
    assert "reason" not in row, row
    return row
