"""From rows to a response: the form that `Accept` asks for, how fresh it is, the next page, and the ETag.

Owns: what all data answers have in common. JSON carries freshness and cursor in the body, and the headers say the same
for every form: `Rollup-Data-Through`, `Rollup-Final`, and `Link: <…>; rel="next"`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from billable_metrics.times import shown
from rollup_engine.api import formats
from rollup_engine.api.formats import Table
from rollup_engine.runtime.freshness import Freshness

# Whoever keeps it asks again before each use: so nobody sees an answer older than the totals.
HEADERS: Final = {"Cache-Control": "private, no-cache", "Vary": "Accept, Authorization"}
_THREAD_ROWS: Final = 1_000  # more are rendered beside the event loop


@dataclass(frozen=True)
class Answer:
    """One page. `to_json` makes its `data` from the table's rows; `members` are the further members of the JSON."""

    table: Table
    freshness: Freshness
    members: Mapping[str, Any] = field(default_factory=dict)
    next_cursor: str | None = None
    to_json: Callable[[Table], Any] = lambda table: [
        dict(zip(table.columns, map(formats.plain, row), strict=True)) for row in table.rows
    ]

    def body(self, media_type: str) -> bytes:
        """The page in this form."""
        if media_type == formats.CSV:
            return formats.to_csv(self.table)
        if media_type == formats.PARQUET:
            return formats.to_parquet(self.table)
        through = self.freshness.data_through
        return formats.to_json(
            {
                "data": self.to_json(self.table),
                **self.members,
                "data_through": None if through is None else shown(through),
                "final": self.freshness.final,
                "next_cursor": self.next_cursor,
            }
        )


def media_type_of(request: Request) -> str:
    """The form asked for. Raises `Problem` 406."""
    return formats.chosen(request.headers.get("accept"))


async def respond(request: Request, answer: Answer, media_type: str) -> Response:
    """The response, or 304 where the client has it already."""
    large = len(answer.table.rows) > _THREAD_ROWS or media_type == formats.PARQUET
    body = await run_in_threadpool(answer.body, media_type) if large else answer.body(media_type)
    headers = dict(HEADERS)
    headers["Rollup-Final"] = "true" if answer.freshness.final else "false"
    if answer.freshness.data_through is not None:
        headers["Rollup-Data-Through"] = shown(answer.freshness.data_through)
    if answer.next_cursor is not None and request.method == "GET":
        headers["Link"] = f'<{request.url.path}?{_next_query(request, answer.next_cursor)}>; rel="next"'
    if answer.next_cursor is not None:
        headers["Rollup-Next-Cursor"] = answer.next_cursor
    # The headers count too: in CSV and Parquet they alone say how fresh it is.
    digest = hashlib.sha256("\n".join([media_type, *map(str, headers.values()), ""]).encode() + body).hexdigest()
    headers["ETag"] = f'"{digest[:32]}"'
    if request.method == "GET" and _matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def _next_query(request: Request, cursor: str) -> str:
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return urlencode([*kept, ("cursor", cursor)])


def _matches(given: str | None, etag: str) -> bool:
    """If-None-Match (RFC 9110, 13.1.2): the weak comparison, or `*`."""
    tags = [tag.strip().removeprefix("W/") for tag in (given or "").split(",")]
    return "*" in tags or etag in tags
