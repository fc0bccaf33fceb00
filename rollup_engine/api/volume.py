"""Counted events per event type and hour: the rollups' own count, through the rewriter, so by tiers where these are
exact and from partial rollups where not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from billable_metrics.catalog import Table as MetricTable
from billable_metrics.catalog import nearest
from billable_metrics.execute import Plan
from billable_metrics.parameters import parse_value
from billable_metrics.rewriter import rewrite
from billable_metrics.times import parse_instant, shown
from rollup_engine.api import cursors, documents
from rollup_engine.api.answers import Answer, media_type_of, respond
from rollup_engine.api.auth import Reader, customer_of
from rollup_engine.api.cursors import Cursor
from rollup_engine.api.formats import Table
from rollup_engine.api.problems import Problem
from rollup_engine.api.services import Current, Services
from rollup_engine.config.model import EventType, Rollup
from rollup_engine.config.naming import column_name

router = APIRouter(prefix="/v1/events", tags=["events"])

HOUR: Final = timedelta(hours=1)
DAYS_MAX: Final = 92
_KNOWN: Final = frozenset({"event", "external_customer_id", "start", "end", "limit", "cursor"})

Row = tuple[str, datetime, int]


@router.get(
    "/volume", summary="Counted events per hour", responses=documents.answers(documents.VolumePage, tables=True)
)
async def volume(
    request: Request,
    key: Reader,
    event: Annotated[list[str] | None, Query(description="Event types; all, where none is named.")] = None,
    external_customer_id: Annotated[str | None, Query(description="Of this customer only.")] = None,
    start: Annotated[
        str | None, Query(description="By itself a day before `end`.", json_schema_extra=documents.TIME)
    ] = None,
    end: Annotated[
        str | None,
        Query(description="By itself the end of this hour.", json_schema_extra=documents.TIME),
    ] = None,
    limit: Annotated[int | None, Query(ge=1, description="Rows on a page at the most.")] = None,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> Response:
    """Per event type, then hour of UTC. A window longer than an hour counts in the hour in which it starts. Edges are
    moved outward to full hours."""
    media_type = media_type_of(request)
    services: Services = request.app.state.services
    for name in request.query_params:
        if name not in _KNOWN:
            raise Problem(
                422, f"There is no parameter {name[:100]!r} here. Those there are: {', '.join(sorted(_KNOWN))}."
            )
    customer = customer_of(key, external_customer_id)
    if customer is not None:
        parse_value("text", customer, "external_customer_id")
    now = await services.current()
    chosen = _events(now, event)
    asked = cursors.digest({"volume": [one.event for one in chosen], "customer": customer, "start": start, "end": end})
    after = cursors.decode(cursor, asked).after
    begin, until, last = _begun(after) if after else (*_period(start, end), None)
    kept = asked, begin, until, now.token
    rows: list[Row] | None = services.cache.get(kept)
    tables = [_fullest(now, one) for one in chosen]
    if rows is None:
        rows = []
        for one, (rollup, table) in zip(chosen, tables, strict=True):
            plan = _plan(rollup, table, customer, begin, until)
            if plan is not None:
                found = await services.runner.run(plan, now.catalog, caller=key.id)
                rows += [(one.event, hour, count) for hour, count in found.rows]  # type: ignore[misc]  # `_plan`'s columns
        services.cache.put(kept, rows, len(rows))
    behind = [row for row in rows if last is None or row[:2] > last]
    page = behind[: services.page_rows(limit)]
    next_cursor = None
    if len(page) < len(behind):
        name, hour, _ = page[-1]
        next_cursor = cursors.encode(Cursor(asked, after=[shown(begin), shown(until), name, shown(hour)]))
    freshness = now.fresh.of([rollup.table for rollup, _ in tables], until)
    members = {"period": {"start": shown(begin), "end": shown(until)}}
    return await respond(
        request, Answer(Table(("event", "start", "count"), page), freshness, members, next_cursor), media_type
    )


def _period(start: str | None, end: str | None) -> tuple[datetime, datetime]:
    until = datetime.now(UTC) if end is None else parse_instant(end, "end")
    begin = None if start is None else parse_instant(start, "start")
    for edge in (begin, until):
        if edge is not None and not 1970 <= edge.year <= 9998:
            raise Problem(422, "The period lies outside the years 1970 to 9998.")
    begin = begin or until - timedelta(days=1)
    begin, until = _hour(begin), _hour(until + HOUR - timedelta(microseconds=1))
    if begin >= until:
        raise Problem(422, f"The period's start {shown(begin)} is not before its end {shown(until)}.")
    if until - begin > timedelta(days=DAYS_MAX):
        raise Problem(422, f"This period has more than {DAYS_MAX} days. Ask for a shorter one.")
    return begin, until


def _hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


def _begun(after: list[str | None]) -> tuple[datetime, datetime, tuple[str, datetime]]:
    """The period that the first page had, and its last row."""
    if len(after) != 4 or None in after:
        raise Problem(422, "`cursor` is not one that was given out. Take `next_cursor` as it is.")
    begin, until, event, hour = map(str, after)
    return *_period(begin, until), (event, parse_instant(hour, "cursor"))


def _events(now: Current, asked: list[str] | None) -> list[EventType]:
    """The event types, by name. Raises `Problem` 422 for one that there is not."""
    known = {one.event: one for one in now.config.events}
    for name in asked or ():
        if name not in known:
            close = nearest(name, known)
            hint = f"Did you mean {close!r}?" if close else f"Those there are: {', '.join(sorted(known))}."
            raise Problem(422, f"There is no event type {name[:100]!r}. {hint}")
    return [known[name] for name in sorted(set(asked or known))]


def _fullest(now: Current, event: EventType) -> tuple[Rollup, MetricTable]:
    """The rollup to count by, for each counts every counted event: the one that has been there for longest."""

    def since(pair: tuple[Rollup, MetricTable]) -> datetime:
        return pair[1].complete_from or datetime.min.replace(tzinfo=UTC)

    tables = {table.name: table for table in now.catalog.tables}
    return min(((rollup, tables[rollup.name]) for rollup in event.rollups), key=since)


def _plan(rollup: Rollup, table: MetricTable, customer: str | None, begin: datetime, until: datetime) -> Plan | None:
    """The counts of one event type, of full hours since its rollup was there; None where there are none of these."""
    if table.complete_from is not None:
        begin = max(begin, _hour(table.complete_from + HOUR - timedelta(microseconds=1)))
    if begin >= until:
        return None
    name = column_name(rollup.name)
    sql = (
        "SELECT date_trunc('hour', timestamp) AS hour, SUM(aggregated_count) AS count"  # noqa: S608 - a name of ours
        f" FROM AGGREGATED_EVENTS('{name}') GROUP BY 1 ORDER BY 1"
    )
    return lambda catalog: rewrite(sql, catalog, customer=customer, start=begin, end=until)
