"""The metric catalogue, and a metric's usage."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from billable_metrics.catalog import nearest
from billable_metrics.metric import Metric, tables_read
from billable_metrics.parameters import parse_values, written
from billable_metrics.periods import Granularity, Snap
from billable_metrics.times import parse_instant, shown
from billable_metrics.usage import PAGE_MAX, Usage, UsageRequest, usage
from billable_metrics.usage_statement import Position
from rollup_engine.api import cursors, documents
from rollup_engine.api.answers import Answer, media_type_of, respond
from rollup_engine.api.auth import Reader, customer_of
from rollup_engine.api.cache import rows_worth
from rollup_engine.api.clocked import reads_clock
from rollup_engine.api.cursors import Cursor
from rollup_engine.api.formats import Table, plain
from rollup_engine.api.problems import Problem
from rollup_engine.api.services import Current, Services
from rollup_engine.errors import MetricError
from rollup_engine.runtime.api_keys import ApiKey

router = APIRouter(prefix="/v1/metrics", tags=["metrics"])

FIXED: Final = frozenset(
    {
        *("external_customer_id", "start", "end", "granularity", "timezone", "group_by", "snap", "fill"),
        *("limit", "cursor"),
    }
)
"""Query parameters that are ours; every other one is a parameter of the metric."""

Name = Annotated[str, Path(description="The metric's name.", examples=["billable_downloads"])]
Limit = Annotated[int | None, Query(ge=1, description="Rows on a page at the most.", examples=[1000])]
CursorText = Annotated[str | None, Query(description="`next_cursor` of the page before.")]


@router.get("", summary="The metrics there are", responses=documents.answers(documents.MetricList))
async def list_metrics(request: Request, key: Reader, limit: Limit = None, cursor: CursorText = None) -> Response:
    """All metrics by name, with their units and parameters. Keys bound to a customer are not shown the SQL."""
    services: Services = request.app.state.services
    now = await services.current()
    asked = cursors.digest({"metrics": None, "bound": key.customer is not None})
    last = cursors.decode(cursor, asked).after
    names = sorted(name for name in now.metrics if not last or name > str(last[0]))
    page = names[: services.page_rows(limit)]
    more = len(names) > len(page)
    return documents.json_response(
        request,
        {
            "data": [_described(now, now.metrics[name], key) for name in page],
            "next_cursor": cursors.encode(Cursor(asked, after=[page[-1]])) if more else None,
        },
    )


@router.get("/{name}", summary="One metric", responses=documents.answers(documents.MetricShown, 404))
async def show_metric(request: Request, key: Reader, name: Name) -> Response:
    """What the metric measures, in which unit, and which parameters it takes."""
    now = await request.app.state.services.current()
    return documents.json_response(request, _described(now, _metric(now, name), key))


@router.get(
    "/{name}/usage",
    summary="A metric's usage, per customer, time and group",
    responses=documents.answers(documents.UsagePage, 404, tables=True),
    openapi_extra=documents.METRIC_PARAMETERS,
)
async def metric_usage(
    request: Request,
    key: Reader,
    name: Name,
    start: Annotated[
        str,
        Query(
            description="Begin of the period, RFC 3339 with an offset.",
            json_schema_extra=documents.TIME,
        ),
    ],
    end: Annotated[
        str,
        Query(
            description="End of the period, exclusive.",
            json_schema_extra=documents.TIME,
        ),
    ],
    external_customer_id: Annotated[
        list[str] | None,
        Query(description="Customers, up to 100. A key bound to one need not name it.", examples=[["acme"]]),
    ] = None,
    granularity: Annotated[Granularity, Query(description="How the period is cut.")] = "none",
    timezone: Annotated[
        str, Query(description="IANA name of the zone whose calendar cuts it.", examples=["Europe/Berlin"])
    ] = "UTC",
    group_by: Annotated[list[str] | None, Query(description="Group columns; one row per combination.")] = None,
    snap: Annotated[Snap | None, Query(description="Move an edge that cuts a window, instead of refusing it.")] = None,
    fill: Annotated[bool, Query(description="Rows for what has no usage as well, with value 0.")] = False,
    limit: Limit = None,
    cursor: CursorText = None,
) -> Response:
    """The metric evaluated for each customer, part of the period and group. Further query parameters are the metric's
    own. Ordered by customer, groups and time."""
    media_type = media_type_of(request)
    services: Services = request.app.state.services
    now = await services.current()
    metric = _metric(now, name)
    customers = _customers(key, external_customer_id)
    wanted = {
        "usage": name,
        "bound": key.customer,
        "customers": customers,
        "start": start,
        "end": end,
        "granularity": granularity,
        "timezone": timezone,
        "group_by": group_by,
        "snap": snap,
        "fill": fill,
        "parameters": sorted(_given(request).items()),
    }
    asked = cursors.digest(wanted)
    most = min(services.settings.api_page_rows_max, PAGE_MAX)
    question = UsageRequest(
        customers=customers,
        start=parse_instant(start, "start"),
        end=parse_instant(end, "end"),
        granularity=granularity,
        timezone=timezone,
        group_by=tuple(group_by or ()),
        parameters=parse_values(metric.parameters, _given(request)),
        snap=snap,
        fill_zero=fill,
        limit=min(limit or most, most),
        after=_position(cursors.decode(cursor, asked)),
    )
    clocked = reads_clock(metric.sql, metric.parameters)
    kept = asked, question.limit, cursor, now.token
    page: Usage | None = None if clocked else services.cache.get(kept)
    if page is None:
        try:
            page = await usage(services.runner, now.catalog, metric, question, caller=key.id)
        except MetricError as error:
            if key.customer is None:
                raise
            raise Problem(422, error.message) from error  # without the line of SQL that it is about
        if not clocked:
            services.cache.put(kept, page, rows_worth(_table(page).rows))
    freshness = now.fresh.of(now.tables_of(tables_read(metric, now.catalog)), page.period.end)
    members = {
        "metric": metric.name,
        "unit": metric.unit,
        "period": {"start": shown(page.period.start), "end": shown(page.period.end)},
    }
    position = page.next and [page.next.customer, shown(page.next.start), *page.next.group]
    next_cursor = cursors.encode(Cursor(asked, after=position)) if position else None
    return await respond(
        request, Answer(_table(page), freshness, members, next_cursor, lambda _: _rows(page)), media_type
    )


def _metric(now: Current, name: str) -> Metric:
    metric = now.metrics.get(name)
    if metric is None:
        close = nearest(name, now.metrics)
        hint = f" Did you mean {close!r}?" if close else " GET /v1/metrics lists those there are."
        raise Problem(404, f"There is no metric {name[:100]!r}.{hint}")
    return metric


def _customers(key: ApiKey, asked: list[str] | None) -> tuple[str, ...]:
    if not asked and key.customer is not None:
        return (key.customer,)
    for customer in asked or ():
        customer_of(key, customer)
    return tuple(asked or ())


def _given(request: Request) -> dict[str, str]:
    """The metric's own parameters. Raises `Problem` 422 for one given twice."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise Problem(422, f"The parameter {name!r} is given twice. Give it once.")
        if name not in FIXED:
            given[name] = value
    return given


def _position(cursor: Cursor) -> Position | None:
    if not cursor.after:
        return None
    customer, start = (*cursor.after, None)[:2]
    if customer is None or start is None:
        raise Problem(422, "`cursor` is not one that was given out. Take `next_cursor` as it is.")
    return Position(customer, tuple(cursor.after[2:]), parse_instant(start, "cursor"))


def _described(now: Current, metric: Metric, key: ApiKey) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": metric.name,
        "description": metric.description,
        "unit": metric.unit,
        "parameters": [
            {
                "name": one.name,
                "type": one.type,
                "required": one.required,
                "default": None if one.default is None else written(one.default),
                "description": one.description,
            }
            for one in metric.parameters.values()
        ],
        "group_by": _group_columns(now, metric),
    }
    return described if key.customer is not None else {**described, "sql": metric.sql}


def _group_columns(now: Current, metric: Metric) -> list[str]:
    """Columns that `group_by` takes: those of every rollup that the metric reads."""
    first, *others = tables_read(metric, now.catalog)
    return [name for name in first.group_columns[1:] if all(name in table.group_columns for table in others)]


def _rows(page: Usage) -> list[dict[str, Any]]:
    return [
        {
            "external_customer_id": row.external_customer_id,
            "start": shown(row.start),
            "end": shown(row.end),
            "group": dict(row.group),
            "value": plain(row.value),
        }
        for row in page.rows
    ]


def _table(page: Usage) -> Table:
    """Flat: a group column that is called like one of ours gets `group_` before it."""
    columns = ["external_customer_id", "start", "end", "value"]
    for name in page.group_by:
        while name in columns:
            name = f"group_{name}"
        columns.insert(-1, name)
    rows = [(row.external_customer_id, row.start, row.end, *row.group.values(), row.value) for row in page.rows]
    return Table(columns, rows)
