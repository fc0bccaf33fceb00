"""Which calls with events are let in at once: so many, and so many bytes of bodies. The others are told before that.

Owns: the bound on memory under overload. A call counts with what `Content-Length` says, or as the largest body there
may be, from before its body is read until it is answered.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rollup_engine.api.problems import Problem

INGEST_PATHS: Final = frozenset({"/v1/ingest", "/v1/cloudevents", "/api/v1/events"})
INGEST_BODY_BYTES_MAX: Final = 8 << 20
CALLS_MAX: Final = 1_000
RETRY_SECONDS: Final = 1


class Admission:
    """ASGI middleware, behind authentication: what is refused here was asked with a good key."""

    def __init__(self, app: ASGIApp, bytes_max: int, calls_max: int = CALLS_MAX) -> None:
        self._app, self._bytes_max, self._calls_max = app, bytes_max, calls_max
        self._bytes = self._calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in INGEST_PATHS:
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        size = min(int(told), INGEST_BODY_BYTES_MAX) if told.isdecimal() else INGEST_BODY_BYTES_MAX
        if self._calls >= self._calls_max or self._bytes + size > self._bytes_max:
            busy = Problem(
                503,
                f"The server holds as many events as it may. Try again in {RETRY_SECONDS} s.",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
            await busy.response()(scope, receive, send)
            return
        self._calls += 1
        self._bytes += size
        try:
            await self._app(scope, receive, send)
        finally:
            self._calls -= 1
            self._bytes -= size
