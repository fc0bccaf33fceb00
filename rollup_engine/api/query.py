"""Ad hoc metric SQL."""

from __future__ import annotations

import secrets
from collections import Counter
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.responses import Response

from billable_metrics.catalog import Catalog
from billable_metrics.execute import Result
from billable_metrics.metric import Metric, tables_read
from billable_metrics.parse import SQL_CHARACTERS_MAX
from billable_metrics.rewriter import Rewritten, rewrite
from billable_metrics.times import parse_instant, shown
from rollup_engine.api import cursors, documents
from rollup_engine.api.answers import Answer, media_type_of, respond
from rollup_engine.api.auth import Querier, customer_of
from rollup_engine.api.cache import rows_worth
from rollup_engine.api.clocked import reads_clock
from rollup_engine.api.cursors import Cursor
from rollup_engine.api.formats import Table, text
from rollup_engine.api.problems import Problem
from rollup_engine.api.services import Services

router = APIRouter(prefix="/v1/query", tags=["query"])

EXAMPLE: Final[dict[str, JsonValue]] = {
    "sql": "SELECT SUM(aggregated_count) AS downloads FROM AGGREGATED_EVENTS('file_download')",
    "external_customer_id": "acme",
    "start": "2024-03-01T00:00:00Z",
    "end": "2024-04-01T00:00:00Z",
}


class Query(BaseModel):
    """Metric SQL, for one customer and a period where these are given."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    sql: str = Field(min_length=1, max_length=SQL_CHARACTERS_MAX)
    external_customer_id: str | None = Field(
        default=None, description="Only this customer's rows. A key bound to one need not name it."
    )
    start: str | None = Field(
        default=None,
        description="Windows from this time on, with an offset.",
        json_schema_extra=documents.TIME,
    )
    end: str | None = Field(default=None, description="Windows before this time.", json_schema_extra=documents.TIME)
    explain: bool = Field(default=False, description="Give the statement that would run, instead of its rows.")
    limit: int | None = Field(default=None, ge=1, description="Rows on a page at the most.")
    cursor: str | None = Field(default=None, description="`next_cursor` of the page before.")


@router.post(
    "",
    summary="Run metric SQL",
    responses=documents.answers(
        documents.QueryAnswer | documents.Explained, 400, 410, 413, tables=True, not_modified=False
    ),
)
async def query(request: Request, key: Querier, asked: Annotated[Query, Body()]) -> Response:
    """One SELECT over `AGGREGATED_EVENTS('…')`. All pages of an answer are of one snapshot."""
    media_type = media_type_of(request)
    services: Services = request.app.state.services
    customer = customer_of(key, asked.external_customer_id)
    if customer is not None and "\0" in customer:
        raise Problem(422, "external_customer_id holds the character U+0000, and no event has such a customer.")
    start = None if asked.start is None else parse_instant(asked.start, "start")
    end = None if asked.end is None else parse_instant(asked.end, "end")
    now = await services.current()

    def plan(catalog: Catalog) -> Rewritten:
        return rewrite(asked.sql, catalog, customer=customer, start=start, end=end)

    tables = now.tables_of(tables_read(Metric("", "", "", asked.sql), now.catalog))
    if asked.explain:
        rewritten = await services.runner.explain(plan, now.catalog, caller=key.id)
        shown_values = [_shown(value) for value in rewritten.params]
        notes = list(rewritten.notes)
        return documents.json_response(request, {"sql": rewritten.sql, "parameters": shown_values, "notes": notes})
    wanted = cursors.digest({"query": asked.sql, "customer": customer, "start": start, "end": end})
    cursor = cursors.decode(asked.cursor, wanted)
    token = cursor.token or (f"{now.token}.{secrets.token_hex(8)}" if reads_clock(asked.sql) else now.token)
    result: Result | None = services.cache.get((wanted, token))
    if result is None:
        if cursor.token not in ("", now.token):
            raise Problem(410, "The totals have changed since the first page, which is no longer kept. Begin again.")
        result = await services.runner.run(plan, now.catalog, caller=key.id)
        twice = [name for name, count in Counter(result.columns).items() if count > 1]
        if twice:
            raise Problem(422, f"Two columns are called {twice[0]!r}. Name one of them otherwise with AS.")
        services.cache.put((wanted, token), result, rows_worth(result.rows))
    page = Table(result.columns, result.rows[cursor.offset : cursor.offset + services.page_rows(asked.limit)])
    reached = cursor.offset + len(page.rows)
    next_cursor = cursors.encode(Cursor(wanted, token, reached)) if reached < len(result.rows) else None
    answer = Answer(page, now.fresh.of(tables, end), {"columns": list(result.columns)}, next_cursor)
    return await respond(request, answer, media_type)


def _shown(value: object) -> str:
    return shown(value) if isinstance(value, datetime) else text(value)
