"""Event types for tests of route, written in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from rollup_engine.config.model import Aggregate, EventType, GroupColumn, Match, Rollup, Timestamp, Unit
from rollup_engine.config.naming import column_name

MINUTE_MS, HOUR_MS = 60_000, 3_600_000


def a_sum(path: str, minimum: str | None = None, scale: int = 9) -> Aggregate:
    column = column_name(f"sum_{path}")
    least = None if minimum is None else Decimal(minimum)
    return Aggregate(kind="sum", path=path, column=column, minimum=least, scale=scale)


def event_type(
    event: str = "download",
    *,
    match: Mapping[str, str] | None = None,
    id_path: str = "id",
    at: str = "at",
    unit: Unit | None = None,
    customer: str = "customer",
    groups: Sequence[str] = (),
    sums: Sequence[Aggregate] = (),
    grace_ms: int | None = HOUR_MS,
    max_future_ms: int = 5 * MINUTE_MS,
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
        topics=("raw",),
        match=tuple(Match(path=path, value=value) for path, value in (match or {}).items()),
        id_path=id_path,
        timestamp=Timestamp(path=at, unit=unit),
        customer_path=customer,
        rollups=(rollup,),
        grace_ms=grace_ms,
        horizon_ms=24 * HOUR_MS,
        max_future_ms=max_future_ms,
    )
