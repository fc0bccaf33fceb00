"""Which calls with events are let in at once: so many, and so many bytes of bodies. The others are told before that.

Owns: the bound on memory under overload. A call counts until it is answered: with what `Content-Length` says from
before its body is read, without one with what of its body has come. No key has more than half of the bytes, so that
none shuts out all others.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
        self._bytes_of: Counter[str] = Counter()  # of these, by key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in INGEST_PATHS:
            await self._app(scope, receive, send)
            return
        key: str = scope["api_key"].id
        told = Headers(scope=scope).get("content-length", "")
        size = min(int(told), INGEST_BODY_BYTES_MAX) if told.isdecimal() else 0
        if self._calls >= self._calls_max or not self._has_room(key, size):
            await _busy().response()(scope, receive, send)
            return
        self._calls += 1
        self._count(key, size)

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            if not told.isdecimal() and (more := len(message.get("body", b""))):
                if not self._has_room(key, more):
                    raise _busy()
                size += more
                self._count(key, more)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._calls -= 1
            self._count(key, -size)

    def _has_room(self, key: str, more: int) -> bool:
        return self._bytes + more <= self._bytes_max and self._bytes_of[key] + more <= self._bytes_max // 2

    def _count(self, key: str, more: int) -> None:
        self._bytes += more
        self._bytes_of[key] += more
        if not self._bytes_of[key]:
            del self._bytes_of[key]


def _busy() -> Problem:
    return Problem(
        503,
        f"The server holds as many events as it may. Try again in {RETRY_SECONDS} s.",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )
