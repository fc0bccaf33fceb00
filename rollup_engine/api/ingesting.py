"""What the paths that take events have in common: the body, read once and in time, and `Idempotency-Key`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rollup_engine.api.problems import Problem
from rollup_engine.api.services import Services
from rollup_engine.runtime.api_keys import ApiKey

BODY_SECONDS_MAX: Final = 30.0
HEADER: Final = "Idempotency-Key"


async def answered(request: Request, key: ApiKey, work: Callable[[bytes], Awaitable[Response]]) -> Response:
    """The answer of `work` to the body; at most once for the same `Idempotency-Key`. Raises `Problem`."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Problem(415, f"Content-Encoding {encoding[:40]!r} is not understood. Send the body as it is.")
    services: Services = request.app.state.services
    body = await _body(request)
    name = request.headers.get(HEADER)
    if name is None:
        return await work(body)
    asked = hashlib.sha256()
    for part in (request.method, request.url.path, request.url.query, request.headers.get("content-type", "")):
        asked.update(part.encode() + b"\n")
    asked.update(body)
    return await services.replays.once(key.id, name, asked.digest(), lambda: work(body))


async def _body(request: Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            return await request.body()
    except TimeoutError as error:
        raise Problem(408, f"The body did not arrive within {BODY_SECONDS_MAX:.0f} s. Send it again.") from error
    except ClientDisconnect as error:
        raise Problem(400, "The connection ended before the body did.") from error
