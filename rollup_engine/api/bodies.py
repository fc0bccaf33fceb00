"""A limit on request bodies. Starlette's own answers in plain text, whatever the application's handlers say."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware: reading beyond so many bytes is a 413, told by `Content-Length` or counted."""

    def __init__(self, app: ASGIApp, bytes_max: Callable[[str], int]) -> None:
        """`bytes_max` of each path."""
        self._app, self._bytes_max = app, bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        read, bytes_max = 0, self._bytes_max(scope["path"])

        async def limited() -> Message:
            nonlocal read
            if told.isdecimal() and int(told) > bytes_max:
                raise HTTPException(413)
            message = await receive()
            read += len(message.get("body", b""))
            if read > bytes_max:
                raise HTTPException(413)
            return message

        await self._app(scope, limited, send)
