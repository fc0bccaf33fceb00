"""Every refusal and failure as `application/problem+json` (RFC 9457): which status, in which words.

Owns: the mapping from errors to problems. Must never show a traceback, a statement of ours, or an address.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import asyncpg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rollup_engine.errors import BrokerUnavailable, DatabaseUnavailable, IntakeUnavailable, MetricError, MetricsBusy
from rollup_engine.runtime.database import transient

MEDIA_TYPE: Final = "application/problem+json"
RETRY_SECONDS: Final = 5

log = structlog.get_logger(__name__)


class Problem(Exception):
    """What the client is told: a status, a sentence, and members of its own (RFC 9457, extension members)."""

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: object
    ) -> None:
        self.status, self.detail, self.headers, self.members = status, detail, dict(headers or {}), members
        super().__init__(detail)

    def response(self) -> Response:
        content = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }
        headers = {"Cache-Control": "no-store", **self.headers}
        return Response(json.dumps(content), self.status, headers, media_type=MEDIA_TYPE)


def unavailable(detail: str) -> Problem:
    """503: it may work soon."""
    return Problem(503, detail, headers={"Retry-After": str(RETRY_SECONDS)})


def problem_of(error: Exception) -> Problem:
    """The problem that an error is to the client."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, MetricError):
        if error.line is None or error.column is None:
            return Problem(422, str(error))
        return Problem(422, str(error), line=error.line, column=error.column)
    if isinstance(error, (MetricsBusy, IntakeUnavailable)):
        return unavailable(str(error))
    if isinstance(error, DatabaseUnavailable) or transient(error):
        return unavailable("Postgres does not answer at the moment. Try again.")
    if isinstance(error, BrokerUnavailable):
        return unavailable("Kafka does not answer at the moment. Try again.")
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        return Problem(error.status_code, _SENTENCES.get(error.status_code, str(error.detail)), headers=headers)
    return Problem(500, "Something went wrong here that should not have. The server's log has the cause.")


_SENTENCES: Final = {
    400: "The body cannot be read. Send JSON in UTF-8.",
    404: "There is nothing at this address. /openapi.json lists what there is.",
    405: "This address does not take that method. `Allow` names those it takes.",
    413: "The body is too large.",
}


def _invalid(error: RequestValidationError) -> Problem:
    errors = [{"where": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in error.errors()]
    return Problem(422, "; ".join(f"{one['where']}: {one['message']}" for one in errors) + ".", errors=errors)


async def _handle(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem.status == 500:
        log.error("a request failed", path=request.url.path, error=repr(error))
    elif problem.status == 503:
        log.warning("a request could not be answered", path=request.url.path, error=str(error) or repr(error))
    return problem.response()


def add_handlers(app: FastAPI) -> None:
    """So that no error leaves in another form."""
    for kind in (
        Problem,
        MetricError,
        DatabaseUnavailable,
        BrokerUnavailable,
        RequestValidationError,
        HTTPException,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        OSError,
        Exception,
    ):
        app.add_exception_handler(kind, _handle)
