"""What a request is told that is still under way when the server stops: uvicorn's own 500 would be plain text."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rollup_engine.api.problems import unavailable


class Interrupted:
    """ASGI middleware: a request that is cancelled, which only a stop does, is a 503; one half sent stays cut off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            if scope["type"] != "http" or begun:
                raise
            await unavailable("The server stops, and this took too long. Try again.").response()(scope, receive, send)
