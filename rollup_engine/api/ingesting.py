"""What the paths that take events have in common: the body, read once and in time, `Idempotency-Key`, and refusals."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rollup_engine.api.problems import Problem
from rollup_engine.api.services import Services
from rollup_engine.intake.bodies import Unreadable
from rollup_engine.runtime.api_keys import ApiKey

BODY_SECONDS_MAX: Final = 30.0
HEADER: Final = "Idempotency-Key"


async def answered(request: Request, key: ApiKey, work: Callable[[bytes], Awaitable[Response]]) -> Response:
    """The answer of `work` to the body; at most once for the same `Idempotency-Key`. Raises `Problem`; of what `work`
    raises, `Unreadable` becomes one."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Problem(415, f"Content-Encoding {encoding[:40]!r} is not understood. Send the body as it is.")
    body = await _body(request)
    try:
        return await _once(request, key, body, work)
    except Unreadable as error:
        raise Problem(400, str(error), validation_failed=[]) from error


def not_taken(members: Mapping[str, Any]) -> Response:
    """400: what `validation_failed` of these names was not taken, and all others of the call were."""
    count = len(members["validation_failed"])
    words = "1 event was" if count == 1 else f"{count} events were"
    detail = f"{words} not taken: see validation_failed. Every other event of this call was."
    return Problem(400, detail, **members).response()


async def _once(request: Request, key: ApiKey, body: bytes, work: Callable[[bytes], Awaitable[Response]]) -> Response:
    name = request.headers.get(HEADER)
    if name is None:
        return await work(body)
    asked = hashlib.sha256()
    for part in (request.method, request.url.path, request.url.query, request.headers.get("content-type", "")):
        asked.update(part.encode() + b"\n")
    asked.update(body)
    services: Services = request.app.state.services
    return await services.replays.once(key.id, name, asked.digest(), lambda: work(body))


async def _body(request: Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            return await request.body()
    except TimeoutError as error:
        raise Problem(408, f"The body did not arrive within {BODY_SECONDS_MAX:.0f} s. Send it again.") from error
    except ClientDisconnect as error:
        raise Problem(400, "The connection ended before the body did.") from error
