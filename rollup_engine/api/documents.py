"""What the OpenAPI document says of answers: their shapes, their errors, their headers. Nothing here runs a query."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field, JsonValue
from starlette.responses import Response

from rollup_engine.api import formats, problems

TIME: Final[dict[str, JsonValue]] = {"format": "date-time", "examples": ["2024-03-01T00:00:00Z"]}

Number = int | str
"""A whole number of up to 38 digits is a JSON number; any other is a string of its digits."""


class Problem(BaseModel):
    """RFC 9457. `detail` says what is wrong and what to do; `line` and `column` where, in metric SQL."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["start is no time with an offset: '2024-03-01'; write 2024-03-01T00:00:00Z"])
    line: int | None = None
    column: int | None = None
    errors: list[dict[str, str]] | None = None


class ParameterShown(BaseModel):
    """A parameter of a metric. `default` as text, null where a value has to be given."""

    name: str
    type: str = Field(examples=["number"])
    required: bool
    default: str | None
    description: str


class MetricShown(BaseModel):
    """A metric. `group_by`: the columns it can be grouped by. `sql` is not shown to keys bound to a customer."""

    name: str = Field(examples=["billable_downloads"])
    description: str
    unit: str = Field(examples=["bytes"])
    parameters: list[ParameterShown]
    group_by: list[str]
    sql: str | None = None


class MetricList(BaseModel):
    data: list[MetricShown]
    next_cursor: str | None


class Period(BaseModel):
    """Half-open."""

    start: str = Field(examples=["2024-03-01T00:00:00Z"])
    end: str = Field(examples=["2024-04-01T00:00:00Z"])


class Fresh(BaseModel):
    """`data_through`: the totals hold what came in, in order, through this event time; null: not known yet. `final`:
    every window of the period is closed."""

    data_through: str | None = Field(examples=["2024-03-14T10:09:58Z"])
    final: bool
    next_cursor: str | None


class UsageRow(BaseModel):
    external_customer_id: str = Field(examples=["acme"])
    start: str = Field(examples=["2024-03-01T00:00:00Z"])
    end: str = Field(examples=["2024-03-02T00:00:00Z"])
    group: dict[str, str | None]
    value: Number = Field(examples=[1024, "10.24"])


class UsagePage(Fresh):
    """One page of usage. `period`: what was evaluated, after snapping."""

    metric: str
    unit: str
    period: Period
    data: list[UsageRow]


class QueryAnswer(Fresh):
    """The rows, each an object by column name."""

    columns: list[str] = Field(examples=[["downloads"]])
    data: list[dict[str, Number | bool | None]] = Field(examples=[[{"downloads": 12}]])


class Explained(BaseModel):
    """The statement that would run, its bound values, and which table each scan reads, and why."""

    sql: str
    parameters: list[str]
    notes: list[str]


class VolumeRow(BaseModel):
    event: str = Field(examples=["file_download"])
    start: str = Field(examples=["2024-03-14T10:00:00Z"])
    count: int


class VolumePage(Fresh):
    """Counted events per event type and hour of UTC; hours without any are left out."""

    period: Period
    data: list[VolumeRow]


class StatusAnswer(BaseModel):
    """`events`: books, lag and watermark per event type; `rollups`: how fresh each rollup is; `halted`: partitions that
    stand still, with cause and remedy; `buckets`: how far each is read, and objects that are a problem. `kafka` false:
    no broker answered, and lag is only what is known without it."""

    events: dict[str, dict[str, Any]]
    rollups: dict[str, dict[str, Any]]
    halted: list[dict[str, Any]]
    buckets: list[dict[str, Any]]
    generation: int
    kafka: bool


class Health(BaseModel):
    status: str = Field(examples=["ok"])


_PROBLEM: Final = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_WORDS: Final = {
    400: "The body cannot be read",
    401: "No key, or none that is good",
    403: "The key may not do this",
    404: "There is no such thing",
    406: "`Accept` asks for a form that there is not",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is compressed, or of a type that is not understood",
    422: "The request says something that cannot be; `detail` says what to write instead",
    429: "Too many requests with this key",
    500: "A fault of the server",
    503: "Postgres does not answer, too many metrics run at once, or the server stops",
    410: "The answer that the cursor belongs to is gone",
}
_RETRY: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
_HEADERS: Final[Mapping[str, str]] = {
    "ETag": "Changes with the answer; send it back in `If-None-Match`.",
    "Rollup-Data-Through": "As `data_through`; left out where it is not known.",
    "Rollup-Final": "As `final`.",
    "Rollup-Next-Cursor": "As `next_cursor`; left out on the last page.",
}


def problem_response(status: int) -> dict[str, Any]:
    """One of the `responses` of a path."""
    described: dict[str, Any] = {"description": _WORDS[status], "content": _PROBLEM}
    if status in (429, 503):
        described["headers"] = _RETRY
    if status in (401, 403):
        described["headers"] = {"WWW-Authenticate": {"description": "RFC 6750.", "schema": {"type": "string"}}}
    return described


def answers(model: Any, *statuses: int, tables: bool = False, not_modified: bool = True) -> dict[int | str, Any]:
    """The `responses` of a path. `tables`: it comes as CSV and Parquet as well. `statuses`: problems besides the usual.
    `not_modified`: it may be 304."""
    usual = [401, 403, 422, 429, 500, 503, *([406] if tables else []), *statuses]
    headers = dict(_HEADERS) if tables else {"ETag": _HEADERS["ETag"]}
    done: dict[str, Any] = {"model": model, "description": "The answer"}
    done["headers"] = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    if tables:
        done["content"] = {
            formats.CSV: {"schema": {"type": "string"}},
            formats.PARQUET: {"schema": {"type": "string", "format": "binary"}},
        }
    found: dict[int | str, Any] = {200: done, **{status: problem_response(status) for status in sorted(usual)}}
    if not_modified:
        found[304] = {"description": "`If-None-Match` names the answer as it still is"}
    return found


METRIC_PARAMETERS: Final = {
    "parameters": [
        {
            "name": "parameters",
            "in": "query",
            "description": "The metric's own parameters, each by its name: `&price=0.01`.",
            "style": "form",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}


def json_response(request: Request, content: Mapping[str, Any]) -> Response:
    """JSON with an ETag, or 304: for what is no table and says nothing of freshness."""
    body = formats.to_json(content)
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"Cache-Control": "private, no-cache", "Vary": "Authorization", "ETag": etag}
    if request.method != "GET":
        del headers["ETag"]
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if request.method == "GET" and (etag in tags or "*" in tags):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=formats.JSON)


def document(app: FastAPI, models: Sequence[type[BaseModel]] = ()) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with problems for its own errors, and `models` that no path's function names."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = made["components"]["schemas"]
        shown: list[type[BaseModel]] = [Problem, *models]
        for model in shown:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        app.openapi_schema = made
    return app.openapi_schema
